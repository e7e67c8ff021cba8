package certificate

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
)

// clock is a time that a test sets.
type clock struct {
	mutex sync.Mutex
	at    time.Time
}

func newClock() *clock { return &clock{at: time.Now()} }

func (c *clock) now() time.Time {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.at
}

func (c *clock) move(by time.Duration) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.at = c.at.Add(by)
}

// lines is a log.
type lines struct {
	mutex sync.Mutex
	text  []string
}

func (l *lines) add(format string, arguments ...any) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.text = append(l.text, fmt.Sprintf(format, arguments...))
}

func (l *lines) take() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	text := strings.Join(l.text, "\n")
	l.text = nil
	return text
}

type fixture struct {
	*Store
	server *nsmtest.Server
	clock  *clock
	log    *lines
}

func start(t testing.TB, failure nsm.Error) fixture {
	t.Helper()
	leak.Check(t)
	server, err := nsmtest.Listen(filepath.Join(t.TempDir(), "nsm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	server.Fail(failure)
	device, err := nsm.Open(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{server: server, clock: newClock(), log: &lines{}}
	f.Store, err = New(Options{Name: "pay", Attester: device, Log: f.log.add, Clock: f.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// leaf is the certificate that a client gets.
func (f fixture) leaf(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	got, err := f.Get(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return got.Leaf
}

func (f fixture) document(t testing.TB) *nsmtest.Document {
	t.Helper()
	document, err := Unwrap(f.leaf(t, "pay"))
	if err != nil {
		t.Fatal(err)
	}
	verified, err := nsmtest.Verify(document, f.server.Root)
	if err != nil {
		t.Fatal(err)
	}
	return verified
}

func TestTheCertificateHasADocumentThatNamesItsKey(t *testing.T) {
	f := start(t, "")
	leaf := f.leaf(t, "pay")
	spki, err := x509.MarshalPKIXPublicKey(leaf.PublicKey.(*ecdsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.document(t); !bytes.Equal(got.PublicKey, spki) || !bytes.Equal(spki, f.PublicKey()) {
		t.Errorf("the document is for %x, the certificate for %x", got.PublicKey, spki)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	for _, name := range []string{"pay", "localhost", "127.0.0.1", "::1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() > 127+1 {
		t.Errorf("serial number %v", leaf.SerialNumber)
	}
	if lasts := leaf.NotAfter.Sub(f.clock.now()); lasts < validity-time.Minute || lasts > validity {
		t.Errorf("valid for %v", lasts)
	}
	if log := f.log.take(); log != "" {
		t.Errorf("said %q", log)
	}
}

func TestAFreshDocumentHasTheNonce(t *testing.T) {
	f := start(t, "")
	document, err := f.Attest([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := nsmtest.Verify(document, f.server.Root)
	if err != nil || string(got.Nonce) != "0123456789abcdef" || !bytes.Equal(got.PublicKey, f.PublicKey()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWithoutADeviceThereIsNoDocument(t *testing.T) {
	log := &lines{}
	store, err := New(Options{Name: "pay", Log: log.add})
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.Get(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(got.Leaf); !errors.Is(err, ErrNoEvidence) {
		t.Errorf("got %v", err)
	}
	if _, err := store.Attest(nil); !errors.Is(err, ErrNoAttester) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(log.take(), "no attestation document") {
		t.Error("nothing was said")
	}
	if store.isDue() {
		t.Error("is due at once")
	}
}

func TestADeviceThatFailsAtFirstIsAskedAgain(t *testing.T) {
	f := start(t, nsm.InternalError)
	if _, err := Unwrap(f.leaf(t, "pay")); !errors.Is(err, ErrNoEvidence) {
		t.Errorf("got %v", err)
	}
	if log := f.log.take(); !strings.Contains(log, "can't be attested") || !strings.Contains(log, "InternalError") {
		t.Errorf("said %q", log)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.Run(ctx)
	}()
	f.server.Fail("")
	deadline := time.Now().Add(30 * time.Second)
	for f.own.Load().document == nil {
		if time.Now().After(deadline) {
			t.Fatal("was not asked again")
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-ended
	f.document(t)
	if log := f.log.take(); log != "the certificate for TLS is attested" {
		t.Errorf("said %q", log)
	}
}

func TestTheCertificateIsRenewedWithTheSameKey(t *testing.T) {
	f := start(t, "")
	before := f.leaf(t, "pay")
	f.clock.move(renewal - time.Second)
	if f.isDue() {
		t.Error("is due too early")
	}
	f.clock.move(time.Second)
	if !f.isDue() {
		t.Fatal("isn't due")
	}
	made := f.server.Documents()
	if err := f.renew(); err != nil || f.isDue() || f.server.Documents() != made+1 {
		t.Fatalf("got %v, due: %v, %d documents", err, f.isDue(), f.server.Documents())
	}
	after := f.leaf(t, "pay")
	if before.Equal(after) || !after.PublicKey.(*ecdsa.PublicKey).Equal(before.PublicKey) {
		t.Error("is the same, or of another key")
	}
	if after.SerialNumber.Cmp(before.SerialNumber) == 0 {
		t.Error("has the same serial number")
	}
}

func TestAfterALeapOfTheClockTheCertificateIsRenewed(t *testing.T) {
	for _, leap := range []time.Duration{-50 * 365 * 24 * time.Hour, -time.Minute, 50 * 365 * 24 * time.Hour} {
		f := start(t, "")
		f.clock.move(leap)
		if !f.isDue() {
			t.Errorf("%v: isn't due", leap)
		}
		if err := f.renew(); err != nil {
			t.Fatal(err)
		}
		now, leaf := f.clock.now(), f.leaf(t, "pay")
		if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) || f.isDue() {
			t.Errorf("%v: valid from %v to %v", leap, leaf.NotBefore, leaf.NotAfter)
		}
	}
}

func TestWithoutANewDocumentTheOldOneStays(t *testing.T) {
	f := start(t, "")
	before := f.leaf(t, "pay")
	made := f.document(t).Time
	f.server.Fail(nsm.InternalError)
	f.clock.move(renewal)
	for range 3 {
		if err := f.renew(); !errors.Is(err, nsm.InternalError) || !f.isDue() {
			t.Fatalf("got %v, due: %v", err, f.isDue())
		}
	}
	if !f.leaf(t, "pay").Equal(before) {
		t.Error("the certificate was replaced")
	}
	if log := f.log.take(); strings.Count(log, "\n") != 0 || !strings.Contains(log, "InternalError") {
		t.Errorf("said %q", log)
	}
	f.clock.move(patience)
	if err := f.renew(); !errors.Is(err, nsm.InternalError) {
		t.Fatalf("got %v", err)
	}
	after := f.leaf(t, "pay")
	if after.Equal(before) || after.NotAfter.Sub(f.clock.now()) < validity-time.Minute {
		t.Error("the certificate was not replaced")
	}
	if !f.document(t).Time.Equal(made) {
		t.Error("the document is another")
	}
	if !f.isDue() {
		t.Error("a new document is not asked for any more")
	}
}

// TestAClientSeesTheCertificate speaks TLS, in both versions, with what the store gives.
func TestAClientSeesTheCertificate(t *testing.T) {
	f := start(t, "")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		inner, outer := net.Pipe()
		server := tls.Server(inner, &tls.Config{GetCertificate: f.Get})
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		roots := x509.NewCertPool()
		roots.AddCert(f.leaf(t, "pay"))
		client := tls.Client(outer, &tls.Config{
			RootCAs: roots, ServerName: "pay", MinVersion: version, MaxVersion: version,
		})
		if err := errors.Join(client.Handshake(), <-done); err != nil {
			t.Fatal(err)
		}
		if _, err := Unwrap(client.ConnectionState().PeerCertificates[0]); err != nil {
			t.Error(err)
		}
		_ = inner.Close()
		_ = outer.Close()
	}
}
