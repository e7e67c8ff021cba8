package relay

import (
	"testing"
	"time"
)

func TestAThreadLooksOnlyWhereThatPaysOff(t *testing.T) {
	s := newSpinner(20 * time.Microsecond)
	looks := 0
	look := func(found int) bool {
		before := looks
		s.resume = time.Time{} // this machine may be busy
		s.look(func() int { looks++; return found })
		return looks > before
	}
	if !look(1) {
		t.Error("it does not look at first")
	}
	for range 1000 {
		look(0)
	}
	tried := 0
	for range 10 * retry {
		if look(0) {
			tried++
		}
	}
	if tried > 10 {
		t.Errorf("%d of %d times it looked, without success", tried, 10*retry)
	}
	for range 2 * retry * maxScore {
		look(1)
	}
	if !look(1) {
		t.Error("success does not bring it back")
	}
}

// Whoever yields on a busy machine waits for the end of another's time slice.
func TestAThreadDoesNotYieldToThoseWhoCompute(t *testing.T) {
	s := newSpinner(time.Hour)
	s.resume = time.Now().Add(time.Hour)
	if s.yield() {
		t.Error("it yields")
	}
	if s.look(func() int { return 1 }) != 0 {
		t.Error("it looks")
	}
}
