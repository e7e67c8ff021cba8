package hosttest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// Guest listens as the runtime in an enclave does.
type Guest struct {
	Address transport.Address
	// Ingress answers a client's stream after its hello. It closes the stream.
	Ingress func(wire.Hello, transport.Conn)
	// Control answers requests.
	Control http.Handler
	// Raw, if it is there, has every stream to itself.
	Raw func(transport.Conn)

	listener transport.Listener
	running  sync.WaitGroup
	mutex    sync.Mutex
	open     map[transport.Conn]bool
}

// Start begins to listen at a unix socket, until the end of the test.
func (g *Guest) Start(t testing.TB) {
	t.Helper()
	if g.Address.Scheme == "" {
		g.Address = transport.Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "guest.sock")}
	}
	listener, err := g.Address.Listen()
	if err != nil {
		t.Fatal(err)
	}
	g.listener, g.open = listener, map[transport.Conn]bool{}
	g.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				g.track(conn)
			}
		}
	})
	t.Cleanup(g.Stop)
}

func (g *Guest) track(conn transport.Conn) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.open[conn] = true
	g.running.Go(func() {
		defer func() {
			_ = conn.Close()
			g.mutex.Lock()
			defer g.mutex.Unlock()
			delete(g.open, conn)
		}()
		g.serve(conn)
	})
}

// Stop ends all streams.
func (g *Guest) Stop() {
	_ = g.listener.Close()
	g.mutex.Lock()
	for conn := range g.open {
		_ = conn.Close()
	}
	g.mutex.Unlock()
	g.running.Wait()
}

func (g *Guest) serve(conn transport.Conn) {
	if g.Raw != nil {
		g.Raw(conn)
		return
	}
	hello, err := wire.ReadHello(conn)
	if err != nil {
		return
	}
	switch {
	case hello.Stream == wire.Ingress && g.Ingress != nil:
		g.Ingress(hello, conn)
	case hello.Stream == wire.Control && g.Control != nil:
		if wire.WriteReply(conn, wire.Reply{}) == nil {
			answer(conn, g.Control)
		}
	default:
		_ = wire.WriteReply(conn, wire.Reply{Code: wire.Denied})
	}
}

// answer is an HTTP server for one connection.
func answer(conn net.Conn, handler http.Handler) {
	closed := make(chan struct{})
	one := &single{conn: &told{Conn: conn, closed: closed}, closed: closed}
	server := http.Server{Handler: handler}
	_ = server.Serve(one)
	<-closed
	_ = server.Close()
}

type told struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

func (t *told) Close() error {
	t.once.Do(func() { close(t.closed) })
	return t.Conn.Close()
}

type single struct {
	conn   net.Conn
	closed chan struct{}
}

func (s *single) Accept() (net.Conn, error) {
	if conn := s.conn; conn != nil {
		s.conn = nil
		return conn, nil
	}
	<-s.closed
	return nil, net.ErrClosed
}

func (*single) Close() error   { return nil }
func (*single) Addr() net.Addr { return &net.UnixAddr{} }

// Echo opens a client's stream and sends back what comes, until the client ends.
func Echo(_ wire.Hello, conn transport.Conn) {
	if wire.WriteReply(conn, wire.Reply{}) != nil {
		return
	}
	_, _ = io.Copy(conn, struct{ io.Reader }{conn})
	_ = conn.CloseWrite()
}
