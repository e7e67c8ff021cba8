package relay

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	bufferSize = 64 << 10
	maxEvents  = 256

	// gather is how often others get the processor before a thread looks for more of a large stream: large
	// pieces move at less cost than small ones.
	gather = 4

	input  = syscall.EPOLLIN | syscall.EPOLLRDHUP
	gone   = syscall.EPOLLHUP | syscall.EPOLLERR
	edges  = 1 << 31 // EPOLLET
	wanted = input | syscall.EPOLLOUT | edges
)

// loop is one thread and the pairs that it serves. It alone touches them once they are in its table.
type loop struct {
	relay  *Relay
	epoll  int
	wake   int // an eventfd, to be told of what follows
	spin   spinner
	buffer []byte
	bulk   bool // something was spliced since the last wait

	mutex    sync.Mutex
	sides    map[int32]*side // by descriptor
	resetFor error           // reset all pairs, for this reason
	ending   bool
}

func newLoop(r *Relay, spin time.Duration) (*loop, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wake, err := newEvent()
	if err == nil {
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(wake)}
		err = os.NewSyscallError("epoll_ctl", syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, wake, &event))
	}
	if err != nil {
		_ = syscall.Close(epoll)
		return nil, err
	}
	return &loop{
		relay:  r,
		epoll:  epoll,
		wake:   wake,
		spin:   newSpinner(spin),
		buffer: make([]byte, bufferSize),
		sides:  map[int32]*side{},
	}, nil
}

// add hands a pair to the loop: the first events tell of it.
func (l *loop) add(p *pair) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.ending {
		return ErrClosed
	}
	sides := p.sides()
	for index, each := range sides {
		l.sides[int32(each.descriptor)] = each
		event := syscall.EpollEvent{Events: wanted & (1<<32 - 1), Fd: int32(each.descriptor)}
		if err := syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, each.descriptor, &event); err != nil {
			for _, added := range sides[:index+1] {
				delete(l.sides, int32(added.descriptor))
			}
			// Closing the descriptors takes them out of the epoll instance.
			return os.NewSyscallError("epoll_ctl", err)
		}
	}
	return nil
}

func (l *loop) resetAll(why error) {
	l.mutex.Lock()
	l.resetFor = why
	l.mutex.Unlock()
	l.rouse()
}

func (l *loop) end() {
	l.mutex.Lock()
	l.ending = true
	l.mutex.Unlock()
	l.rouse()
}

func (l *loop) rouse() {
	_, _ = syscall.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (l *loop) run() {
	// The thread is waited on by nobody else: the Go scheduler gives it the processor as the kernel does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]syscall.EpollEvent, maxEvents)
	var again []*pair // those that have more to do at once
	for {
		count := l.wait(events, len(again) > 0)
		ready := again
		again = nil
		roused := false
		l.mutex.Lock()
		for _, event := range events[:count] {
			if int(event.Fd) == l.wake {
				roused = true
				continue
			}
			// Its pair may have ended with an event before this one.
			found, there := l.sides[event.Fd]
			if !there {
				continue
			}
			found.readable = found.readable || event.Events&(input|gone) != 0
			found.writable = found.writable || event.Events&(syscall.EPOLLOUT|gone) != 0
			found.closing = found.closing || event.Events&(syscall.EPOLLRDHUP|gone) != 0
			found.hungUp = found.hungUp || event.Events&gone != 0
			if !found.pair.queued {
				found.pair.queued = true
				ready = append(ready, found.pair)
			}
		}
		l.mutex.Unlock()
		for _, each := range ready {
			if each.finished {
				continue
			}
			each.queued = false
			more, over, err := each.step(l)
			if over {
				l.finish(each, err)
			} else if more {
				each.queued = true
				again = append(again, each)
			}
		}
		if roused && l.obey() {
			break
		}
	}
	_ = syscall.Close(l.wake)
	_ = syscall.Close(l.epoll)
}

// wait returns how many events there are, at once if something else is to be done.
func (l *loop) wait(events []syscall.EpollEvent, busy bool) int {
	if l.bulk {
		l.bulk = false
		for range gather {
			if !l.spin.yield() {
				break
			}
		}
	}
	count, err := poll(l.epoll, events)
	if count > 0 || busy {
		return max(count, 0)
	}
	if err == nil || errors.Is(err, syscall.EINTR) {
		if count := l.spin.look(func() int {
			count, _ := poll(l.epoll, events)
			return count
		}); count > 0 {
			return count
		}
		count, err = syscall.EpollWait(l.epoll, events, -1)
	}
	if err != nil {
		return 0
	}
	return count
}

// obey does what the loop was roused for, and reports whether it is to end.
func (l *loop) obey() bool {
	var drained [8]byte
	_, _ = syscall.Read(l.wake, drained[:])
	l.mutex.Lock()
	why, ending := l.resetFor, l.ending
	l.resetFor = nil
	if ending {
		why = ErrClosed
	}
	var left []*pair
	if why != nil {
		for _, each := range l.sides {
			if each == each.pair.ways[0].from {
				left = append(left, each.pair)
			}
		}
	}
	l.mutex.Unlock()
	for _, each := range left {
		l.finish(each, why)
	}
	return ending
}

func (l *loop) finish(p *pair, err error) {
	p.finished = true
	l.mutex.Lock()
	for _, each := range p.sides() {
		delete(l.sides, int32(each.descriptor))
	}
	l.mutex.Unlock()
	for index := range p.ways {
		l.discard(&p.ways[index])
	}
	if err != nil {
		p.reset()
	} else {
		p.close()
	}
	l.relay.finished(p.done, p.result(err))
}

func (l *loop) acquire(d *direction) bool {
	if d.pipe == nil {
		d.pipe = l.relay.pipes.get()
	}
	return d.pipe != nil
}

// release gives back the pipe of a direction that moves little again.
func (l *loop) release(d *direction) {
	if d.pipe != nil && !d.large {
		l.discard(d)
	}
}

func (l *loop) discard(d *direction) {
	if d.pipe != nil {
		l.relay.pipes.put(d.pipe)
		d.pipe = nil
	}
}
