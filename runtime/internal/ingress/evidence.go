package ingress

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"cagebuild.dev/runtime/internal/certificate"
)

const (
	// AttestationPath is where the data plane answers with an attestation document: for the key with which TLS
	// ends, and with a nonce of the client.
	AttestationPath = "/.well-known/attestation"

	// AttestationProtocol is what a client offers in its TLS handshake (ALPN) to ask, over HTTP/1.1, for nothing
	// but that: the one way where the app's own protocol isn't HTTP.
	AttestationProtocol = "cagebuild-attestation/1"
)

// What a nonce may have, in bytes: too few can be guessed, more the device doesn't take.
const (
	minNonce = 16
	maxNonce = 512
)

// maxAsking is how many documents may be waited for at once. The device makes one at a time.
const maxAsking = 64

// evidence answers those who want to know what runs here.
type evidence struct {
	owner  *Ingress
	places chan struct{}
	server *server
}

func newEvidence(owner *Ingress) *evidence {
	e := &evidence{owner: owner, places: make(chan struct{}, maxAsking)}
	e.server = newServer(&owner.running, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != AttestationPath {
			answer(w, http.StatusNotFound, "on this connection there is "+AttestationPath+" alone")
			return
		}
		e.ServeHTTP(w, r)
	}))
	return e
}

// ServeHTTP answers a request for AttestationPath.
func (e *evidence) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed, "ask with GET")
		return
	}
	nonce, err := nonceOf(r.URL)
	if err != nil {
		answer(w, http.StatusBadRequest, err.Error())
		return
	}
	select {
	case e.places <- struct{}{}:
		defer func() { <-e.places }()
	default:
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusServiceUnavailable, "too many ask for attestation documents")
		return
	}
	document, err := e.owner.options.Certificates.Attest(nonce)
	if err != nil {
		answer(w, http.StatusServiceUnavailable, "no attestation document: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", certificate.MediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(document)))
	_, _ = w.Write(document)
}

// answer is one of the data plane itself: a line of text.
func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "cage: %s\n", text)
}

// nonceOf reads the query: nonce=, and in it hexadecimal digits or base64url. What could be both is hexadecimal.
func nonceOf(target *url.URL) ([]byte, error) {
	query, err := url.ParseQuery(target.RawQuery)
	if err != nil {
		return nil, errors.New("the query can't be read")
	}
	values := query["nonce"]
	if len(values) != 1 || len(query) != 1 {
		return nil, fmt.Errorf("expected the query ?nonce= with %d to %d bytes in hexadecimal or base64url, and nothing else",
			minNonce, maxNonce)
	}
	nonce, err := hex.DecodeString(values[0])
	if err != nil {
		nonce, err = base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(values[0], "="))
	}
	if err != nil {
		return nil, errors.New("the nonce is neither hexadecimal nor base64url")
	}
	if len(nonce) < minNonce || len(nonce) > maxNonce {
		return nil, fmt.Errorf("the nonce has %d bytes, expected %d to %d", len(nonce), minNonce, maxNonce)
	}
	return nonce, nil
}
