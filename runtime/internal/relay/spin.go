package relay

import "time"

// spinner looks for events for a while before a thread sleeps. Whether it does depends on how often that found
// something lately, so that traffic in which nothing follows soon costs no time of the processor.
type spinner struct {
	span  time.Duration
	score int // hits of late, less misses
	skips int
}

const (
	maxScore = 32
	missCost = 4
	retry    = 64 // sleeps after which a spinner without success tries again
)

func newSpinner(span time.Duration) spinner { return spinner{span: span, score: maxScore / 2} }

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
		// Whoever has something to send needs the processor.
		yield()
		if count := poll(); count > 0 {
			s.score = min(s.score+1, maxScore)
			return count
		}
	}
	s.score = max(s.score-missCost, 0)
	return 0
}
