// Package ingress takes clients' connections and carries them to the ports of the app in the enclave.
package ingress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"cagebuild.dev/runtime/internal/host/accept"
	"cagebuild.dev/runtime/internal/host/client"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/proxyproto"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// headerTimeout is how long a load balancer may take for its PROXY protocol header.
const headerTimeout = 5 * time.Second

// Options of a Server. All but Metrics are required.
type Options struct {
	// Guest says where the guest listens at the moment, and whether there is one.
	Guest func() (transport.Address, bool)
	Relay *relay.Relay
	// MaxConnections is how many connections there may be at once, over all listeners.
	MaxConnections int
	// AcceptProxy makes a PROXY protocol header, version 2, the first thing that every client has to send.
	AcceptProxy bool
	Journal     *journal.Journal
	Metrics     *metrics.Registry
}

// Server is all listeners of a cage.
type Server struct {
	options Options
	room    *accept.Room
	ctx     context.Context
	cancel  context.CancelFunc
	opening sync.WaitGroup
	loops   sync.WaitGroup

	mutex     sync.Mutex
	listeners []*accept.Listener
	closed    bool

	failures, refusals *journal.Limited
	results            *metrics.Counter
	bytes              *metrics.Counter
}

// New returns a Server that listens nowhere yet.
func New(options Options) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		options: options, room: accept.NewRoom(options.MaxConnections), ctx: ctx, cancel: cancel,
		failures: options.Journal.Limit(), refusals: options.Journal.Limit(),
		results: options.Metrics.Counter("cage_host_ingress_connections_total",
			"Connections of clients, by the cage's port and how opening a stream to the guest ended.", "port", "result"),
		bytes: options.Metrics.Counter("cage_host_ingress_bytes_total",
			"Bytes moved for clients: in to the cage, out of it.", "way"),
	}
	options.Metrics.GaugeFunc("cage_host_ingress_open", "Connections of clients that are open.",
		func() float64 { return float64(s.room.Used()) })
	return s
}

// Listen begins to accept clients for a port of the cage, and returns where.
func (s *Server) Listen(publication Publication) (net.Addr, error) {
	listener, err := accept.Listen(publication.Address)
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed {
		_ = listener.Close()
		return nil, net.ErrClosed
	}
	s.listeners = append(s.listeners, listener)
	s.loops.Go(func() {
		accept.Loop(listener, s.failures, func(conn transport.Conn) { s.accepted(conn, publication.Port) })
	})
	return listener.Addr(), nil
}

// Close accepts no more clients. Those that are connected stay.
func (s *Server) Close() {
	s.mutex.Lock()
	s.closed = true
	listeners := s.listeners
	s.listeners = nil
	s.mutex.Unlock()
	for _, listener := range listeners {
		_ = listener.Close()
	}
	s.loops.Wait()
}

// Drain waits, after Close, until no connection is left, and resets the rest when the context ends. The error is
// the context's.
func (s *Server) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	s.opening.Wait()
	return s.options.Relay.Drain(ctx)
}

// Abort ends what is being opened at once.
func (s *Server) Abort() {
	s.cancel()
	s.opening.Wait()
}

func (s *Server) accepted(conn transport.Conn, port uint16) {
	if !s.room.Enter() {
		s.results.Inc(strconv.Itoa(int(port)), "limit")
		s.refusals.Line("port %d: refused a client: all %d connections are in use (--max-connections)",
			port, s.options.MaxConnections)
		accept.Reset(conn)
		return
	}
	s.opening.Go(func() { s.serve(conn, port) })
}

func (s *Server) serve(conn transport.Conn, port uint16) {
	label := strconv.Itoa(int(port))
	peer, local, err := s.addresses(conn)
	if err != nil {
		s.results.Inc(label, "proxy-header")
		s.failures.Line("port %d: client %v: PROXY protocol: %v", port, conn.RemoteAddr(), err)
		accept.Reset(conn)
		s.room.Leave()
		return
	}
	stream, err := s.open(wire.Hello{Stream: wire.Ingress, Port: port, Peer: text(peer), Local: text(local)})
	if err != nil {
		s.results.Inc(label, result(err))
		s.failures.Line("port %d: client %s: the guest takes no connection: %v", port, orUnknown(text(peer)), err)
		accept.Reset(conn)
		s.room.Leave()
		return
	}
	s.results.Inc(label, "ok")
	s.options.Relay.Pair(conn, stream, func(moved relay.Result) {
		s.bytes.Add(moved.AToB, "in")
		s.bytes.Add(moved.BToA, "out")
		s.room.Leave()
	})
}

var errNoGuest = errors.New("no enclave is running")

func (s *Server) open(hello wire.Hello) (transport.Conn, error) {
	guest, there := s.options.Guest()
	if !there {
		return nil, errNoGuest
	}
	return client.Open(s.ctx, guest, hello)
}

// addresses finds out who connected to where. They are not valid where nobody knows, as with unix sockets.
func (s *Server) addresses(conn transport.Conn) (peer, local netip.AddrPort, err error) {
	if s.options.AcceptProxy {
		if err := conn.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
			return peer, local, err
		}
		stop := context.AfterFunc(s.ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
		peer, local, err = proxyproto.Read(conn)
		if !stop() && err == nil {
			err = s.ctx.Err()
		}
		if err != nil {
			return peer, local, err
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return peer, local, err
		}
		if peer.IsValid() && local.IsValid() {
			return peer, local, nil
		}
	}
	return addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr()), nil
}

func addrPort(address net.Addr) netip.AddrPort {
	tcp, isTCP := address.(*net.TCPAddr)
	if !isTCP {
		return netip.AddrPort{}
	}
	both := tcp.AddrPort()
	return netip.AddrPortFrom(both.Addr().Unmap().WithZone(""), both.Port())
}

func text(address netip.AddrPort) string {
	if !address.IsValid() {
		return ""
	}
	return address.String()
}

func orUnknown(text string) string {
	if text == "" {
		return "of a socket"
	}
	return text
}

// result is the label of a failure: one of a few words, whatever the guest answers.
func result(err error) string {
	var refused *wire.RefusedError
	switch {
	case errors.Is(err, errNoGuest):
		return "no-guest"
	case accept.IsFull(err):
		return "limit"
	case errors.As(err, &refused):
		switch refused.Reply.Code {
		case wire.Denied, wire.NotFound, wire.Refused, wire.Unreachable, wire.TimedOut, wire.Busy:
			return string(refused.Reply.Code)
		}
		return string(wire.Failed)
	case errors.Is(err, context.DeadlineExceeded):
		return string(wire.TimedOut)
	default:
		return "unreachable"
	}
}
