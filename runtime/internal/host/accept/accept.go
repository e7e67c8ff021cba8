// Package accept takes connections from listeners, each in a goroutine of its own until it is handed on, and no
// more at once than there is room for.
package accept

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/transport"
)

const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

// Listener remembers that it was closed, whatever error Accept then returns.
type Listener struct {
	transport.Listener
	closed atomic.Bool
}

// Close ends Accept.
func (l *Listener) Close() error {
	l.closed.Store(true)
	return l.Listener.Close()
}

// Listen begins to listen at an address.
func Listen(address transport.Address) (*Listener, error) {
	listener, err := address.Listen()
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: listener}, nil
}

// Loop accepts connections until the listener is closed, and calls handle with each. Failures, such as having too
// many open files, are said and waited out: whoever listens must not stop doing so.
func Loop(listener *Listener, lines *journal.Limited, handle func(transport.Conn)) {
	pause := firstPause
	for {
		conn, err := listener.Accept()
		switch {
		case err == nil:
			pause = firstPause
			handle(conn)
		case listener.closed.Load():
			return
		default:
			lines.Line("accept at %v: %v", listener.Addr(), err)
			time.Sleep(pause)
			pause = min(2*pause, maxPause)
		}
	}
}

// Room is how many connections there may be at once.
type Room struct {
	mutex sync.Mutex
	used  int
	size  int
}

// NewRoom returns an empty one.
func NewRoom(size int) *Room { return &Room{size: size} }

// Enter takes a place, if there is one.
func (r *Room) Enter() bool {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.used >= r.size {
		return false
	}
	r.used++
	return true
}

// Leave gives a place back.
func (r *Room) Leave() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.used--
}

// Used is the number of places that are taken.
func (r *Room) Used() int {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.used
}

// Reset closes a connection so that the other side takes it for broken off, where the transport knows of that.
func Reset(conn transport.Conn) {
	if tcp, isTCP := conn.(*net.TCPConn); isTCP {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// IsFull reports whether an error says that this process or machine has too many open files.
func IsFull(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM)
}
