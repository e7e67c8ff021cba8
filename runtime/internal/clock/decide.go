package clock

import (
	"fmt"
	"slices"
	"time"
)

const (
	period = 5 * time.Minute  // between checks of a clock that is right
	retry  = 10 * time.Second // after a check that failed

	// tolerance is how far a parent's time may be from the NSM's.
	tolerance = 10 * time.Second

	// good is what is left as it is: the way to the source takes longer.
	good = 100 * time.Microsecond

	// small is what the kernel makes up for in a few minutes by itself, at 500 millionths (adjtime(3)).
	small = 50 * time.Millisecond

	// fastest is how much faster or slower the clock may be made: a tenth, the limit of adjtimex(2).
	fastest = 10
)

// Correction is what to do about a clock. Run and Over are as Clock's.
type Correction struct {
	Forward time.Duration
	Run     time.Duration
	Over    time.Duration
	Next    time.Duration // when to look again
}

func (c Correction) String() string {
	switch {
	case c.Forward > 0:
		return "set forward"
	case c.Over > 0:
		return fmt.Sprintf("made up for by %v in %v", c.Run.Round(time.Millisecond), c.Over)
	default:
		return "left to the kernel"
	}
}

// Decide says how to correct a clock. Forward is whether it may be set forward.
func Decide(reading Reading, forward bool) Correction {
	offset := reading.Offset
	switch size := offset.Abs(); {
	case size <= good:
		return Correction{Next: period}
	case size <= small:
		return Correction{Run: offset, Next: period}
	case forward && offset > 0:
		return Correction{Forward: offset, Next: period}
	default:
		// One period at a time: then it is compared anew.
		run := min(size, period/fastest)
		if offset < 0 {
			run = -run
		}
		return Correction{Run: run, Over: period, Next: period}
	}
}

// Plausible says what is wrong with the parent's reading, taken at a time of the own clock. The witness is
// the NSM's, if there is one.
func Plausible(reading Reading, witness *Reading, now, epoch time.Time) error {
	if err := notBefore(reading, now, epoch); err != nil {
		return err
	}
	if witness == nil {
		return nil
	}
	apart := (reading.Offset - witness.Offset).Abs()
	if allowed := tolerance + reading.Margin + witness.Margin; apart > allowed {
		return fmt.Errorf("its time is %v from the NSM's, at most %v are allowed",
			apart.Round(time.Millisecond), allowed.Round(time.Millisecond))
	}
	return nil
}

func notBefore(reading Reading, now, epoch time.Time) error {
	if then := now.Add(reading.Offset); then.Before(epoch) {
		return fmt.Errorf("the time is %v, before the cage was built (%v)",
			then.UTC().Format(time.RFC3339), epoch.UTC().Format(time.RFC3339))
	}
	return nil
}

// compare makes a reading of a source's time and of the own clock's, before and after it was asked. The
// difference of the latter is to be of the monotonic clock, so that a change in between does no harm.
func compare(source string, theirs, before, after time.Time) Reading {
	trip := after.Sub(before)
	// Both without their monotonic part: what is compared is the time of day.
	middle := after.Round(0).Add(-trip / 2)
	return Reading{Source: source, Offset: theirs.Sub(middle), Margin: trip / 2}
}

// median is the reading in the middle, by offset: one that was held up on the way changes nothing.
func median(readings []Reading) Reading {
	sorted := slices.SortedFunc(slices.Values(readings), func(a, b Reading) int {
		return int(a.Offset.Microseconds() - b.Offset.Microseconds())
	})
	return sorted[len(sorted)/2]
}
