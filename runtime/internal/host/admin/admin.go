// Package admin is the HTTP server for whoever runs a cage: load balancers, Prometheus, people.
//
//	GET /health   200 while the app is up and the host takes connections, else 503
//	GET /ready    200 while the guest answers and the host takes connections, else 503
//	GET /metrics  the host's metrics and the guest's, in Prometheus' text format
//
// The first two answer in text, or in JSON where the request accepts application/json.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cagebuild.dev/runtime/internal/host/client"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/transport"
)

const (
	// askTimeout is how long the guest may take: less than load balancers wait.
	askTimeout = 4 * time.Second

	// freshness is for how long one answer of the guest is good: however many ask, the guest is asked once.
	freshness = time.Second

	requestTimeout = 10 * time.Second
	maxHeader      = 16 << 10
	maxClients     = 256
)

// Options of a Server. All are required.
type Options struct {
	// Guest says where the guest listens at the moment, and whether there is one.
	Guest   func() (transport.Address, bool)
	Journal *journal.Journal
	Metrics *metrics.Registry
}

// Server answers requests. Its methods may be called from everywhere at once.
type Server struct {
	options  Options
	http     http.Server
	draining atomic.Bool
	serving  sync.WaitGroup

	mutex sync.Mutex
	asked time.Time
	last  answer
}

type answer struct {
	health *client.Health
	err    error
}

// New returns a Server that listens nowhere yet.
func New(options Options) *Server {
	s := &Server{options: options}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { s.state(w, r, false) })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) { s.state(w, r, true) })
	mux.HandleFunc("GET /metrics", s.metrics)
	s.http = http.Server{
		Handler:           mux,
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      2 * requestTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // clients' mistakes
	}
	return s
}

// Listen begins to answer, and returns where.
func (s *Server) Listen(address transport.Address) (net.Addr, error) {
	listener, err := address.Listen()
	if err != nil {
		return nil, err
	}
	bounded := &bounded{Listener: listener, room: make(chan struct{}, maxClients), closed: make(chan struct{})}
	s.serving.Go(func() {
		if err := s.http.Serve(bounded); !errors.Is(err, http.ErrServerClosed) {
			s.options.Journal.Line("admin: %v", err)
		}
	})
	return listener.Addr(), nil
}

// Drain makes the host unhealthy from now on, so that no more clients are sent.
func (s *Server) Drain() { s.draining.Store(true) }

// Close ends all requests.
func (s *Server) Close() {
	_ = s.http.Close()
	s.serving.Wait()
}

// health asks the guest, at most once in a while.
func (s *Server) health() answer {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if time.Since(s.asked) < freshness {
		return s.last
	}
	guest, there := s.options.Guest()
	if !there {
		s.last = answer{err: errors.New("no enclave is running")}
		return s.last
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	health, err := client.New(guest).Health(ctx)
	s.asked, s.last = time.Now(), answer{health, err}
	return s.last
}

type status struct {
	Status string         `json:"status"` // the guest's, or "draining" or "unreachable"
	Error  string         `json:"error,omitempty"`
	Guest  *client.Health `json:"guest,omitempty"`
}

func (s *Server) state(w http.ResponseWriter, r *http.Request, reachable bool) {
	found := s.health()
	said, code := status{Guest: found.health}, http.StatusServiceUnavailable
	switch {
	case s.draining.Load():
		said.Status = "draining"
	case found.err != nil:
		said.Status, said.Error = "unreachable", found.err.Error()
	default:
		said.Status = found.health.Status
		if reachable || said.Status == client.Up {
			code = http.StatusOK
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(said)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(said.text())
}

func (s status) text() []byte {
	var out bytes.Buffer
	fmt.Fprintln(&out, s.Status)
	if s.Error != "" {
		fmt.Fprintln(&out, s.Error)
	}
	if s.Guest != nil {
		out.WriteString(s.Guest.Text())
	}
	return out.Bytes()
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	var out bytes.Buffer
	var guests []byte
	reached := 0.0
	if guest, there := s.options.Guest(); there {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		if text, err := client.New(guest).Metrics(ctx); err == nil {
			guests, reached = Clean(text), 1
		}
	}
	s.options.Metrics.Gauge("cage_host_guest_metrics", "Whether the guest's metrics are here.").Set(reached)
	if err := s.options.Metrics.WriteText(&out); err != nil {
		http.Error(w, "metrics", http.StatusInternalServerError)
		return
	}
	out.Write(guests)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(out.Bytes())
}

// bounded is a listener whose connections are no more than there is room for.
type bounded struct {
	transport.Listener
	room   chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Accept waits for room first.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.room <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.room
		select {
		case <-b.closed:
			return nil, net.ErrClosed
		default:
			return nil, passing{err}
		}
	}
	return &leaving{Conn: conn, leave: sync.OnceFunc(func() { <-b.room })}, nil
}

func (b *bounded) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

type leaving struct {
	net.Conn
	leave func()
}

func (l *leaving) Close() error {
	l.leave()
	return l.Conn.Close()
}

// passing is an error of Accept that net/http waits out instead of ending.
type passing struct{ error }

func (passing) Timeout() bool   { return false }
func (passing) Temporary() bool { return true }
