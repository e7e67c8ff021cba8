// Package control is what the parent may ask of a cage: HTTP/1.1 over control streams.
//
//	GET  /v1/health       200 or 503  health.Report
//	GET  /v1/metrics      200         Prometheus' text format
//	GET  /v1/logs         200         the last lines; ?follow=1: and those that come. 403: the settings say no
//	GET  /v1/attestation  200         a document: ?nonce=HEX&key=secrets|tls
//	POST /v1/csr          200         {"names": […]} to a PEM certificate request for the key of TLS
//	PUT  /v1/certificate  204         the operator's certificate, PEM, leaf first
//	PUT  /v1/secrets      204         a bundle of secrets, in JSON or sealed
//	POST /v1/stop         202         ends the enclave
//
// Everything else that goes wrong is {"error": …}. The parent is taken for hostile: it can deny service, which
// it can anyway, and learns what is above and nothing else.
package control

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"cagebuild.dev/runtime/internal/api/answer"
	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/nsm"
)

const (
	maxConns  = 32
	maxHeader = 8 << 10 // bytes
	patience  = 10 * time.Second
	idle      = 2 * time.Minute

	maxNames       = 100 // of a certificate
	maxRequest     = 64 << 10
	maxCertificate = 256 << 10
)

// Media types of bodies.
const (
	typeJSON = "application/json"
	typePEM  = "application/x-pem-file"
	typeText = "text/plain; charset=utf-8"
)

// Secrets takes what the operator delivers.
type Secrets interface {
	// PublicKey is what bundles are sealed to.
	PublicKey() []byte
	// Deliver takes a body of one of the media types. The error is the sender's mistake, and repeats no value.
	Deliver(mediaType string, body []byte) error
}

// Certificates has the key of TLS that ends in the enclave.
type Certificates interface {
	// PublicKey is in DER (SubjectPublicKeyInfo).
	PublicKey() []byte
	// Request is a certificate signing request for these names, in PEM. The error is the sender's mistake.
	Request(names []string) ([]byte, error)
	// Install takes a chain in PEM, leaf first. The error is the sender's mistake.
	Install(chain []byte) error
}

// Logs has the last lines of the log.
type Logs interface {
	CopyTo(ctx context.Context, to io.Writer, follow bool, flush func() error) error
}

// Options of a Server. What is nil isn't offered.
type Options struct {
	Health       func() health.Report
	Metrics      *metrics.Registry
	Logs         Logs
	Attester     nsm.Attester
	Certificates Certificates
	Secrets      Secrets
	SecretTypes  []string // the media types of secrets
	MaxSecrets   int      // bytes of such a body
	Stop         func()   // begins to end the enclave
}

// Server serves control streams.
type Server struct {
	options Options
	http    *http.Server
	streams *streams
	ended   chan struct{}
	leave   context.CancelFunc // ends what would go on for ever
}

// New starts a Server.
func New(options Options) *Server {
	ctx, leave := context.WithCancel(context.Background())
	s := &Server{
		options: options,
		leave:   leave,
		streams: &streams{conns: make(chan net.Conn), closed: make(chan struct{})},
		ended:   make(chan struct{}),
	}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: patience,
		ReadTimeout:       patience,
		IdleTimeout:       idle,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(answer.Log("control"), "", 0),
	}
	listener := &answer.Bounded{Listener: s.streams, Slots: make(chan struct{}, maxConns)}
	go func() {
		defer close(s.ended)
		_ = s.http.Serve(listener) // ends by Shutdown alone
	}()
	return s
}

// Serve takes over a stream after its hello has been answered. It reports whether there was room for it; if
// there wasn't, the caller still has it.
func (s *Server) Serve(conn net.Conn) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case s.streams.conns <- conn:
		return true
	case <-s.streams.closed:
		return false
	case <-timer.C:
		return false
	}
}

// Shutdown takes no more streams and waits for the requests under way, until the context ends. Whoever follows
// the log is sent away.
func (s *Server) Shutdown(ctx context.Context) error {
	s.leave()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.ended
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /v1/health":      s.health,
		"GET /v1/metrics":     s.metrics,
		"GET /v1/attestation": s.attestation,
		"POST /v1/csr":        s.csr,
		"PUT /v1/certificate": s.certificate,
		"PUT /v1/secrets":     s.secrets,
		"POST /v1/stop":       s.stop,
	} {
		mux.HandleFunc(pattern, limited(handler))
	}
	mux.HandleFunc("GET /v1/logs", s.logs)
	return answer.JSONErrors(mux)
}

