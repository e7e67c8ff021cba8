package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/proxyproto"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/wire"
)

// port is one of the app's ports.
type port struct {
	settings.Ingress
	owner  *Ingress
	counts portCounts
	open   atomic.Int64
	silent atomic.Bool // the app didn't answer last time

	// With TLS that ends here:
	tls    *tls.Config
	server *server // of HTTP
	pool   *pool   // connections to the app that all clients share
}

func (p *port) name() string { return strconv.Itoa(int(p.Port)) }

// enter counts a stream, or says why it can't be taken. Its end leaves again.
func (p *port) enter(s *stream) error {
	if p.owner.draining.Load() {
		return errors.New("the cage is being stopped")
	}
	if most := int64(p.owner.options.Connections); p.open.Add(1) > most {
		p.open.Add(-1)
		return fmt.Errorf("port %d has its %d connections", p.Port, most)
	}
	s.counts = p.counts
	p.counts.connections.Inc()
	p.counts.open.Add(1)
	return nil
}

func (p *port) leave() {
	p.open.Add(-1)
	p.counts.open.Add(-1)
}

// appPatience is how long the app may take to accept a connection.
const appPatience = 10 * time.Second

// pass hands a stream over to the relay.
func (p *port) pass(s *stream) {
	p.owner.running.add()
	defer p.owner.running.done()
	app, err := p.dial(p.owner.context, s)
	if err != nil {
		p.leave()
		code := codeOf(err)
		p.counts.refused.Inc(p.name(), string(code))
		p.owner.refuse(s, code, fmt.Sprintf("port %d of the app: %v", p.Port, err))
		return
	}
	if err := s.reply(wire.Reply{}); err != nil {
		p.leave()
		reset(app)
		s.abort()
		return
	}
	p.owner.options.Relay.Pair(s.conn, app, func(result relay.Result) {
		p.counts.received.Add(result.AToB)
		p.counts.sent.Add(result.BToA)
		p.leave()
	})
}

// dial connects to the app for a client: over IPv4, or IPv6 if nothing listens there. If the port is to have it, the
// connection has begun with a PROXY header.
func (p *port) dial(ctx context.Context, client *stream) (*net.TCPConn, error) {
	limited, cancel := context.WithTimeout(ctx, appPatience)
	defer cancel()
	conn, err := p.dialAt(limited, "127.0.0.1")
	if errors.Is(err, syscall.ECONNREFUSED) {
		if other, second := p.dialAt(limited, "::1"); second == nil {
			conn, err = other, nil
		}
	}
	if err == nil && p.ProxyProtocol {
		_ = conn.SetWriteDeadline(time.Now().Add(appPatience))
		if err = proxyproto.Write(conn, client.peer, client.local); err != nil {
			reset(conn)
		}
		_ = conn.SetWriteDeadline(time.Time{})
	}
	if ctx.Err() == nil {
		p.note(err)
	}
	return conn, err
}

func (p *port) dialAt(ctx context.Context, host string) (*net.TCPConn, error) {
	dialer := net.Dialer{KeepAlive: -1} // loopback doesn't break
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, p.name()))
	if err != nil {
		var syscallError *os.SyscallError
		if errors.As(err, &syscallError) {
			return nil, syscallError.Err
		}
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// note says when the app stops answering, and when it does again.
func (p *port) note(err error) {
	if silent := err != nil; p.silent.Swap(silent) != silent {
		if silent {
			p.owner.options.Log("port %d of the app does not answer: %v", p.Port, err)
		} else {
			p.owner.options.Log("port %d of the app answers", p.Port)
		}
	}
}

func codeOf(err error) wire.Code {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return wire.Refused
	case errors.As(err, &timeout) && timeout.Timeout():
		return wire.TimedOut
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return wire.Unreachable
	}
	return wire.Failed
}
