// Package relay moves bytes between pairs of connections: the data plane's core, on both sides of the wall.
//
// A few threads, each with an epoll instance of its own, serve all pairs. An idle pair costs two descriptors and
// some hundred bytes: no goroutine, no buffer. Little data goes through a buffer that a thread has for all its
// pairs; a stream that fills it is spliced through a pipe, so that its bytes aren't copied. What a slow receiver
// doesn't take stops the sender: of each direction at most one buffer or one pipe is held, and pipes are few.
//
// The end of a stream is passed on as such, in each direction for itself. A stream that breaks off is reset at
// the other end, for its receiver must not take a part for the whole. Where a connection is no TCP connection a
// reset looks like this: the other side is gone altogether without having ended its own direction first.
package relay

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/transport"
)

// Options of a Relay. The zero value is a good choice.
type Options struct {
	// Loops is the number of threads; 0: one for each processor, at most four.
	Loops int
	// Spin is how long a thread looks for more before it sleeps, as long as that pays off: waking a thread
	// takes longer than moving a small message. 0: 50 µs; negative: not at all.
	Spin time.Duration
}

const (
	maxLoops    = 4
	defaultSpin = 50 * time.Microsecond
)

// Result is how a pair ended.
type Result struct {
	AToB, BToA int64 // bytes moved
	Err        error // nil: both directions ended in order
}

// Relay serves pairs of connections.
type Relay struct {
	loops  []*loop
	pipes  *pipes
	turn   atomic.Uint64
	open   atomic.Int64
	closed atomic.Bool

	mutex sync.Mutex
	idle  chan struct{} // closed when no pair is left; nil: nobody waits
	ended sync.WaitGroup
}

// ErrClosed is the Result of pairs that came to a Relay too late, or were left when it was closed.
var ErrClosed = errors.New("the relay is closed")

// New starts a Relay.
func New(options Options) (*Relay, error) {
	count := options.Loops
	if count <= 0 {
		count = min(runtime.NumCPU(), maxLoops)
	}
	spin := options.Spin
	if spin == 0 {
		spin = defaultSpin
	}
	r := &Relay{pipes: &pipes{}}
	for range count {
		each, err := newLoop(r, spin)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.loops = append(r.loops, each)
		r.ended.Go(each.run)
	}
	return r, nil
}

// Pair moves bytes between a and b until both directions have ended, then closes both. It takes them over, also
// when it fails. done, which may be nil, is called once, on another goroutine; it must not block.
func (r *Relay) Pair(a, b transport.Conn, done func(Result)) {
	r.open.Add(1)
	left, err := take(a)
	right, second := take(b)
	if err = errors.Join(err, second); err != nil {
		closeAll(left, right)
		r.finished(done, Result{Err: err})
		return
	}
	pair := newPair(left, right, done)
	if err := r.loops[r.turn.Add(1)%uint64(len(r.loops))].add(pair); err != nil {
		pair.reset()
		r.finished(done, Result{Err: err})
	}
}

func closeAll(sides ...*side) {
	for _, each := range sides {
		if each != nil {
			_ = syscall.Close(each.descriptor)
		}
	}
}

func (r *Relay) finished(done func(Result), result Result) {
	if done != nil {
		done(result)
	}
	if r.open.Add(-1) > 0 {
		return
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.idle != nil && r.open.Load() == 0 {
		close(r.idle)
		r.idle = nil
	}
}

// Open is the number of pairs under way.
func (r *Relay) Open() int { return int(r.open.Load()) }

// Drain returns when no pair is left. When the context ends first, it resets those that are, and returns its
// error.
func (r *Relay) Drain(ctx context.Context) error {
	if idle := r.whenIdle(); idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			for _, each := range r.loops {
				each.resetAll(ctx.Err())
			}
			<-idle
			return ctx.Err()
		}
	}
	return nil
}

func (r *Relay) whenIdle() <-chan struct{} {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.open.Load() == 0 {
		return nil
	}
	if r.idle == nil {
		r.idle = make(chan struct{})
	}
	return r.idle
}

// Close resets what is left and ends all threads.
func (r *Relay) Close() {
	if r.closed.Swap(true) {
		return
	}
	for _, each := range r.loops {
		each.end()
	}
	r.ended.Wait()
	r.pipes.close()
}

// take makes a connection's descriptor the caller's own: one that the Go runtime doesn't watch.
func take(conn transport.Conn) (*side, error) {
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var copied uintptr
	var errno syscall.Errno
	if err := raw.Control(func(descriptor uintptr) {
		copied, _, errno = syscall.RawSyscall(syscall.SYS_FCNTL, descriptor, syscall.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if errno != 0 {
		return nil, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", errno)
	}
	_, isTCP := conn.(*net.TCPConn)
	_, isUnix := conn.(*net.UnixConn)
	if isUnix {
		growBuffer(int(copied))
	}
	return &side{descriptor: int(copied), isTCP: isTCP, readable: true, writable: true}, nil
}

// unixBuffer is how much a unix socket holds. The kernel's own measure, some 200 KiB, is a fraction of what TCP
// connections and vsock hold on a fast way.
const unixBuffer = 1 << 20

func growBuffer(descriptor int) {
	const sendBufferForce = 32 // SO_SNDBUFFORCE, for root
	if syscall.SetsockoptInt(descriptor, syscall.SOL_SOCKET, sendBufferForce, unixBuffer) != nil {
		_ = syscall.SetsockoptInt(descriptor, syscall.SOL_SOCKET, syscall.SO_SNDBUF, unixBuffer)
	}
}
