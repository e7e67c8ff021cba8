package ingress

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// headerPatience is how long the header of a request may take.
	headerPatience = 10 * time.Second
	// idlePatience is how long a connection may wait for its next request. Longer than load balancers keep
	// connections to their targets open by default, so that they, and not this end, close them.
	idlePatience = 2 * time.Minute
	// maxHeader is how long a request's header may be, in bytes.
	maxHeader = 64 << 10
	// maxStreams is how many requests an HTTP/2 connection may have under way.
	maxStreams = 250
)

// server serves HTTP on connections whose TLS handshake is over.
type server struct {
	http.Server
	conns  chan net.Conn
	ending chan struct{}
	once   sync.Once
}

// newServer starts one. The client's own mistakes are nothing to log.
func newServer(running *tally, handler http.Handler) *server {
	s := &server{conns: make(chan net.Conn), ending: make(chan struct{})}
	s.Server = http.Server{
		Handler:                      handler,
		ReadHeaderTimeout:            headerPatience,
		IdleTimeout:                  idlePatience,
		MaxHeaderBytes:               maxHeader,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:                     log.New(io.Discard, "", 0),
		DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, streamKey{}, conn.(interface{ NetConn() net.Conn }).NetConn())
		},
	}
	running.run(func() { _ = s.Serve(handedOver{s}) })
	return s
}

// streamKey is that of the stream in a request's context.
type streamKey struct{}

func streamOf(request *http.Request) *stream {
	return request.Context().Value(streamKey{}).(*stream)
}

// serve takes over a connection: a *tls.Conn, or a plainConn.
func (s *server) serve(conn interface {
	net.Conn
	NetConn() net.Conn
}) {
	conn.NetConn().(*stream).setPatience(stalled)
	select {
	case s.conns <- conn:
	case <-s.ending:
		_ = conn.Close()
	}
}

// handedOver is the net.Listener of what serve took.
type handedOver struct{ *server }

func (h handedOver) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.ending:
		return nil, net.ErrClosed
	}
}

func (h handedOver) Close() error {
	h.once.Do(func() { close(h.ending) })
	return nil
}

func (handedOver) Addr() net.Addr { return noAddr{} }
