package clock

import (
	"os"
	"syscall"
	"time"
)

// Modes of adjtimex(2).
const (
	adjSetOffset  = 0x0100
	adjNano       = 0x2000
	adjTick       = 0x4000
	adjSingleShot = 0x8001
)

// usualTick is how many microseconds the kernel adds a hundred times a second.
const usualTick = 10_000

// Kernel is the machine's clock. Changing it takes root.
type Kernel struct{}

// Forward adds to the time in one step.
func (Kernel) Forward(amount time.Duration) error {
	change := syscall.Timex{Modes: adjSetOffset | adjNano}
	change.Time.Sec = int64(amount / time.Second)
	change.Time.Usec = int64(amount % time.Second) // nanoseconds, by adjNano
	return adjust(&change)
}

// Run makes the clock faster or slower. Whoever calls this with over has to call it again when that time is
// over: the kernel doesn't stop by itself.
func (Kernel) Run(amount, over time.Duration) error {
	tick, once := ticks(amount, over)
	if err := adjust(&syscall.Timex{Modes: adjTick, Tick: tick}); err != nil {
		return err
	}
	return adjust(&syscall.Timex{Modes: adjSingleShot, Offset: once.Microseconds()})
}

// ticks is how long a tick is to be, in microseconds, and what is left to adjtime's way.
func ticks(amount, over time.Duration) (tick int64, once time.Duration) {
	if over <= 0 {
		return usualTick, amount
	}
	return usualTick + int64(float64(amount)/float64(over)*usualTick), 0
}

func adjust(change *syscall.Timex) error {
	_, err := syscall.Adjtimex(change)
	return os.NewSyscallError("adjtimex", err)
}