// limited bounds how long the answer may take to be written.
func limited(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(3 * patience))
		handler(w, r)
	}
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	answer.Health(w, s.options.Health())
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	answer.Metrics(w, s.options.Metrics)
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	if s.options.Logs == nil {
		answer.Problem(w, http.StatusForbidden, "the cage's settings keep its log inside")
		return
	}
	w.Header().Set("Content-Type", typeText)
	controller := http.NewResponseController(w)
	to := deadlines{w, controller}
	_ = s.options.Logs.CopyTo(r.Context(), to, r.URL.Query().Get("follow") == "1", controller.Flush)
}

// deadlines bounds how long each write may take: whoever follows the log takes its time between them.
type deadlines struct {
	to         io.Writer
	controller *http.ResponseController
}

func (d deadlines) Write(data []byte) (int, error) {
	if err := d.controller.SetWriteDeadline(time.Now().Add(3 * patience)); err != nil {
		return 0, err
	}
	return d.to.Write(data)
}

func (s *Server) attestation(w http.ResponseWriter, r *http.Request) {
	request, err := s.attestationRequest(r)
	if err != nil {
		answer.Problem(w, http.StatusBadRequest, "%v", err)
		return
	}
	if s.options.Attester == nil {
		answer.Problem(w, http.StatusServiceUnavailable, "there is no NSM here")
		return
	}
	document, err := s.options.Attester.Attest(request)
	if err != nil {
		answer.Problem(w, http.StatusServiceUnavailable, "NSM: %v", err)
		return
	}
	answer.Document(w, document)
}

func (s *Server) attestationRequest(r *http.Request) (request nsm.Request, err error) {
	query := r.URL.Query()
	if text := query.Get("nonce"); text != "" {
		if request.Nonce, err = hex.DecodeString(text); err != nil {
			return request, errors.New("the nonce is no hexadecimal number of bytes")
		}
	}
	switch key := query.Get("key"); {
	case key == "":
	case key == "secrets" && s.options.Secrets != nil:
		request.PublicKey = s.options.Secrets.PublicKey()
	case key == "tls" && s.options.Certificates != nil:
		request.PublicKey = s.options.Certificates.PublicKey()
	default:
		return request, fmt.Errorf("there is no key %.20q here", key)
	}
	return request, request.Check()
}

func (s *Server) csr(w http.ResponseWriter, r *http.Request) {
	body, _, ok := answer.Body(w, r, maxRequest, typeJSON)
	if !ok || !s.terminates(w) {
		return
	}
	var wanted struct {
		Names []string `json:"names"`
	}
	err := answer.Decode(body, &wanted)
	if err == nil && (len(wanted.Names) == 0 || len(wanted.Names) > maxNames) {
		err = fmt.Errorf("got %d names, expected 1 to %d", len(wanted.Names), maxNames)
	}
	var request []byte
	if err == nil {
		request, err = s.options.Certificates.Request(wanted.Names)
	}
	if err != nil {
		answer.Problem(w, http.StatusBadRequest, "%v", err)
		return
	}
	w.Header().Set("Content-Type", typePEM)
	answer.Bytes(w, http.StatusOK, request)
}

func (s *Server) certificate(w http.ResponseWriter, r *http.Request) {
	body, _, ok := answer.Body(w, r, maxCertificate, typePEM, "application/pem-certificate-chain")
	if !ok || !s.terminates(w) {
		return
	}
	if err := s.options.Certificates.Install(body); err != nil {
		answer.Problem(w, http.StatusBadRequest, "%v", err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) terminates(w http.ResponseWriter) bool {
	if s.options.Certificates == nil {
		answer.Problem(w, http.StatusNotFound, "TLS ends at no port of this cage")
		return false
	}
	return true
}

func (s *Server) secrets(w http.ResponseWriter, r *http.Request) {
	if s.options.Secrets == nil {
		answer.Problem(w, http.StatusNotFound, "this cage takes no secrets")
		return
	}
	body, mediaType, ok := answer.Body(w, r, s.options.MaxSecrets, s.options.SecretTypes...)
	if !ok {
		return
	}
	if err := s.options.Secrets.Deliver(mediaType, body); err != nil {
		answer.Problem(w, http.StatusBadRequest, "%v", err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) stop(w http.ResponseWriter, _ *http.Request) {
	if s.options.Stop == nil {
		answer.Problem(w, http.StatusNotFound, "nothing here can be stopped")
		return
	}
	w.WriteHeader(http.StatusAccepted)
	_ = http.NewResponseController(w).Flush() // before the end begins
	s.options.Stop()
}
