// Package api is what a cage's app may ask of the runtime: HTTP on loopback, without authentication, for
// nobody but the app is there. runtime/api/openapi.yaml describes it.
package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"cagebuild.dev/runtime/internal/api/answer"
	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/nsm"
)

// Address is where the app finds it.
const Address = "127.0.0.1:9001"

const (
	maxConns  = 64
	maxHeader = 8 << 10 // bytes
	maxBody   = 8 << 10 // bytes: a request of the NSM in base64
	patience  = 10 * time.Second
	longest   = 2 * time.Minute // an answer may wait for a service outside
	idle      = 2 * time.Minute
)

// Module is the NSM, as far as the app may use it.
type Module interface {
	nsm.Attester
	PCRs() (map[uint16][]byte, error)
}

// Options of a Server.
type Options struct {
	Module  Module // nil: there is none
	Health  func() health.Report
	Metrics *metrics.Registry
	Decrypt http.Handler // POST /kms/decrypt; nil: there is none
}

// Server answers the app.
type Server struct {
	options  Options
	http     *http.Server
	requests *metrics.Counter
}

// New returns a Server. It serves when Serve is called.
func New(options Options) *Server {
	s := &Server{
		options:  options,
		requests: options.Metrics.Counter("cage_api_requests_total", "Requests of the app to the local API.", "path"),
	}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: patience,
		ReadTimeout:       2 * patience,
		WriteTimeout:      longest,
		IdleTimeout:       idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(answer.Log("api"), "", 0),
	}
	return s
}

// Serve answers at a listener until Shutdown, then returns nil.
func (s *Server) Serve(listener net.Listener) error {
	err := s.http.Serve(&answer.Bounded{Listener: listener, Slots: make(chan struct{}, maxConns)})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown takes no more requests and waits for those under way, until the context ends.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(method, path string, handler http.Handler) {
		count := s.requests.With(path)
		mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
			count.Inc()
			handler.ServeHTTP(w, r)
		})
	}
	handle("POST", "/attestation", http.HandlerFunc(s.attestation))
	handle("GET", "/pcrs", http.HandlerFunc(s.pcrs))
	handle("GET", "/health", http.HandlerFunc(s.health))
	handle("GET", "/metrics", http.HandlerFunc(s.metrics))
	if s.options.Decrypt != nil {
		handle("POST", "/kms/decrypt", s.options.Decrypt)
	}
	return ownHost(answer.JSONErrors(mux))
}

// ownHost refuses requests for another host's name: an app that fetches what users give it can be made to
// ask here by a name of theirs that resolves to loopback.
func ownHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if host != "127.0.0.1" && host != "localhost" {
			answer.Problem(w, http.StatusForbidden, "the host is to be 127.0.0.1 or localhost, got %.100q", r.Host)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// attestation makes a document of what the app wants in it.
func (s *Server) attestation(w http.ResponseWriter, r *http.Request) {
	body, _, ok := answer.Body(w, r, maxBody, "application/json")
	if !ok {
		return
	}
	var wanted struct {
		Nonce     []byte `json:"nonce"`
		PublicKey []byte `json:"public_key"`
		UserData  []byte `json:"user_data"`
	}
	err := answer.Decode(body, &wanted)
	request := nsm.Request{Nonce: wanted.Nonce, PublicKey: wanted.PublicKey, UserData: wanted.UserData}
	if err == nil {
		err = request.Check()
	}
	if err != nil {
		answer.Problem(w, http.StatusBadRequest, "%v", err)
		return
	}
	if s.options.Module == nil {
		noModule(w)
		return
	}
	document, err := s.options.Module.Attest(request)
	if err != nil {
		answer.Problem(w, http.StatusServiceUnavailable, "NSM: %v", err)
		return
	}
	answer.Document(w, document)
}

func noModule(w http.ResponseWriter) {
	answer.Problem(w, http.StatusServiceUnavailable, "there is no NSM here")
}

func (s *Server) pcrs(w http.ResponseWriter, _ *http.Request) {
	if s.options.Module == nil {
		noModule(w)
		return
	}
	registers, err := s.options.Module.PCRs()
	if err != nil {
		answer.Problem(w, http.StatusServiceUnavailable, "NSM: %v", err)
		return
	}
	named := make(map[string]string, len(registers))
	for index, value := range registers {
		named[fmt.Sprintf("PCR%d", index)] = hex.EncodeToString(value)
	}
	answer.JSON(w, http.StatusOK, named)
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	answer.Health(w, s.options.Health())
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	answer.Metrics(w, s.options.Metrics)
}
