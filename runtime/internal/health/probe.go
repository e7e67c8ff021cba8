package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"cagebuild.dev/runtime/internal/proxyproto"
	"cagebuild.dev/runtime/internal/settings"
)

const (
	maxBody   = 64 << 10 // bytes of an answer that are waited for
	maxHeader = 16 << 10
)

// probe asks one port.
type probe struct {
	address string
	path    string // empty: a connection is enough
	proxied bool
	maybe   bool   // the app may speak TLS
	scheme  string // the one that the app speaks, once it is known
	client  *http.Client
}

func newProbe(port settings.Ingress) *probe {
	p := &probe{
		address: net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port.Port))),
		path:    port.Health,
		proxied: port.ProxyProtocol,
		maybe:   port.TLS == "passthrough",
	}
	var protocols http.Protocols
	if port.Protocol == "h2c" {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true) // by ALPN
	}
	p.client = &http.Client{
		Transport: &http.Transport{
			DialContext:            p.dial,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
			Protocols:              &protocols,
			// It is the app on loopback, whatever its certificate says: nothing secret goes there, and
			// nothing comes back but a status.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

func (p *probe) close() { p.client.CloseIdleConnections() }

func (p *probe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", p.address)
	if err != nil || !p.proxied {
		return conn, err
	}
	// Of a connection that a proxy makes for itself, as for health checks: no addresses.
	if err := proxyproto.Write(conn, netip.AddrPort{}, netip.AddrPort{}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask returns what is wrong with the port, or nil.
func (p *probe) ask(ctx context.Context) error {
	if p.path == "" {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		conn, err := p.dial(ctx, "", "")
		if err != nil {
			return plain(err)
		}
		return conn.Close()
	}
	if p.scheme != "" {
		err := p.get(ctx, p.scheme)
		if !isStatus(err) {
			p.scheme = "" // another app, perhaps
		}
		return err
	}
	return p.find(ctx)
}

// find asks a port of which it isn't known whether it speaks TLS. A TLS server may well answer a request
// without TLS, with a status that says so.
func (p *probe) find(ctx context.Context) error {
	err := p.get(ctx, "http")
	var failed *net.OpError
	if err == nil || !p.maybe || errors.As(err, &failed) && failed.Op == "dial" {
		if err == nil {
			p.scheme = "http"
		}
		return err
	}
	secure := p.get(ctx, "https")
	if isStatus(secure) {
		p.scheme = "https"
		return secure
	}
	return err
}

// isStatus reports whether a request came to an answer, a good one or not.
func isStatus(err error) bool {
	var status *statusError
	return err == nil || errors.As(err, &status)
}

type statusError struct{ status int }

func (e *statusError) Error() string { return fmt.Sprintf("got status %d, expected 2xx", e.status) }

func (p *probe) get(ctx context.Context, scheme string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+p.address+p.path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "cagebuild-health")
	response, err := p.client.Do(request)
	if err != nil {
		return plain(err)
	}
	defer response.Body.Close()
	// An answer that breaks off isn't well, and an endless one is cut.
	if _, err := io.CopyN(io.Discard, response.Body, maxBody); err != nil && !errors.Is(err, io.EOF) {
		return plain(err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return &statusError{response.StatusCode}
	}
	return nil
}

// plain leaves out what the client puts in front of a cause: method and URL, which are the settings'.
func plain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer in %v", timeout.Round(time.Second))
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
