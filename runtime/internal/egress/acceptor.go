package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// acceptor accepts connections at any number of addresses with one thread: there can be tens of thousands of
// listeners, most of them for names that were asked for once.
//
// Each listener has only so many connections under way at a time, counted until done is called; the next ones
// wait in the kernel. So a destination that takes long to open holds up no other.
type acceptor struct {
	limit  int // listeners
	handle func(conn *net.TCPConn, done func())
	notes  *notes
	epoll  int
	wake   [2]int        // a pipe that ends run
	ended  chan struct{} // closed when all descriptors are

	mutex     sync.Mutex
	listeners map[int32]*listener // by descriptor
	closed    bool
	running   bool
}

type listener struct {
	descriptor int
	family     int
	underWay   int  // connections whose done wasn't called
	armed      bool // epoll reports the next connection
}

const (
	maxUnderWay = 512  // of a listener
	backlog     = 4096 // connections that may wait to be accepted; net.core.somaxconn bounds it, too
	maxEvents   = 128
	pauseAfter  = 50 * time.Millisecond // when there is no memory or descriptor for a connection
)

var (
	errClosed       = errors.New("nothing is listened on any more")
	errTooMany      = errors.New("as many addresses and ports as there may be are listened on")
	errShortOfStuff = errors.New("no memory or descriptors")
)

func newAcceptor(limit int, handle func(*net.TCPConn, func()), notes *notes) (*acceptor, error) {
	a := &acceptor{limit: limit, handle: handle, notes: notes, ended: make(chan struct{}), listeners: map[int32]*listener{}}
	var err error
	if a.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.Pipe2(a.wake[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		_ = syscall.Close(a.epoll)
		return nil, os.NewSyscallError("pipe2", err)
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(a.wake[0])}
	if err := syscall.EpollCtl(a.epoll, syscall.EPOLL_CTL_ADD, a.wake[0], &event); err != nil {
		a.close()
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return a, nil
}

// listen adds an address and port. It may be called while run runs.
func (a *acceptor) listen(where netip.AddrPort) error {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.closed {
		return errClosed
	}
	if len(a.listeners) >= a.limit {
		return errTooMany
	}
	descriptor, family, err := bind(where)
	if err != nil {
		return fmt.Errorf("listen at %s: %w", where, err)
	}
	l := &listener{descriptor: descriptor, family: family}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | epollOneShot, Fd: int32(descriptor)}
	if err := syscall.EpollCtl(a.epoll, syscall.EPOLL_CTL_ADD, descriptor, &event); err != nil {
		_ = syscall.Close(descriptor)
		return fmt.Errorf("listen at %s: %w", where, os.NewSyscallError("epoll_ctl", err))
	}
	l.armed = true
	a.listeners[int32(descriptor)] = l
	return nil
}

const (
	epollOneShot = 1 << 30 // EPOLLONESHOT
	ipFreeBind   = 15      // IP_FREEBIND, for both families
)

func bind(where netip.AddrPort) (descriptor, family int, err error) {
	family = syscall.AF_INET6
	var own syscall.Sockaddr = &syscall.SockaddrInet6{Addr: where.Addr().As16(), Port: int(where.Port())}
	if where.Addr().Is4() {
		family = syscall.AF_INET
		own = &syscall.SockaddrInet4{Addr: where.Addr().As4(), Port: int(where.Port())}
	}
	descriptor, err = syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, 0, os.NewSyscallError("socket", err)
	}
	// A port with connections of an earlier process is free all the same.
	err = os.NewSyscallError("setsockopt SO_REUSEADDR",
		syscall.SetsockoptInt(descriptor, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
	if err == nil && family == syscall.AF_INET6 {
		err = os.NewSyscallError("setsockopt IPV6_V6ONLY",
			syscall.SetsockoptInt(descriptor, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 1))
	}
	if err == nil {
		// Without it, an address of IPv6 has to be an interface's: that it's routed here isn't enough.
		err = os.NewSyscallError("setsockopt IP_FREEBIND",
			syscall.SetsockoptInt(descriptor, syscall.IPPROTO_IP, ipFreeBind, 1))
	}
	if err == nil {
		err = os.NewSyscallError("bind", syscall.Bind(descriptor, own))
	}
	if err == nil {
		err = os.NewSyscallError("listen", syscall.Listen(descriptor, backlog))
	}
	if err != nil {
		_ = syscall.Close(descriptor)
		return 0, 0, err
	}
	return descriptor, family, nil
}

// run accepts until close.
func (a *acceptor) run() error {
	if !a.begin() {
		return nil
	}
	defer a.release()
	events := make([]syscall.EpollEvent, maxEvents)
	for {
		count, err := syscall.EpollWait(a.epoll, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, event := range events[:max(count, 0)] {
			if event.Fd == int32(a.wake[0]) {
				return nil
			}
			a.accept(event.Fd)
		}
	}
}

func (a *acceptor) begin() bool {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.running = !a.closed
	return a.running
}

// accept takes what waits at a listener, and asks epoll for more if the listener may have more.
func (a *acceptor) accept(descriptor int32) {
	a.mutex.Lock()
	l := a.listeners[descriptor]
	l.armed = false
	room := maxUnderWay - l.underWay
	a.mutex.Unlock()
	for ; room > 0; room-- {
		conn, err := l.accept()
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if errors.Is(err, errShortOfStuff) {
			a.notes.say("accept", "egress: a connection can't be accepted: %v", err)
			time.Sleep(pauseAfter)
			break
		}
		if err != nil {
			continue // that connection was broken off
		}
		a.mutex.Lock()
		l.underWay++
		a.mutex.Unlock()
		a.handle(conn, sync.OnceFunc(func() { a.done(l) }))
	}
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.arm(l)
}

// accept returns the next connection. The error is EAGAIN if there is none.
func (l *listener) accept() (*net.TCPConn, error) {
	descriptor, _, err := syscall.Accept4(l.descriptor, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
	switch err {
	case nil:
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
		return nil, fmt.Errorf("%w: %w", errShortOfStuff, os.NewSyscallError("accept4", err))
	default:
		return nil, err
	}
	file := os.NewFile(uintptr(descriptor), "tcp")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errShortOfStuff, err)
	}
	return conn.(*net.TCPConn), nil
}

// arm has epoll report the next connection of a listener that may have one. The mutex is held.
func (a *acceptor) arm(l *listener) {
	if a.closed || l.armed || l.underWay >= maxUnderWay {
		return
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | epollOneShot, Fd: int32(l.descriptor)}
	l.armed = syscall.EpollCtl(a.epoll, syscall.EPOLL_CTL_MOD, l.descriptor, &event) == nil
}

func (a *acceptor) done(l *listener) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	l.underWay--
	a.arm(l)
}

// close ends run, and all listeners. When it returns, handle isn't called any more. Whoever waits to be accepted
// is reset by the kernel.
func (a *acceptor) close() {
	a.stop()
	<-a.ended
}

func (a *acceptor) stop() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	switch {
	case a.closed:
	case a.running:
		a.closed = true
		_, _ = syscall.Write(a.wake[1], []byte{0})
	default:
		a.closed = true
		a.closeAll()
	}
}

// release is the end of run.
func (a *acceptor) release() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.closed = true
	a.closeAll()
}

func (a *acceptor) closeAll() {
	for _, l := range a.listeners {
		_ = syscall.Close(l.descriptor)
	}
	for _, descriptor := range []int{a.epoll, a.wake[0], a.wake[1]} {
		_ = syscall.Close(descriptor)
	}
	close(a.ended)
}
