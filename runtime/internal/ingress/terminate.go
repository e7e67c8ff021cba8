package ingress

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"

	"cagebuild.dev/runtime/internal/wire"
)

// prepare makes what the port needs for TLS that ends here, if it does.
func (p *port) prepare() error {
	if p.TLS != "terminate" {
		return nil
	}
	// The key is of P-256, so there are no other cipher suites of TLS 1.2 to choose; those of 1.3 are fixed. Session
	// tickets are sealed with keys that are in the enclave alone, and change by themselves.
	p.tls = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: p.owner.options.Certificates.Get,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	switch p.Protocol {
	case "http", "h2c":
		p.tls.NextProtos = []string{"h2", "http/1.1", AttestationProtocol}
		p.serveHTTP()
	case "tcp":
		// A client may offer any protocol, for the app behind the port may speak any; nothing is chosen then, as if
		// the server knew nothing of such offers.
		asked := p.tls.Clone()
		asked.NextProtos = []string{AttestationProtocol}
		p.tls.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if slices.Contains(hello.SupportedProtos, AttestationProtocol) {
				return asked, nil
			}
			return nil, nil
		}
	default:
		return fmt.Errorf("ingress: port %d has protocol %q", p.Port, p.Protocol)
	}
	return nil
}

// terminate ends TLS on a stream, and serves what is in it.
func (p *port) terminate(s *stream) {
	s.whenEnded(p.leave)
	p.owner.hold(s)
	select {
	case p.owner.handshakes <- struct{}{}:
	default:
		p.counts.refused.Inc(p.name(), string(wire.Busy))
		p.owner.refuse(s, wire.Busy, "too many TLS handshakes are under way")
		return
	}
	conn, err := p.handshake(s)
	<-p.owner.handshakes
	if err != nil {
		_ = s.Close() // the client may get to read why
		return
	}
	switch {
	case conn.ConnectionState().NegotiatedProtocol == AttestationProtocol:
		p.owner.evidence.server.serve(plainConn{conn})
	case p.server != nil:
		p.server.serve(conn)
	default:
		p.join(conn, s)
	}
}

func (p *port) handshake(s *stream) (*tls.Conn, error) {
	if err := s.reply(wire.Reply{}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(p.owner.context, p.owner.patience)
	defer cancel()
	conn := tls.Server(s, p.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		p.counts.handshakes.Inc()
		return nil, err
	}
	return conn, nil
}

// plainConn hides what a connection is from net/http, which takes a protocol that it doesn't know for HTTP only
// without TLS.
type plainConn struct{ *tls.Conn }
