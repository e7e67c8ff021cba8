// Package journal writes the lines that cage-host says about itself and its enclave. A line is one event, in one
// write, whatever others put into it; time stamps are added by whoever collects them.
package journal

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxLine is how many bytes of a line are kept.
const maxLine = 4000

// Journal writes lines to one place. It may be used from everywhere at once.
type Journal struct {
	mutex sync.Mutex
	to    io.Writer
}

// New returns a Journal that writes to a file or pipe.
func New(to io.Writer) *Journal { return &Journal{to: to} }

// Standard writes to standard error.
var Standard = New(os.Stderr)

// Line writes one line.
func (j *Journal) Line(format string, arguments ...any) {
	j.Named("host", fmt.Sprintf(format, arguments...))
}

// Named writes one line of somebody else, whose name is put in front of it.
func (j *Journal) Named(name, text string) {
	if len(text) > maxLine {
		text = text[:maxLine] + "…"
	}
	line := name + ": " + Printable(text) + "\n"
	j.mutex.Lock()
	defer j.mutex.Unlock()
	// A journal that can't be written to leaves nobody to tell.
	_, _ = io.WriteString(j.to, line)
}

// Printable returns a text with everything escaped that isn't shown as itself: control characters, characters of
// no width or of another direction, bytes that are no UTF-8.
func Printable(text string) string {
	clean := true
	for _, character := range text {
		if character == utf8.RuneError || character != '\t' && !unicode.IsGraphic(character) {
			clean = false
			break
		}
	}
	if clean {
		return text
	}
	var shown strings.Builder
	for len(text) > 0 {
		character, size := utf8.DecodeRuneInString(text)
		switch {
		case character == utf8.RuneError && size == 1:
			fmt.Fprintf(&shown, `\x%02x`, text[0])
		case character == '\t' || unicode.IsGraphic(character):
			shown.WriteString(text[:size])
		default:
			quoted := strconv.QuoteRune(character)
			shown.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return shown.String()
}

// Limited writes lines about events that others cause, so that they can't fill the disk: at most a burst, then one
// for each interval. How many weren't written is said with the next one that is.
type Limited struct {
	journal  *Journal
	burst    int
	interval time.Duration

	mutex   sync.Mutex
	credit  float64
	last    time.Time
	dropped int
}

// Limit returns a Limited with a burst of 20 lines and one for each second after it.
func (j *Journal) Limit() *Limited {
	return &Limited{journal: j, burst: 20, interval: time.Second, credit: 20}
}

// Line writes one line, or counts it.
func (l *Limited) Line(format string, arguments ...any) {
	dropped, goes := l.take(time.Now())
	if !goes {
		return
	}
	text := fmt.Sprintf(format, arguments...)
	if dropped > 0 {
		text += fmt.Sprintf(" (and %d such lines before that were left out)", dropped)
	}
	l.journal.Line("%s", text)
}

func (l *Limited) take(now time.Time) (dropped int, goes bool) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if !l.last.IsZero() {
		gained := now.Sub(l.last).Seconds() / l.interval.Seconds()
		l.credit = min(float64(l.burst), l.credit+max(0, gained))
	}
	l.last = now
	if l.credit < 1 {
		l.dropped++
		return 0, false
	}
	l.credit--
	dropped, l.dropped = l.dropped, 0
	return dropped, true
}

// Write writes whole lines of somebody else, such as an enclave's console, as they are.
func (j *Journal) Write(lines []byte) (int, error) {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	return j.to.Write(lines)
}
