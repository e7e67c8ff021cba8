package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/control"
	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/host/client"
	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// patience is after how long a test hangs.
const patience = 20 * time.Second

func answering(t *testing.T, handler http.HandlerFunc) (context.Context, *client.Client) {
	t.Helper()
	return with(t, &hosttest.Guest{Control: handler})
}

func with(t *testing.T, guest *hosttest.Guest) (context.Context, *client.Client) {
	t.Helper()
	leak.Check(t)
	guest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx, client.New(guest.Address)
}

type device struct{ request nsm.Request }

func (d *device) Attest(request nsm.Request) ([]byte, error) {
	d.request = request
	return []byte("document"), nil
}

type key struct{ installed, delivered []byte }

func (*key) PublicKey() []byte { return []byte("public") }
func (k *key) Request(names []string) ([]byte, error) {
	if names[0] == "no" {
		return nil, errors.New("no such\nname")
	}
	return request(names), nil
}
func (k *key) Install(chain []byte) error { k.installed = chain; return nil }
func (k *key) Deliver(kind string, body []byte) error {
	k.delivered = append([]byte(kind+" "), body...)
	return nil
}

func request(names []string) []byte {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, private)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

type lines string

func (l lines) CopyTo(_ context.Context, to io.Writer, follow bool, flush func() error) error {
	_, err := fmt.Fprintf(to, "%sfollow %v\n", l, follow)
	return errors.Join(err, flush())
}

// The guest's own server and this client have to understand each other.
func TestEveryRequestIsAnsweredByTheRealServer(t *testing.T) {
	nitro, keys, stopped := &device{}, &key{}, make(chan bool, 1)
	registry := metrics.NewRegistry()
	registry.Counter("cage_x_total", "X.").Inc()
	report := health.Report{Status: "waiting-for-secrets", MissingSecrets: []string{"KEY"}}
	report.App.Restarts = 2
	report.Ports = []health.PortReport{{Port: 80, Healthy: false, Since: 5, Error: "refused"}}
	server := control.New(control.Options{
		Health: func() health.Report { return report }, Metrics: registry, Logs: lines("app: a\x1b[2J\n"), Attester: nitro,
		Certificates: keys, Secrets: keys, SecretTypes: []string{"application/json", client.SealedType}, MaxSecrets: 1000,
		Stop: func() { stopped <- true },
	})
	ctx, guest := with(t, &hosttest.Guest{Raw: func(conn transport.Conn) {
		hello, err := wire.ReadHello(conn)
		if err != nil || hello.Stream != wire.Control {
			t.Errorf("got %+v, %v", hello, err)
			return
		}
		_ = wire.WriteReply(conn, wire.Reply{})
		closed := make(chan struct{})
		if server.Serve(&telling{conn, closed}) {
			<-closed
		}
	}})
	t.Cleanup(func() { _ = server.Shutdown(ctx) })
	state, err := guest.Health(ctx)
	want := &client.Health{
		Status: "waiting-for-secrets", App: client.App{Restarts: 2},
		Ports:          []client.Port{{Port: 80, Healthy: false, Since: 5, Error: "refused"}},
		MissingSecrets: []string{"KEY"},
	}
	if err != nil || !reflect.DeepEqual(state, want) {
		t.Errorf("got %+v, %v", state, err)
	}
	if line := state.Line(); line != "waiting-for-secrets; app: 2 restarts; port 80: not healthy: refused; secret is missing: KEY" {
		t.Errorf("got %s", line)
	}
	if text, err := guest.Metrics(ctx); err != nil || !strings.Contains(string(text), "cage_x_total 1\n") {
		t.Errorf("got %s, %v", text, err)
	}
	for follow, want := range map[bool]string{false: `app: a\x1b[2J|follow false|`, true: `app: a\x1b[2J|follow true|`} {
		var got strings.Builder
		err := guest.Logs(ctx, follow, func(line string) error { got.WriteString(line + "|"); return nil })
		if err != nil || got.String() != want {
			t.Errorf("got %s, %v; expected %s", got.String(), err, want)
		}
	}
	document, err := guest.Attestation(ctx, []byte{1, 0xfe}, "tls")
	if err != nil || string(document) != "document" || hex.EncodeToString(nitro.request.Nonce) != "01fe" ||
		string(nitro.request.PublicKey) != "public" {
		t.Errorf("got %q, %+v, %v", document, nitro.request, err)
	}
	if text, err := guest.CSR(ctx, []string{"a.example.com"}); err != nil || !bytes.HasPrefix(text, []byte("-----BEGIN")) {
		t.Errorf("got %s, %v", text, err)
	}
	var refused *client.StatusError
	if _, err := guest.CSR(ctx, []string{"no"}); !errors.As(err, &refused) || refused.Message != `no such\nname` {
		t.Errorf("got %v", err)
	}
	if err := guest.SetCertificate(ctx, []byte("chain")); err != nil || string(keys.installed) != "chain" {
		t.Errorf("got %q, %v", keys.installed, err)
	}
	for sealed, want := range map[bool]string{false: "application/json {}", true: client.SealedType + " {}"} {
		if err := guest.PutSecrets(ctx, []byte("{}"), sealed); err != nil || string(keys.delivered) != want {
			t.Errorf("got %q, %v", keys.delivered, err)
		}
	}
	if err := guest.Stop(ctx); err != nil || !<-stopped {
		t.Error(err)
	}
}

