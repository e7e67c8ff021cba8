// Package say writes to the enclave's console, which everything in the enclave shares: the runtime's own
// lines, and those of the services, each with a mark in front that nothing but this package can write.
package say

import (
	"fmt"
	"os"
)

// Line writes one line of the runtime to standard error, which is the console. A single write keeps it
// whole, and a line feed in an argument doesn't make it two.
func Line(format string, arguments ...any) {
	text := appendPrintable([]byte("cage: "), fmt.Sprintf(format, arguments...))
	// A console that can't be written to leaves nobody to tell.
	_, _ = os.Stderr.Write(append(text, '\n'))
}
