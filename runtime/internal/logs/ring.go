// Package logs keeps the last lines of the enclave's log for whoever may read it.
//
// The services' log processes send each line that goes to the console to a socket of the data service as well,
// if there is one: the cage's settings say so. They never wait for it, and nothing fails without it.
package logs

import (
	"context"
	"fmt"
	"io"
	"sync"
)

const (
	// Size is how many bytes of lines are kept.
	Size = 1 << 20

	// MaxLine is how long a line may be, with its line feed. It is that of lines on the console.
	MaxLine = 4096

	// overhead is what a line takes besides its bytes, so that short ones are bounded as well.
	overhead = 32
)

// Ring keeps the last lines that were added, up to a size. Its methods may be called from anywhere.
type Ring struct {
	mutex   sync.Mutex
	size    int
	used    int
	lines   []string
	first   uint64        // the number of lines[0]; lines are counted from 0
	changed chan struct{} // closed at the next line
}

// New returns a Ring for so many bytes.
func New(size int) *Ring {
	return &Ring{size: size, changed: make(chan struct{})}
}

// Add takes a line, with a line feed at its end or without. What is longer than MaxLine is cut.
func (r *Ring) Add(line []byte) {
	if size := len(line); size > 0 && line[size-1] == '\n' {
		line = line[:size-1]
	}
	kept := string(line[:min(len(line), MaxLine-1)]) + "\n"
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.lines = append(r.lines, kept)
	r.used += len(kept) + overhead
	for r.used > r.size && len(r.lines) > 1 {
		r.used -= len(r.lines[0]) + overhead
		r.lines[0] = "" // or it lives as long as the array
		r.lines = r.lines[1:]
		r.first++
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// batch is how many lines are copied at a time.
const batch = 256

// after returns some lines from a number on, the number of the next one, how many were gone already, and
// what is closed when there are more.
func (r *Ring) after(number uint64) (lines []string, next, lost uint64, changed <-chan struct{}) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if number < r.first {
		lost = r.first - number
		number = r.first
	}
	from := min(int(number-r.first), len(r.lines))
	lines = append(lines, r.lines[from:min(from+batch, len(r.lines))]...)
	return lines, number + uint64(len(lines)), lost, r.changed
}

// CopyTo writes all lines that are kept, and, if it is to follow, those that come until the context ends or
// a write fails. Flush is called when there are no more for now. Whoever reads too slowly is told how many
// lines are missing.
func (r *Ring) CopyTo(ctx context.Context, to io.Writer, follow bool, flush func() error) error {
	r.mutex.Lock()
	number := r.first
	r.mutex.Unlock()
	for {
		lines, next, lost, changed := r.after(number)
		number = next
		if lost > 0 {
			if _, err := fmt.Fprintf(to, "cage: %d lines are missing here\n", lost); err != nil {
				return err
			}
		}
		for _, line := range lines {
			if _, err := io.WriteString(to, line); err != nil {
				return err
			}
		}
		if len(lines) > 0 {
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
