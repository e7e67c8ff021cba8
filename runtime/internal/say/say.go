// Package say writes to the enclave's console, which everything in the enclave shares: the runtime's own
// lines, and those of the services, each with a mark in front that nothing but this package can write.
package say

import (
	"fmt"
	"os"
	"sync/atomic"
)

// also is who hears the runtime's own lines besides the console.
var also atomic.Pointer[func(line []byte)]

// Also has a function called with each of the runtime's own lines, with its line feed, after it was written.
func Also(hear func(line []byte)) { also.Store(&hear) }

// elsewhere is where lines go instead of to standard error, if To has said so.
var elsewhere atomic.Pointer[os.File]

// To sends the runtime's own lines somewhere else than to standard error.
func To(file *os.File) { elsewhere.Store(file) }

// Line writes one line of the runtime to standard error, which is the console. A single write keeps it
// whole, and a line feed in an argument doesn't make it two.
func Line(format string, arguments ...any) {
	line := append(appendPrintable([]byte("cage: "), fmt.Sprintf(format, arguments...)), '\n')
	to := os.Stderr
	if other := elsewhere.Load(); other != nil {
		to = other
	}
	// A console that can't be written to leaves nobody to tell.
	_, _ = to.Write(line)
	if hear := also.Load(); hear != nil {
		(*hear)(line)
	}
}
