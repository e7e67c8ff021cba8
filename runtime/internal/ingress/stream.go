package ingress

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

const (
	// lingering is how long the other side may take to end a stream that this side has ended. Closed at once, a
	// stream counts as broken off, and what is still on its way to the client may be lost.
	lingering = 5 * time.Second
	// stalled is how long a client may take nothing of an HTTP answer.
	stalled = 5 * time.Minute
)

// stream is a client's connection, as it comes from the parent. Its addresses are the client's, not the parent's.
type stream struct {
	conn        transport.Conn
	peer, local netip.AddrPort // not valid where the client has none, or the parent says nothing
	counts      portCounts
	cutOff      atomic.Bool // the stream has ended: what TLS had to say at its end came before, or never will

	mutex     sync.Mutex
	closing   bool
	timed     bool          // whoever writes has set a deadline
	patience  time.Duration // for each write without one; 0: forever
	ended     bool
	listeners []func()
	pool      *pool // connections to the app for this client alone
}

func newStream(conn transport.Conn, hello wire.Hello) *stream {
	s := &stream{conn: conn}
	s.peer, _ = netip.ParseAddrPort(hello.Peer)
	s.local, _ = netip.ParseAddrPort(hello.Local)
	return s
}

// reply answers the parent.
func (s *stream) reply(reply wire.Reply) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(replyPatience)); err != nil {
		return err
	}
	if err := wire.WriteReply(s.conn, reply); err != nil {
		return err
	}
	return s.conn.SetWriteDeadline(time.Time{})
}

// whenEnded has a function called when the stream is closed for good.
func (s *stream) whenEnded(call func()) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.ended {
		call()
		return
	}
	s.listeners = append(s.listeners, call)
}

// end closes the connection for good.
func (s *stream) end() {
	_ = s.conn.Close()
	s.mutex.Lock()
	s.ended = true
	listeners := s.listeners
	s.listeners = nil
	pool := s.pool
	s.mutex.Unlock()
	if pool != nil {
		pool.close()
	}
	for _, call := range listeners {
		call()
	}
}

// Read reads what the client sent. TLS takes a stream's end for the end of what is sent, which cutOff tells apart.
func (s *stream) Read(data []byte) (int, error) {
	if s.isClosing() {
		return 0, net.ErrClosed
	}
	count, err := s.conn.Read(data)
	s.counts.received.Add(int64(count))
	if errors.Is(err, io.EOF) {
		s.cutOff.Store(true)
	}
	return count, err
}

func (s *stream) Write(data []byte) (int, error) {
	if err := s.beforeWrite(); err != nil {
		return 0, err
	}
	count, err := s.conn.Write(data)
	s.counts.sent.Add(int64(count))
	return count, err
}

func (s *stream) isClosing() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.closing
}

func (s *stream) beforeWrite() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closing {
		return net.ErrClosed
	}
	if s.patience > 0 && !s.timed {
		return s.conn.SetWriteDeadline(time.Now().Add(s.patience))
	}
	return nil
}

// setPatience bounds each write from now on.
func (s *stream) setPatience(patience time.Duration) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.patience = patience
}

// Close ends the stream in order: the client learns that everything has been sent, and reads it. It doesn't wait.
func (s *stream) Close() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closing {
		return net.ErrClosed
	}
	s.closing = true
	_ = s.conn.SetDeadline(time.Unix(1, 0)) // whoever reads or writes now returns
	if err := s.conn.CloseWrite(); err != nil {
		go s.end()
		return nil
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(lingering))
	go func() {
		_, _ = io.Copy(io.Discard, readerOnly{s.conn})
		s.end()
	}()
	return nil
}

// readerOnly keeps io.Copy from asking the connection to do it, which would need more memory or none of it.
type readerOnly struct{ io.Reader }

// abort breaks the stream off: the client learns that not everything has been sent.
func (s *stream) abort() {
	s.mutex.Lock()
	wasClosing := s.closing
	s.closing = true
	s.mutex.Unlock()
	reset(s.conn)
	if !wasClosing {
		s.end()
	}
}

// reset closes a connection so that its other end can't take it for complete: TCP has a message for that, and of any
// other kind one that is closed in both directions at once counts as broken off.
func reset(conn net.Conn) {
	if tcp, isTCP := conn.(*net.TCPConn); isTCP {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// SetDeadline, and those that follow, do nothing once the stream is being closed, which has deadlines of its own.
func (s *stream) SetDeadline(at time.Time) error {
	return errors.Join(s.SetReadDeadline(at), s.SetWriteDeadline(at))
}

// SetReadDeadline is that of a net.Conn.
func (s *stream) SetReadDeadline(at time.Time) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closing {
		return net.ErrClosed
	}
	return s.conn.SetReadDeadline(at)
}

// SetWriteDeadline is that of a net.Conn.
func (s *stream) SetWriteDeadline(at time.Time) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closing {
		return net.ErrClosed
	}
	s.timed = !at.IsZero()
	return s.conn.SetWriteDeadline(at)
}

// RemoteAddr is the client's, as the parent says.
func (s *stream) RemoteAddr() net.Addr { return addrOf(s.peer) }

// LocalAddr is the one that the client connected to, as the parent says.
func (s *stream) LocalAddr() net.Addr { return addrOf(s.local) }

func addrOf(address netip.AddrPort) net.Addr {
	if !address.IsValid() {
		return noAddr{}
	}
	return net.TCPAddrFromAddrPort(address)
}

// noAddr is an address that nobody knows. It has no port, so nothing takes it for one.
type noAddr struct{}

func (noAddr) Network() string { return "unknown" }
func (noAddr) String() string  { return "unknown" }
