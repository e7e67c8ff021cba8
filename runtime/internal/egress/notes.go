package egress

import (
	"sync"
	"time"
)

// notes writes lines to the log that the app can cause, and so not all of them: one of a kind a minute, and
// a few of all kinds. What was left out is counted.
type notes struct {
	now  func() time.Time
	line func(format string, arguments ...any)

	mutex   sync.Mutex
	last    map[string]time.Time // by kind
	tokens  float64
	filled  time.Time // when tokens was right
	skipped int
}

const (
	sameAfter = time.Minute
	maxKinds  = 1024
	maxTokens = 50 // lines at once
	perSecond = 2  // and lasting
)

func newNotes(now func() time.Time, line func(string, ...any)) *notes {
	return &notes{now: now, line: line, last: map[string]time.Time{}, tokens: maxTokens, filled: now()}
}

// say writes a line, unless there was one of that kind a short time ago or there were too many.
func (n *notes) say(kind, format string, arguments ...any) {
	skipped, ok := n.admit(kind)
	if !ok {
		return
	}
	if skipped > 0 {
		format, arguments = format+" (left out before: %d)", append(arguments, skipped)
	}
	n.line(format, arguments...)
}

func (n *notes) admit(kind string) (skipped int, ok bool) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	now := n.now()
	n.tokens = min(maxTokens, n.tokens+perSecond*now.Sub(n.filled).Seconds())
	n.filled = now
	last, known := n.last[kind]
	if n.tokens < 1 || known && now.Sub(last) < sameAfter {
		n.skipped++
		return 0, false
	}
	if !known && len(n.last) >= maxKinds {
		clear(n.last)
	}
	n.last[kind] = now
	n.tokens--
	skipped, n.skipped = n.skipped, 0
	return skipped, true
}
