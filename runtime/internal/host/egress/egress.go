// Package egress opens for the guest the connections that its rules allow, and tells it the time.
//
// The rules are those of the image. The guest has checked them already; it is checked again because a guest that is
// no longer what was measured must not get a way into the parent's networks, and because only here names become
// addresses.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/host/accept"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/rules"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// helloTimeout is how long the guest may take to say what it wants.
const helloTimeout = 5 * time.Second

// Options of a Server. All but Resolver and Metrics are required.
type Options struct {
	Rules *rules.Set
	Relay *relay.Relay
	// MaxConnections is how many streams of the guest there may be at once.
	MaxConnections int
	// Timeout is how long resolving and connecting may take together.
	Timeout  time.Duration
	Resolver *net.Resolver // nil: the system's
	Journal  *journal.Journal
	Metrics  *metrics.Registry
}

// Server answers the guest's streams.
type Server struct {
	options Options
	room    *accept.Room
	ctx     context.Context
	cancel  context.CancelFunc
	opening sync.WaitGroup

	failures, denials *journal.Limited
	results           *metrics.Counter
	bytes             *metrics.Counter
}

// New returns a Server that listens nowhere yet.
func New(options Options) *Server {
	if options.Resolver == nil {
		options.Resolver = net.DefaultResolver
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		options: options, room: accept.NewRoom(options.MaxConnections), ctx: ctx, cancel: cancel,
		failures: options.Journal.Limit(), denials: options.Journal.Limit(),
		results: options.Metrics.Counter("cage_host_egress_connections_total",
			"Streams of the guest, by how they were answered.", "result"),
		bytes: options.Metrics.Counter("cage_host_egress_bytes_total",
			"Bytes moved for the guest: out of the cage, in to it.", "way"),
	}
	options.Metrics.GaugeFunc("cage_host_egress_open", "Streams of the guest that are open.",
		func() float64 { return float64(s.room.Used()) })
	return s
}

// Listener is where one guest's streams arrive.
type Listener struct {
	listener *accept.Listener
	loop     sync.WaitGroup
}

// Close accepts no more streams. Those that are open stay.
func (l *Listener) Close() {
	_ = l.listener.Close()
	l.loop.Wait()
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.listener.Addr() }

// Listen begins to accept streams. On vsock they have to come from the guest's own CID: other enclaves of the
// machine reach the same port.
func (s *Server) Listen(address transport.Address, cid uint32) (*Listener, error) {
	listener, err := accept.Listen(address)
	if err != nil {
		return nil, err
	}
	l := &Listener{listener: listener}
	l.loop.Go(func() {
		accept.Loop(listener, s.failures, func(conn transport.Conn) { s.accepted(conn, cid) })
	})
	return l, nil
}

// Close ends what is being opened, and waits for that.
func (s *Server) Close() {
	s.cancel()
	s.opening.Wait()
}

func (s *Server) accepted(conn transport.Conn, cid uint32) {
	if peer, isVsock := conn.RemoteAddr().(transport.VsockAddr); isVsock && peer.CID != cid {
		s.results.Inc("foreign")
		s.denials.Line("egress: refused a stream of CID %d: the guest is CID %d", peer.CID, cid)
		_ = conn.Close()
		return
	}
	if !s.room.Enter() {
		s.results.Inc(string(wire.Busy))
		s.failures.Line("egress: refused a stream: all %d are in use (--max-egress-connections)", s.options.MaxConnections)
		_ = conn.Close()
		return
	}
	s.opening.Go(func() {
		if !s.serve(conn) {
			_ = conn.Close()
			s.room.Leave()
		}
	})
}

// serve answers one stream and reports whether it has been handed to the relay.
func (s *Server) serve(conn transport.Conn) bool {
	hello, err := s.hello(conn)
	if err != nil {
		s.results.Inc("bad-hello")
		s.failures.Line("egress: a stream of the guest: %v", err)
		return false
	}
	switch hello.Stream {
	case wire.Time:
		s.results.Inc("time")
		s.reply(conn, wire.Reply{UnixNS: time.Now().UnixNano()})
		return false
	case wire.Egress:
	default:
		s.results.Inc("bad-hello")
		s.failures.Line("egress: the guest asked for a stream of kind %.50q", string(hello.Stream))
		s.reply(conn, wire.Reply{Code: wire.Denied, Message: "no such kind of stream"})
		return false
	}
	destination, err := s.connect(hello.Host, hello.Port)
	if err != nil {
		code := codeOf(err)
		s.results.Inc(string(code))
		lines := s.failures
		if code == wire.Denied {
			lines = s.denials
		}
		lines.Line("egress: %s: %.260q port %d: %v", code, hello.Host, hello.Port, err)
		s.reply(conn, wire.Reply{Code: code, Message: err.Error()})
		return false
	}
	if !s.reply(conn, wire.Reply{}) {
		s.results.Inc(string(wire.Failed))
		_ = destination.Close()
		return false
	}
	s.results.Inc("ok")
	s.options.Relay.Pair(conn, destination, func(moved relay.Result) {
		s.bytes.Add(moved.AToB, "out")
		s.bytes.Add(moved.BToA, "in")
		s.room.Leave()
	})
	return true
}

