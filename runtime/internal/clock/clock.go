// Package clock keeps the enclave's time of day right, without ever setting it back.
//
// The machine that an enclave runs on may be asked for the time, but not trusted with it: a certificate that
// has expired would be valid again. So the time comes from the hypervisor where the kernel has a clock of it
// (ptp_kvm); else from the parent, within bounds: not before the cage was built, and not far from what the
// NSM's last document says; and where the parent has none to give, from that document.
//
// A clock that is late is set forward once, before the app starts. Whatever is wrong later, and a clock that
// is early, is made up for by a clock that runs faster or slower, so that for the app time passes at all times.
package clock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/say"
)

// Reading is a comparison of the clock with a source.
type Reading struct {
	Source string        // "ptp", "parent" or "nsm"
	Offset time.Duration // what the clock lacks: above 0 it is late
	Margin time.Duration // how far the offset may be from the truth, as far as the way there is concerned
}

// Clock is the time of day, which a program may change.
type Clock interface {
	// Forward adds to the time at once. The amount is above 0.
	Forward(amount time.Duration) error
	// Run has the clock make up for an amount bit by bit, in place of what it was making up for: over so much
	// time, or where over is 0 as slowly as the kernel does it, for small amounts.
	Run(amount, over time.Duration) error
}

// Options of a Keeper.
type Options struct {
	Clock   Clock                                      // nil: it is somebody else's, and only compared
	PTP     func() (Reading, error)                    // nil where the kernel has no clock of the hypervisor
	Parent  func(ctx context.Context) (Reading, error) // asks the parent
	NSM     func() (Reading, error)                    // nil where there is no NSM
	Epoch   time.Time                                  // when the cage was built
	Forward bool                                       // no app has seen the time yet
	Metrics *metrics.Registry
}

// Keeper checks the clock and corrects it.
type Keeper struct {
	options Options
	offset  *metrics.Level
	checks  *metrics.Counter
	said    string // the last problem, so that it is not said every few minutes
	runs    bool   // the clock may be making up for something
}

// New returns a Keeper. It does nothing until Check or Keep is called, from one goroutine at a time.
func New(options Options) *Keeper {
	return &Keeper{
		options: options,
		runs:    true, // a Keeper before this one may have left it so
		offset:  options.Metrics.Gauge("cage_clock_offset_seconds", "What the clock lacked at the last check.").With(),
		checks:  options.Metrics.Counter("cage_clock_checks_total", "Checks of the clock, by what it was compared with.", "source"),
	}
}

// Check compares the clock once and corrects it. It returns when to check next.
func (k *Keeper) Check(ctx context.Context) (time.Duration, error) {
	reading, err := k.read(ctx)
	if err != nil {
		k.checks.Inc("none")
		return retry, err
	}
	k.checks.Inc(reading.Source)
	k.offset.Set(reading.Offset.Seconds())
	if k.options.Clock == nil {
		return period, nil
	}
	correction := Decide(reading, k.options.Forward)
	if err := k.apply(correction); err != nil {
		return retry, fmt.Errorf("correct the clock by %v: %w", reading.Offset, err)
	}
	k.options.Forward = false
	if correction.Forward > 0 || correction.Over > 0 {
		say.Line("data: clock: it lacks %v by %s: %v", reading.Offset.Round(time.Microsecond), reading.Source, correction)
	}
	return correction.Next, nil
}

func (k *Keeper) apply(correction Correction) error {
	if correction.Forward > 0 {
		if err := k.options.Clock.Forward(correction.Forward); err != nil {
			return err
		}
	}
	if correction.Run == 0 && !k.runs {
		return nil
	}
	k.runs = correction.Run != 0
	return k.options.Clock.Run(correction.Run, correction.Over)
}

// Started says that the app has seen the time, though it was never checked: it is not to be set any more.
func (k *Keeper) Started() { k.options.Forward = false }

// Keep checks the clock again and again until the context ends. After is when to begin.
func (k *Keeper) Keep(ctx context.Context, after time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(after):
		}
		next, err := k.Check(ctx)
		if ctx.Err() != nil {
			return
		}
		k.Complain(err)
		after = next
	}
}

// Complain says an error, unless it was the last that was said.
func (k *Keeper) Complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != k.said && text != "" {
		say.Line("data: clock: %s", text)
	}
	k.said = text
}

// read asks the sources, the most trustworthy first.
func (k *Keeper) read(ctx context.Context) (Reading, error) {
	var failed error
	if k.options.PTP != nil {
		reading, err := k.options.PTP()
		if err == nil {
			err = notBefore(reading, time.Now(), k.options.Epoch)
		}
		if err == nil {
			return reading, nil
		}
		failed = fmt.Errorf("ptp: %w", err)
	}
	var witness *Reading
	if k.options.NSM != nil {
		reading, err := k.options.NSM()
		if err != nil {
			// Without it nobody could tell whether the parent's time is right.
			return Reading{}, errors.Join(failed, fmt.Errorf("nsm: %w", err))
		}
		witness = &reading
	}
	reading, err := k.options.Parent(ctx)
	if err == nil {
		err = Plausible(reading, witness, time.Now(), k.options.Epoch)
	}
	if err == nil {
		return reading, nil
	}
	failed = errors.Join(failed, fmt.Errorf("parent: %w", err))
	if witness != nil && notBefore(*witness, time.Now(), k.options.Epoch) == nil {
		k.Complain(failed)
		return *witness, nil
	}
	return Reading{}, failed
}
