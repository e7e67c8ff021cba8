// Package child starts one process, waits for it, and reaps whatever else ends on the way.
package child

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// prSetChildSubreaper makes orphans of descendants the caller's children (prctl(2)).
const prSetChildSubreaper = 36

// Spec says what to start. Standard output and error are the caller's.
type Spec struct {
	Path  string // the file to execute
	Argv  []string
	Env   []string
	Stdin int // descriptor
}

// Status is how a process ended.
type Status struct{ wait syscall.WaitStatus }

// Code is the exit status, or 128 and the signal's number as shells have it.
func (s Status) Code() int {
	if s.wait.Signaled() {
		return 128 + int(s.wait.Signal())
	}
	return s.wait.ExitStatus()
}

func (s Status) String() string {
	if s.wait.Signaled() {
		return fmt.Sprintf("killed by signal %d (%v)", int(s.wait.Signal()), s.wait.Signal())
	}
	return fmt.Sprintf("exit status %d", s.wait.ExitStatus())
}

// Adopt makes this process the parent of every descendant whose own parent has ended.
func Adopt() error {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0, 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", errno)
	}
	return nil
}

// Signals returns a channel of the signals sent to this process. From then on none of them ends it.
func Signals() <-chan os.Signal {
	received := make(chan os.Signal, 64)
	signal.Notify(received)
	return received
}

// Ends returns a channel that has something whenever children may have ended. It is to be asked for before
// there is a child, so that no end goes unnoticed; one pending signal stands for many.
func Ends() <-chan os.Signal {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGCHLD)
	return ends
}

// Start starts the process in a session of its own and returns its number.
func Start(spec Spec) (int, error) {
	pid, err := syscall.ForkExec(spec.Path, spec.Argv, &syscall.ProcAttr{
		Env:   spec.Env,
		Files: []uintptr{uintptr(spec.Stdin), 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, &os.PathError{Op: "start", Path: spec.Path, Err: err}
	}
	return pid, nil
}

// Run starts the process and returns when it has ended. Every child of the caller that ends meanwhile is
// reaped, so no other code of the program may wait for a process.
func Run(spec Spec) (Status, error) {
	ends := Ends()
	pid, err := Start(spec)
	if err != nil {
		return Status{}, err
	}
	for {
		<-ends
		ended, _, err := Reap()
		if err != nil {
			return Status{}, err
		}
		if status, found := ended[pid]; found {
			return status, nil
		}
	}
}

// Reap collects every child that has ended, by its number, and says whether there are others. A process
// number is given back by this call and by nothing else: until then it may be sent signals.
func Reap() (ended map[int]Status, others bool, err error) {
	ended = map[int]Status{}
	for {
		var wait syscall.WaitStatus
		switch found, err := syscall.Wait4(-1, &wait, syscall.WNOHANG, nil); {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			return ended, false, nil
		case err != nil:
			return ended, false, os.NewSyscallError("wait4", err)
		case found == 0:
			return ended, true, nil
		default:
			ended[found] = Status{wait}
		}
	}
}
