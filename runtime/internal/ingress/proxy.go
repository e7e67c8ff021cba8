package ingress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// chunk is how much of an answer is moved at once, in bytes.
const chunk = 32 << 10

var nowhere = log.New(io.Discard, "", 0)

// serveHTTP makes the port's server. Where the app's connections begin with a PROXY header, a client's requests share
// connections to the app with nobody else's; else all share them.
func (p *port) serveHTTP() {
	if !p.ProxyProtocol {
		p.pool = p.newPool(&stream{})
	}
	p.server = newServer(&p.owner.running, p)
}

// ServeHTTP answers a client's request with what the app answers.
func (p *port) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == AttestationPath {
		p.owner.evidence.ServeHTTP(w, r)
		return
	}
	if r.Method == http.MethodConnect {
		answer(w, http.StatusMethodNotAllowed, "this is no forward proxy")
		return
	}
	if r.URL.Opaque != "" {
		answer(w, http.StatusBadRequest, "the request's target is neither a path nor a URL")
		return
	}
	client := streamOf(r)
	defer func() {
		// An answer that isn't whole must not look as if it were: TLS would end in order, and an answer without a
		// length ends with it. With HTTP/2 the one stream is reset, and the connection goes on.
		if cause := recover(); cause != nil {
			if r.ProtoMajor == 1 {
				client.abort()
			}
			panic(cause)
		}
	}()
	controller := http.NewResponseController(w)
	body := &requestBody{ReadCloser: r.Body}
	if r.ProtoMajor == 1 {
		// The app may answer before it has read everything, and while it reads.
		_ = controller.EnableFullDuplex()
		body.interrupt = func() { _ = controller.SetReadDeadline(time.Unix(1, 0)) }
	}
	upgrade := &upgrade{client: client}
	ctx := r.Context()
	if r.Header.Get("Upgrade") != "" {
		ctx = upgrade.watch(ctx)
	}
	r = r.WithContext(ctx)
	r.Body = body
	proxy := httputil.ReverseProxy{
		Rewrite:       p.rewrite,
		Transport:     &p.poolOf(client).Transport,
		FlushInterval: -1, // at once
		ErrorLog:      nowhere,
		BufferPool:    chunks{},
		ModifyResponse: func(response *http.Response) error {
			if response.StatusCode == http.StatusSwitchingProtocols {
				return upgrade.fromApp(response)
			}
			return checkAnswer(response)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil || body.failed.Load() {
				panic(http.ErrAbortHandler) // the client is gone
			}
			p.counts.refused.Inc(p.name(), string(codeOf(err)))
			answer(w, http.StatusBadGateway, fmt.Sprintf("port %d of the app: %v", p.Port, err))
		},
	}
	proxy.ServeHTTP(&appAnswer{w, controller, upgrade}, r)
}

// rewrite makes the request to the app: the client's own, but for where it goes and what is said about where it
// comes from. What the client says about that has been removed.
func (p *port) rewrite(request *httputil.ProxyRequest) {
	in, out := request.In, request.Out
	out.URL.Scheme, out.URL.Host = "http", net.JoinHostPort("127.0.0.1", p.name())
	out.URL.RawQuery = in.URL.RawQuery
	keepTarget(out.URL, in.RequestURI)
	// The same map: it is filled when the body has been read.
	out.Trailer = in.Trailer
	request.SetXForwarded()
}

// keepTarget has a path sent byte by byte as it came. Parsed and put together again, one that is unusual is another.
func keepTarget(target *url.URL, asked string) {
	if !strings.HasPrefix(asked, "/") || strings.HasPrefix(asked, "//") {
		return // it would be taken for a host
	}
	path, query, found := strings.Cut(asked, "?")
	target.Opaque, target.RawQuery, target.ForceQuery = path, query, found && query == ""
}

// checkAnswer refuses what net/http doesn't send on. An answer with trailers loses its length: HTTP/1.1 has no place
// for trailers behind a body of a known length.
func checkAnswer(response *http.Response) error {
	if response.StatusCode < 100 {
		return fmt.Errorf("answered with status %d", response.StatusCode)
	}
	if len(response.Trailer) > 0 && response.Request.Method != http.MethodHead {
		response.Header.Del("Content-Length")
	}
	return nil
}

// requestBody is a client's, which the app may not want, or not all of.
type requestBody struct {
	io.ReadCloser
	interrupt func() // makes a Read that waits for the client return; nil: Close does
	ended     atomic.Bool
	failed    atomic.Bool
}

func (b *requestBody) Read(data []byte) (int, error) {
	count, err := b.ReadCloser.Read(data)
	if err != nil {
		b.failed.Store(!errors.Is(err, io.EOF))
		b.ended.Store(true)
	}
	return count, err
}

// Close doesn't wait for a client that itself waits for the answer's end. Its connection ends after the answer then,
// as that of everybody whose request wasn't read.
func (b *requestBody) Close() error {
	if b.interrupt != nil && !b.ended.Load() {
		b.interrupt()
	}
	return b.ReadCloser.Close()
}

// appAnswer is where the app's answer goes.
type appAnswer struct {
	http.ResponseWriter
	controller *http.ResponseController
	upgrade    *upgrade
}

// Unwrap is for http.ResponseController.
func (a *appAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader keeps net/http from guessing what the app didn't say.
func (a *appAnswer) WriteHeader(status int) {
	if header := a.Header(); status >= 200 && header["Content-Type"] == nil {
		header["Content-Type"] = nil
	}
	a.ResponseWriter.WriteHeader(status)
}

// Hijack is for protocols that begin with HTTP.
func (a *appAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := a.controller.Hijack()
	if err == nil {
		conn, err = a.upgrade.fromClient(conn, buffered.Reader)
	}
	return conn, buffered, err
}

// chunks are the buffers of answers.
type chunks struct{}

var chunkPool = sync.Pool{New: func() any { return new([chunk]byte) }}

func (chunks) Get() []byte { return chunkPool.Get().(*[chunk]byte)[:] }

func (chunks) Put(buffer []byte) { chunkPool.Put((*[chunk]byte)(buffer)) }
