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

// Run starts the process in a session of its own and returns when it has ended. Signals from forward are
// passed on to it; nil forwards none. Every child of the caller that ends meanwhile is reaped, so no other
// code of the program may wait for a process.
func Run(spec Spec, forward <-chan os.Signal) (Status, error) {
	// Asked for before there is a child, so that no end goes unnoticed; one pending signal stands for many.
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGCHLD)
	defer signal.Stop(ends)
	pid, err := syscall.ForkExec(spec.Path, spec.Argv, &syscall.ProcAttr{
		Env:   spec.Env,
		Files: []uintptr{uintptr(spec.Stdin), 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return Status{}, &os.PathError{Op: "start", Path: spec.Path, Err: err}
	}
	// One loop both reaps and signals: a process number is never used after it was given back.
	for {
		select {
		case <-ends:
			if status, ended, err := reap(pid); ended || err != nil {
				return status, err
			}
		case received := <-forward:
			if number, ok := received.(syscall.Signal); ok && !ours(number) {
				// Fails only for a process that has just ended, which is about to be noticed.
				_ = syscall.Kill(pid, number)
			}
		}
	}
}

// ours reports whether a signal tells this process something and isn't meant for the child: the end of a
// child, a broken pipe, terminal access, and what the Go runtime uses to interrupt its own threads.
func ours(number syscall.Signal) bool {
	switch number {
	case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGURG:
		return true
	}
	return false
}

// reap collects every child that has ended and says whether pid was one of them.
func reap(pid int) (status Status, ended bool, err error) {
	for {
		var wait syscall.WaitStatus
		switch found, err := syscall.Wait4(-1, &wait, syscall.WNOHANG, nil); {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD) && ended:
			return status, true, nil
		case err != nil:
			return Status{}, false, os.NewSyscallError("wait4", err)
		case found == 0:
			return status, ended, nil
		case found == pid:
			status, ended = Status{wait}, true
		}
	}
}
