package relay

import "time"

// spinner looks for events for a while before a thread sleeps. Whether it does depends on how often that found
// something lately, so that traffic in which nothing follows soon costs no time of the processor; and on whether
// anybody else wants the processor: who yields it then gets it back much later than who sleeps and is woken.
type spinner struct {
	span   time.Duration
	score  int // hits of late, less misses
	skips  int
	resume time.Time // not before
}

const (
	maxScore = 32
	missCost = 4
	retry    = 64 // sleeps after which a spinner without success tries again

	contended = 100 * time.Microsecond // a yield that takes longer has found somebody who computes
	pause     = time.Second            // how long there are no yields then
)

func newSpinner(span time.Duration) spinner { return spinner{span: span, score: maxScore / 2} }

// yield lets others have the processor, for whoever has something to send needs it. It reports whether that is a
// good idea.
func (s *spinner) yield() bool {
	start := time.Now()
	if start.Before(s.resume) {
		return false
	}
	yield()
	if end := time.Now(); end.Sub(start) > contended {
		s.resume = end.Add(pause)
		return false
	}
	return true
}

// look calls poll until it returns something or the time is over.
func (s *spinner) look(poll func() int) int {
	if s.span <= 0 {
		return 0
	}
	if s.score <= 0 {
		if s.skips++; s.skips < retry {
			return 0
		}
		s.skips = 0
	}
	for start := time.Now(); time.Since(start) < s.span; {
		if !s.yield() {
			return 0
		}
		if count := poll(); count > 0 {
			s.score = min(s.score+1, maxScore)
			return count
		}
	}
	s.score = max(s.score-missCost, 0)
	return 0
}
