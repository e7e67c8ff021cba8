// Package certificate has the key with which TLS ends in the enclave, and the certificates for it.
//
// The key is made here and never leaves. Its own certificate is self-signed: what vouches for it is the
// attestation document inside, which names the key, so that a client that verifies the document knows with whom
// it speaks. An operator can have an authority sign another one, for names of the operator's: the enclave makes
// the request, and takes the chain.
package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/say"
)

const (
	// validity is how long a self-signed certificate is valid, from before it was made: clocks differ.
	validity = 7 * 24 * time.Hour
	backdate = time.Hour

	// renewal is the age at which the certificate is made anew, with a new document. Documents are signed with
	// certificates that are valid for three hours, and some time of that is gone when one is made; a client
	// that goes by its own clock must find them valid, and may ask for a document that is at most an hour old.
	renewal = 30 * time.Minute

	// patience is the age at which the certificate is made anew even if no new document can be had.
	patience = validity / 2

	// check is how often the clock is looked at. It can leap, so the age isn't what a timer says.
	check = 15 * time.Second

	// Failures are tried again after the first delay, which doubles up to the last.
	firstDelay = time.Second
	lastDelay  = time.Minute
)

// Options of a Store.
type Options struct {
	Name     string       // of the cage: a host name
	Attester nsm.Attester // nil: there is none, and the certificate has no document
	// Log is told what goes wrong. Nil: the console.
	Log func(format string, arguments ...any)
	// Clock is the time. Nil: that of the machine.
	Clock func() time.Time
}

// Store has a key and its certificates. It may be used from several goroutines.
type Store struct {
	options Options
	key     *ecdsa.PrivateKey
	public  []byte // SubjectPublicKeyInfo, DER

	own       atomic.Pointer[own]
	installed atomic.Pointer[tls.Certificate]
	renewing  sync.Mutex
	troubled  bool // attesting has failed last time; under renewing
}

// own is the self-signed certificate.
type own struct {
	certificate *tls.Certificate
	document    []byte    // nil: none
	attested    time.Time // when the document was made
	made        time.Time // when the certificate was
}

// New makes a key, and a certificate for it. If it can't be attested now, the certificate has no document, and
// Run tries again.
func New(options Options) (*Store, error) {
	if options.Log == nil {
		options.Log = say.Line
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key for TLS: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("key for TLS: %w", err)
	}
	s := &Store{options: options, key: key, public: public}
	if options.Attester == nil {
		options.Log("there is no device that attests: the certificate for TLS has no attestation document")
	}
	_ = s.renew() // which has said what is wrong
	if s.own.Load() == nil {
		return nil, errors.New("no certificate for TLS could be made")
	}
	return s, nil
}

// PublicKey is the public half of the key, as a SubjectPublicKeyInfo in DER.
func (s *Store) PublicKey() []byte { return append([]byte(nil), s.public...) }

// ErrNoAttester says that there is no device that attests.
var ErrNoAttester = errors.New("there is no device that attests")

// Attest makes a fresh document that names the key, with a nonce of the client.
func (s *Store) Attest(nonce []byte) ([]byte, error) {
	if s.options.Attester == nil {
		return nil, ErrNoAttester
	}
	return s.options.Attester.Attest(nsm.Request{Nonce: nonce, PublicKey: s.public})
}

// Get is for tls.Config.GetCertificate. The operator's certificate is for the names in it; a client that names
// none gets it if it has the address that the client connected to. Everybody else gets the self-signed one.
func (s *Store) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if installed := s.installed.Load(); installed != nil {
		name := hello.ServerName
		if name == "" && hello.Conn != nil {
			name, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
		}
		if name != "" && installed.Leaf.VerifyHostname(name) == nil {
			return installed, nil
		}
	}
	return s.own.Load().certificate, nil
}

// Run renews the self-signed certificate, and its document, until the context ends.
func (s *Store) Run(ctx context.Context) {
	delay := firstDelay
	wait := time.NewTimer(firstDelay)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		next := check
		if s.isDue() {
			if err := s.renew(); err == nil {
				delay = firstDelay
			} else {
				next, delay = delay, min(2*delay, lastDelay)
			}
		}
		wait.Reset(next)
	}
}

// now is without the monotonic reading: ages are by the clock that clients see.
func (s *Store) now() time.Time { return s.options.Clock().Round(0) }

func (s *Store) isDue() bool {
	now, current := s.now(), s.own.Load()
	if s.options.Attester != nil && (current.document == nil || isAway(now, current.attested, renewal)) {
		return true
	}
	return isAway(now, current.made, patience)
}

// isAway tells whether a time is that long ago, or in the future: then the clock was set back.
func isAway(now, at time.Time, age time.Duration) bool {
	return now.Before(at) || now.Sub(at) >= age
}

// renew makes a new certificate with a new document. Without one the old certificate stays, if there is one
// that is still good.
func (s *Store) renew() error {
	s.renewing.Lock()
	defer s.renewing.Unlock()
	now, current := s.now(), s.own.Load()
	next := own{made: now}
	var failure error
	if s.options.Attester != nil {
		if next.document, failure = s.Attest(nil); failure == nil {
			next.attested = now
		}
	}
	s.tell(failure)
	if failure != nil && current != nil {
		if !isAway(now, current.made, patience) {
			return failure
		}
		next.document, next.attested = current.document, current.attested
	}
	certificate, err := s.sign(now, next.document)
	if err != nil {
		s.options.Log("certificate for TLS: %v", err)
		return err
	}
	next.certificate = certificate
	s.own.Store(&next)
	return failure
}

// tell says once that something has begun to fail, and once that it works again.
func (s *Store) tell(failure error) {
	switch {
	case failure != nil && !s.troubled:
		s.options.Log("the certificate for TLS can't be attested, trying again: %v", failure)
	case failure == nil && s.troubled:
		s.options.Log("the certificate for TLS is attested")
	}
	s.troubled = failure != nil
}

// sign makes the self-signed certificate.
func (s *Store) sign(now time.Time, document []byte) (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: s.options.Name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{s.options.Name, "localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if document != nil {
		extension, err := Wrap(document)
		if err != nil {
			return nil, err
		}
		template.ExtraExtensions = []pkix.Extension{extension}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &s.key.PublicKey, s.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.key, Leaf: leaf}, nil
}
