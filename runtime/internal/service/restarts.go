// Package service is what a runit service of a cage has besides its program: starts that wait longer the
// more often it fails, and words on the console for how it ended.
//
// runsv runs ./run and ./finish as programs of their own, with the service's folder as working directory.
// What the next start has to know is in a file there.
package service

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"
)

const (
	firstDelay = time.Second
	maxDelay   = 30 * time.Second
	wellAfter  = 10 * time.Second // a service that ran for so long is as good as one that never failed
)

// file is in the service's folder: ./run and ./finish have that as working directory.
const file = "restarts"

// restarts is what a service's starts have to know of each other. Times are those of clock.
type restarts struct {
	pid     int           // of ./run; 0: ./finish has seen its end
	started time.Duration // 0: it is waiting
	delay   time.Duration // the last one
	due     time.Duration // not to be started before
	count   int           // how often it ended when it was to run
}

// next is how long to wait before the start after one that ended by itself.
func (r restarts) next(now time.Duration) time.Duration {
	if r.delay == 0 || r.started != 0 && now-r.started >= wellAfter {
		return firstDelay
	}
	return min(2*r.delay, maxDelay)
}

// load reads what save wrote. A file that isn't there or was cut off by the end of everything means a
// service that was never started.
func load() restarts { return loadFrom(file) }

func loadFrom(path string) (r restarts) {
	text, err := os.ReadFile(path)
	if err != nil {
		return restarts{}
	}
	_, err = fmt.Sscanf(string(text), "%d %d %d %d %d end\n", &r.pid, &r.started, &r.delay, &r.due, &r.count)
	if err != nil || r.pid < 0 || r.started < 0 || r.delay < 0 || r.delay > maxDelay || r.count < 0 {
		return restarts{}
	}
	return r
}

func (r restarts) save() error {
	return os.WriteFile(file, fmt.Appendf(nil, "%d %d %d %d %d end\n", r.pid, r.started, r.delay, r.due, r.count), 0o600)
}

// Restarts is how often a service ended when it was to run. The folder is the service's.
func Restarts(folder string) int { return loadFrom(filepath.Join(folder, file)).count }

// clock is CLOCK_MONOTONIC: the same for all processes, and setting the time of day doesn't move it.
func clock() time.Duration {
	const monotonic = 1
	var now syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		panic(os.NewSyscallError("clock_gettime", errno)) // the kernel has this clock
	}
	return time.Duration(now.Nano())
}