func (s *Server) hello(conn transport.Conn) (wire.Hello, error) {
	if err := conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return wire.Hello{}, err
	}
	stop := context.AfterFunc(s.ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	hello, err := wire.ReadHello(conn)
	if !stop() && err == nil {
		err = s.ctx.Err()
	}
	if err != nil {
		return wire.Hello{}, err
	}
	return hello, conn.SetReadDeadline(time.Time{})
}

// reply answers, and reports whether that came to pass.
func (s *Server) reply(conn transport.Conn, reply wire.Reply) bool {
	if conn.SetWriteDeadline(time.Now().Add(helloTimeout)) != nil || wire.WriteReply(conn, reply) != nil {
		return false
	}
	return conn.SetWriteDeadline(time.Time{}) == nil
}

// deniedError says why a destination is not allowed.
type deniedError struct{ why string }

func (e *deniedError) Error() string { return e.why }

// connect checks a destination and connects to it. Addresses are checked after they were resolved, and are what is
// connected to: there is no second look-up that could be answered in another way.
func (s *Server) connect(host string, port uint16) (transport.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.options.Timeout)
	defer cancel()
	if port == 0 {
		return nil, &deniedError{"no port"}
	}
	if address, err := netip.ParseAddr(host); err == nil {
		address = address.Unmap()
		switch {
		case address.Zone() != "", !s.options.Rules.Address(address, port):
			return nil, &deniedError{"no rule allows it"}
		case !s.isNamed(address, port):
			return nil, &deniedError{"it is a special address, and the rule is for a larger network"}
		}
		return dialAny(ctx, []netip.Addr{address}, port)
	}
	name, err := rules.Canonical(host)
	if err != nil {
		return nil, &deniedError{err.Error()}
	}
	if !s.options.Rules.Name(name, port) {
		return nil, &deniedError{"no rule allows it"}
	}
	found, err := lookup(ctx, s.options.Resolver, name)
	if err != nil {
		return nil, err
	}
	allowed, refused := s.allowed(found, port)
	if len(allowed) == 0 {
		return nil, &deniedError{fmt.Sprintf(
			"it resolves to %v, which is a special address: only a rule for the address allows that", refused)}
	}
	return dialAny(ctx, interleave(allowed), port)
}

// allowed returns the addresses that may be connected to, and the last one that may not.
func (s *Server) allowed(addresses []netip.Addr, port uint16) (allowed []netip.Addr, refused netip.Addr) {
	for _, address := range addresses {
		if !s.isNamed(address, port) {
			refused = address
			continue
		}
		allowed = append(allowed, address)
	}
	return allowed, refused
}

// isNamed reports whether an address is not special, or a rule means just that: one for half of the Internet doesn't
// mean the private networks in it.
func (s *Server) isNamed(address netip.Addr, port uint16) bool {
	network, isSpecial := Special(address)
	if !isSpecial {
		return true
	}
	for _, rule := range s.options.Rules.Networks() {
		if rule.Port == port && rule.Prefix.Contains(address) && network.IsValid() && rule.Prefix.Bits() >= network.Bits() {
			return true
		}
	}
	return false
}

func codeOf(err error) wire.Code {
	var (
		denied *deniedError
		dns    *net.DNSError
		slow   net.Error
	)
	switch {
	case errors.As(err, &denied):
		return wire.Denied
	case errors.As(err, &dns) && dns.IsNotFound:
		return wire.NotFound
	case errors.Is(err, syscall.ECONNREFUSED):
		return wire.Refused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return wire.Unreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT),
		errors.As(err, &slow) && slow.Timeout():
		return wire.TimedOut
	case accept.IsFull(err):
		return wire.Busy
	default:
		return wire.Failed
	}
}
