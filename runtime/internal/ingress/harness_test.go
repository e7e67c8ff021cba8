package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/certificate"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// hang is how long something may take that has to happen.
const hang = 20 * time.Second

// cage is an enclave and its parent: clients connect by TCP, and come through a relay and a unix socket to the
// ingress, as they do through the parent's program and vsock.
type cage struct {
	*Ingress
	t       testing.TB
	device  *nsmtest.Server
	store   *certificate.Store
	metrics *metrics.Registry
	inner   *relay.Relay // the enclave's
	outer   *relay.Relay // the parent's
	guest   transport.Address
	log     lines
	host    sync.WaitGroup
}

type lines struct {
	mutex sync.Mutex
	text  []string
}

func (l *lines) add(format string, arguments ...any) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.text = append(l.text, fmt.Sprintf(format, arguments...))
}

func (l *lines) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return strings.Join(l.text, "\n")
}

func newCage(t testing.TB, change func(*Options), rules ...settings.Ingress) *cage {
	t.Helper()
	leak.Check(t)
	c := &cage{t: t, metrics: metrics.NewRegistry()}
	folder := t.TempDir()
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c.device, err = nsmtest.Listen(filepath.Join(folder, "nsm"))
	check()
	t.Cleanup(c.device.Close)
	device, err := nsm.Open(c.device.URL())
	check()
	c.store, err = certificate.New(certificate.Options{Name: "pay", Attester: device, Log: c.log.add})
	check()
	c.inner, err = relay.New(relay.Options{Loops: 1})
	check()
	t.Cleanup(c.inner.Close)
	c.outer, err = relay.New(relay.Options{Loops: 1})
	check()
	t.Cleanup(c.outer.Close)
	options := Options{
		Ports: rules, Relay: c.inner, Certificates: c.store, Metrics: c.metrics, Log: c.log.add,
	}
	if change != nil {
		change(&options)
	}
	c.Ingress, err = New(options)
	check()
	c.guest = transport.Address{Scheme: "unix", Path: filepath.Join(folder, "guest")}
	listener, err := c.guest.Listen()
	check()
	c.host.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.host.Go(func() {
				hello, err := wire.ReadHello(conn)
				if err != nil {
					_ = conn.Close()
					return
				}
				c.Handle(conn, hello)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		c.Close()
		c.host.Wait()
	})
	return c
}

// open opens a stream as the parent does.
func (c *cage) open(hello wire.Hello) (transport.Conn, error) {
	conn, err := c.guest.Dial(context.Background())
	if err != nil {
		return nil, err
	}
	hello.Stream = wire.Ingress
	if err := wire.WriteHello(conn, hello); err != nil {
		_ = conn.Close()
		return nil, err
	}
	reply, err := wire.ReadReply(conn)
	if err == nil {
		err = reply.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// front is an address of the parent where clients reach a port.
func (c *cage) front(port uint16) string {
	c.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				stream, err := c.open(wire.Hello{
					Port: port, Peer: client.RemoteAddr().String(), Local: client.LocalAddr().String(),
				})
				if err != nil {
					reset(client)
					return
				}
				c.outer.Pair(client.(transport.Conn), stream, nil)
			})
		}
	})
	c.t.Cleanup(func() {
		_ = listener.Close()
		all.Wait()
	})
	return listener.Addr().String()
}

// roots trusts the certificate that the cage has now.
func (c *cage) roots() *x509.CertPool {
	c.t.Helper()
	certificate, err := c.store.Get(&tls.ClientHelloInfo{})
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Leaf)
	return roots
}

// client speaks HTTP/1.1 or HTTP/2 to the cage. Idle connections are closed at the test's end.
func (c *cage) client(version int) *http.Client {
	c.t.Helper()
	pool := &http.Transport{
		TLSClientConfig:       &tls.Config{RootCAs: c.roots(), ServerName: "pay"},
		Protocols:             &http.Protocols{},
		DisableCompression:    true,
		ExpectContinueTimeout: hang,
	}
	pool.Protocols.SetHTTP1(version == 1)
	pool.Protocols.SetHTTP2(version == 2)
	c.t.Cleanup(pool.CloseIdleConnections)
	return &http.Client{
		Transport:     pool,
		Timeout:       2 * hang,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dialTLS opens a TLS connection to an address of the parent.
func (c *cage) dialTLS(address string, change func(*tls.Config)) *tls.Conn {
	c.t.Helper()
	config := &tls.Config{RootCAs: c.roots(), ServerName: "pay"}
	if change != nil {
		change(config)
	}
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(hang))
	c.t.Cleanup(func() { _ = conn.NetConn().Close() })
	return conn
}

// dialWatched is dialTLS, with what tells whether the connection ended without a close_notify: its cutOff. A relay
// between two sockets that both end at once may make a plain end of a reset; TLS still tells them apart.
func (c *cage) dialWatched(address string, change func(*tls.Config)) (*tls.Conn, *stream) {
	c.t.Helper()
	config := &tls.Config{RootCAs: c.roots(), ServerName: "pay"}
	if change != nil {
		change(config)
	}
	watched := newStream(c.dial(address), wire.Hello{})
	watched.counts = newCounts(nil).of(0)
	c.t.Cleanup(watched.abort)
	return tls.Client(watched, config), watched
}

// app listens where an app would, and serves each connection.
func app(t testing.TB, serve func(net.Conn)) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		all.Wait()
	})
	return portOf(listener.Addr())
}

func portOf(address net.Addr) uint16 { return uint16(address.(*net.TCPAddr).Port) }

// httpApp is one that speaks HTTP.
func httpApp(t testing.TB, handler http.HandlerFunc, change func(*http.Server)) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ErrorLog: nowhere}
	if change != nil {
		change(server)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return portOf(listener.Addr())
}

func h2c(server *http.Server) {
	server.Protocols = &http.Protocols{}
	server.Protocols.SetUnencryptedHTTP2(true)
}

func terminate(port uint16, protocol string) settings.Ingress {
	return settings.Ingress{Port: port, TLS: "terminate", Protocol: protocol}
}

func passthrough(port uint16) settings.Ingress {
	return settings.Ingress{Port: port, TLS: "passthrough", Protocol: "tcp"}
}

// echo sends back what comes, then ends.
func echo(conn net.Conn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.(*net.TCPConn).CloseWrite()
}

// unused is a port where nobody listens.
func unused(t testing.TB) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return portOf(listener.Addr())
}

func (c *cage) dial(address string) *net.TCPConn {
	c.t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(hang))
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// value is a metric's, or 0.
func (c *cage) value(name string) int {
	c.t.Helper()
	var text bytes.Buffer
	if err := c.metrics.WriteText(&text); err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			value, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				c.t.Fatal(err)
			}
			return value
		}
	}
	return 0
}

// eventually waits for what has to come about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hang); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not", what)
		}
	}
}

// handshaken is a connection after its TLS handshake; nil if that fails, as it does where TLS doesn't end in the cage.
func (c *cage) handshaken(conn net.Conn) *tls.Conn {
	client := tls.Client(conn, &tls.Config{RootCAs: c.roots(), ServerName: "pay"})
	if client.Handshake() != nil {
		return nil
	}
	return client
}
