package relay

import (
	"sync"
	"syscall"
)

const (
	pipeSize = 1 << 20 // bytes; unprivileged users get as much without asking
	maxPipes = 64      // in use at once: their contents are memory
	maxSpare = 8
)

type pipe struct {
	read, write int
	holds       int // bytes
}

// pipes hands out pipes to directions that move much.
type pipes struct {
	mutex sync.Mutex
	spare []*pipe
	used  int
}

// get returns nil when there are enough already.
func (p *pipes) get() *pipe {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.used == maxPipes {
		return nil
	}
	if last := len(p.spare) - 1; last >= 0 {
		found := p.spare[last]
		p.spare = p.spare[:last]
		p.used++
		return found
	}
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil
	}
	const setPipeSize = 1031 // F_SETPIPE_SZ; a smaller pipe works too
	_, _, _ = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(ends[1]), setPipeSize, pipeSize)
	p.used++
	return &pipe{read: ends[0], write: ends[1]}
}

// put takes a pipe back. One that isn't empty is closed.
func (p *pipes) put(back *pipe) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.used--
	if back.holds == 0 && len(p.spare) < maxSpare {
		p.spare = append(p.spare, back)
		return
	}
	back.close()
}

func (p *pipes) close() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, each := range p.spare {
		each.close()
	}
	p.spare = nil
}

func (p *pipe) close() {
	_ = syscall.Close(p.read)
	_ = syscall.Close(p.write)
}
