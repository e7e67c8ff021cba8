// Package ingress takes clients' streams to the app's ports, in the enclave.
//
// With "passthrough" the bytes of a stream go to the app as they are. With "terminate" TLS ends here, with a key
// that was made here; what goes on to the app over loopback is HTTP/1.1 ("http"), HTTP/2 without TLS ("h2c") or
// whatever the client sends ("tcp"). On such a port the data plane itself answers whoever wants to know what runs
// here: at AttestationPath, and on connections whose client asks for AttestationProtocol in its TLS handshake.
//
// Streams come from the parent, which is not trusted: not with a client's address either, which is what it says.
package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// Defaults of the limits.
const (
	DefaultConnections = 16_384
	DefaultHandshakes  = 4_096
)

const (
	// replyPatience is how long the parent may take for a reply.
	replyPatience = 10 * time.Second
	// handshakePatience is how long a client may take for its TLS handshake.
	handshakePatience = 10 * time.Second
)

// Pairer moves bytes between two connections and closes them: a relay.Relay.
type Pairer interface {
	Pair(a, b transport.Conn, done func(relay.Result))
}

// Certificates have the key with which TLS ends: a certificate.Store.
type Certificates interface {
	// Get is for tls.Config.GetCertificate.
	Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
	// Attest makes a document that names the key, with a client's nonce.
	Attest(nonce []byte) ([]byte, error)
}

// Options of an Ingress.
type Options struct {
	Ports        []settings.Ingress
	Relay        Pairer
	Certificates Certificates      // may be nil where no port has TLS end here
	Metrics      *metrics.Registry // nil: nobody reads them
	// Log is told when the app doesn't answer, and when it does again. Nil: the console.
	Log func(format string, arguments ...any)
	// Connections is how many there may be at once on each port, and Handshakes how many may be in their TLS
	// handshake on all of them. 0: the defaults.
	Connections int
	Handshakes  int
}

// Ingress serves the ports of a cage.
type Ingress struct {
	options    Options
	ports      map[uint16]*port
	handshakes chan struct{} // a place for each
	evidence   *evidence
	draining   atomic.Bool
	patience   time.Duration   // for a TLS handshake
	context    context.Context // ends what is opened for clients
	cancel     context.CancelFunc
	running    tally // servers, streams and their ends

	mutex   sync.Mutex
	streams map[*stream]bool
}

// New prepares to serve. Close ends it.
func New(options Options) (*Ingress, error) {
	if options.Log == nil {
		options.Log = say.Line
	}
	if options.Connections == 0 {
		options.Connections = DefaultConnections
	}
	if options.Handshakes == 0 {
		options.Handshakes = DefaultHandshakes
	}
	i := &Ingress{
		options:    options,
		ports:      map[uint16]*port{},
		handshakes: make(chan struct{}, options.Handshakes),
		patience:   handshakePatience,
		streams:    map[*stream]bool{},
	}
	terminates := false
	counts := newCounts(options.Metrics)
	for _, rule := range options.Ports {
		if i.ports[rule.Port] != nil {
			return nil, fmt.Errorf("ingress: port %d is there twice", rule.Port)
		}
		if rule.TLS != "passthrough" && rule.TLS != "terminate" {
			return nil, fmt.Errorf("ingress: port %d has TLS %q", rule.Port, rule.TLS)
		}
		terminates = terminates || rule.TLS == "terminate"
		i.ports[rule.Port] = &port{Ingress: rule, owner: i, counts: counts.of(rule.Port)}
	}
	if terminates && options.Certificates == nil {
		return nil, errors.New("ingress: TLS is to end here, and there are no certificates")
	}
	i.context, i.cancel = context.WithCancel(context.Background())
	if terminates {
		i.evidence = newEvidence(i)
		for _, each := range i.ports {
			if err := each.prepare(); err != nil {
				i.Close()
				return nil, err
			}
		}
	}
	return i, nil
}

// Handle serves a stream whose hello has been read, and takes it over. It returns when it needs the goroutine no
// more, which may be at the stream's end.
func (i *Ingress) Handle(conn transport.Conn, hello wire.Hello) {
	port := i.ports[hello.Port]
	s := newStream(conn, hello)
	if port == nil {
		i.refuse(s, wire.Denied, fmt.Sprintf("port %d is not published", hello.Port))
		return
	}
	if err := port.enter(s); err != nil {
		port.counts.refused.Inc(port.name(), string(wire.Busy))
		i.refuse(s, wire.Busy, err.Error())
		return
	}
	if port.TLS == "passthrough" {
		port.pass(s)
	} else {
		port.terminate(s)
	}
}

// refuse answers that a stream isn't opened.
func (i *Ingress) refuse(s *stream, code wire.Code, message string) {
	i.running.add()
	s.whenEnded(i.running.done)
	if s.reply(wire.Reply{Code: code, Message: message}) != nil {
		s.abort()
		return
	}
	_ = s.Close()
}

// Drain takes no more connections, ends those on which nothing is under way, and returns when none is left on which
// TLS ends here. When the context ends first, it resets the others, and returns its error. What goes through the
// relay is the relay's to drain.
func (i *Ingress) Drain(ctx context.Context) error {
	i.draining.Store(true)
	for _, server := range i.servers() {
		i.running.run(func() { _ = server.Shutdown(ctx) })
	}
	var err error
	select {
	case <-i.running.none():
	case <-ctx.Done():
		err = ctx.Err()
	}
	i.Close()
	return err
}

// Close resets all connections on which TLS ends here, and takes no more.
func (i *Ingress) Close() {
	i.draining.Store(true)
	i.cancel()
	i.mutex.Lock()
	for s := range i.streams {
		s.abort()
	}
	i.mutex.Unlock()
	for _, server := range i.servers() {
		_ = server.Close()
	}
	<-i.running.none()
	for _, each := range i.ports {
		if each.pool != nil {
			each.pool.close()
		}
	}
}

func (i *Ingress) servers() []*server {
	if i.evidence == nil {
		return nil
	}
	found := []*server{i.evidence.server}
	for _, each := range i.ports {
		if each.server != nil {
			found = append(found, each.server)
		}
	}
	return found
}

// hold keeps a stream, so that Close finds it, until it has ended.
func (i *Ingress) hold(s *stream) {
	i.running.add()
	i.mutex.Lock()
	i.streams[s] = true
	i.mutex.Unlock()
	s.whenEnded(func() {
		// On another goroutine, for Close aborts streams with the mutex held.
		go func() {
			defer i.running.done()
			i.mutex.Lock()
			defer i.mutex.Unlock()
			delete(i.streams, s)
		}()
	})
	if i.context.Err() != nil {
		s.abort() // Close may have been over before
	}
}
