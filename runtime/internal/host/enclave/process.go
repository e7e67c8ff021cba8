package enclave

import (
	"context"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// patience is how long a program may take to end when it is asked to.
const patience = 5 * time.Second

// process is a child that ends with this program, whatever ends this program.
type process struct {
	command *exec.Cmd
	done    chan struct{}
	err     error // after done
}

// start starts a command. It is in a process group of its own: the terminal's interrupts are for this program, which
// ends its children in order.
func start(command *exec.Cmd) (*process, error) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{command: command, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal comes when the thread ends that started the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := command.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = command.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// stop asks the process to end, and makes it when it doesn't.
func (p *process) stop(ctx context.Context) {
	select {
	case <-p.done:
		return
	default:
	}
	// The process isn't waited for by anybody else, so its number is still its own.
	_ = p.command.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	_ = p.command.Process.Kill()
	<-p.done
}