// telling is a stream that says when its new owner has closed it.
type telling struct {
	transport.Conn
	closed chan struct{}
}

func (t *telling) Close() error {
	err := t.Conn.Close()
	if err == nil {
		close(t.closed)
	}
	return err
}

func TestAHostileGuestGetsAnErrorAndNothingElse(t *testing.T) {
	endless := func(head, part string) func(transport.Conn) {
		return func(conn transport.Conn) {
			if _, err := wire.ReadHello(conn); err != nil {
				return
			}
			_ = wire.WriteReply(conn, wire.Reply{})
			_, err := io.WriteString(conn, head)
			for err == nil {
				_, err = io.WriteString(conn, part)
			}
		}
	}
	once := func(text string) func(transport.Conn) {
		return func(conn transport.Conn) {
			if _, err := wire.ReadHello(conn); err != nil {
				return
			}
			_ = wire.WriteReply(conn, wire.Reply{})
			_, _ = io.WriteString(conn, text)
		}
	}
	block := strings.Repeat("x", 4096)
	for name, raw := range map[string]func(transport.Conn){
		"no reply":                func(transport.Conn) {},
		"no HTTP":                 once("\x1b[2J garbage\r\n\r\n"),
		"HTTP/2":                  once("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		"a redirect":              once("HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"),
		"an upgrade":              once("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
		"endless header":          endless("HTTP/1.1 200 OK\r\nx: ", block),
		"endless status":          endless("HTTP/1.1 200 ", block),
		"endless headers":         endless("HTTP/1.1 200 OK\r\n", "a: b\r\n"),
		"endless body":            endless("HTTP/1.1 200 OK\r\n\r\n", block),
		"endless chunks":          endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
		"endless interim answers": endless("", "HTTP/1.1 103 Early Hints\r\n\r\n"),
		"endless problem":         endless("HTTP/1.1 500 No\r\n\r\n", block),
		"a body that breaks off":  once("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
		"zeros":                   endless("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", strings.Repeat("\x00", 4096)),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, guest := with(t, &hosttest.Guest{Raw: raw})
			for what, ask := range map[string]func() error{
				"health":      func() error { _, err := guest.Health(ctx); return err },
				"metrics":     func() error { _, err := guest.Metrics(ctx); return err },
				"attestation": func() error { _, err := guest.Attestation(ctx, []byte{1}, ""); return err },
				"csr":         func() error { _, err := guest.CSR(ctx, []string{"a"}); return err },
				"secrets":     func() error { return guest.PutSecrets(ctx, []byte("{}"), false) },
			} {
				err := ask()
				if err == nil || ctx.Err() != nil {
					t.Fatalf("%s: got %v", what, err)
				}
				if text := err.Error(); len(text) > 2000 || strings.ContainsAny(text, "\x1b\n\x00") {
					t.Errorf("%s: got %.300q", what, text)
				}
			}
		})
	}
}

func TestAStalledGuestIsGivenUpWithTheContext(t *testing.T) {
	_, guest := with(t, &hosttest.Guest{Raw: func(conn transport.Conn) { _, _ = io.Copy(io.Discard, conn) }})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := guest.Health(ctx); err == nil {
		t.Error("no error")
	}
}

func TestLinesOfALogAreBoundedAndPrintable(t *testing.T) {
	const size = 100_000
	ctx, guest := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "a\r\n\nb\x1b[0m \xff\n"+strings.Repeat("x", size)+"\nend")
	})
	var got []string
	longest, total := 0, 0
	if err := guest.Logs(ctx, true, func(line string) error {
		if strings.HasPrefix(line, "x") {
			longest, total = max(longest, len(line)), total+len(line)
		} else {
			got = append(got, line)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "", `b\x1b[0m ` + "\uFFFD", "end"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
	if total != size || longest > 8<<10 {
		t.Errorf("got %d bytes, at most %d in a line", total, longest)
	}
}

func TestARequestThatIsNoneIsRefused(t *testing.T) {
	right := request([]string{"a"})
	block, _ := pem.Decode(right)
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	for name, answer := range map[string][]byte{
		"nothing":         nil,
		"text":            []byte("hello"),
		"another type":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}),
		"no DER":          pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")}),
		"wrong signature": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged}),
	} {
		ctx, guest := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) })
		if got, err := guest.CSR(ctx, []string{"a"}); err == nil {
			t.Errorf("%s: taken: %s", name, got)
		}
	}
	// What stands around it doesn't come along.
	ctx, guest := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(append([]byte("\x1b[2J\n"), append(right, "more"...)...))
	})
	if got, err := guest.CSR(ctx, []string{"a"}); err != nil || !bytes.Equal(got, right) {
		t.Errorf("got %s, %v", got, err)
	}
}

func FuzzHealth(f *testing.F) {
	f.Add([]byte(`{"status":"up","app":{"restarts":1},"ports":[{"port":80,"healthy":true,"since":1,"error":""}],"missing_secrets":[]}`))
	f.Add([]byte(`{"status":"down","missing_secrets":["\u001b"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		state, err := client.ParseHealth(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b\x00") {
				t.Fatalf("%q", err)
			}
			return
		}
		if line := state.Line(); strings.ContainsAny(line, "\n\x1b\x00") {
			t.Fatalf("%q", line)
		}
	})
}
