// Package say writes the runtime's own lines to standard error, which is the enclave's console.
package say

import (
	"fmt"
	"os"
)

// Line writes one line, marked so that it can be told from the app's. A single write keeps it whole.
func Line(format string, arguments ...any) {
	text := fmt.Sprintf("cage: "+format+"\n", arguments...)
	// A console that can't be written to leaves nobody to tell.
	_, _ = os.Stderr.WriteString(text)
}
