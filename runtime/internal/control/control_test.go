package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/logs"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
)

// host is the parent's side: a client whose connections are streams of the server's.
type host struct {
	server *Server
	client *http.Client
}

func start(t *testing.T, options Options) *host {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := New(options)
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if !server.Serve(conn) {
				_ = conn.Close()
			}
		}
	}()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = listener.Close()
		<-accepted
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &host{server: server, client: &http.Client{Transport: transport}}
}

func (h *host) ask(t *testing.T, method, path, kind, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, "http://cage"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", kind)
	response, err := h.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// vault takes secrets and certificates, and remembers the last.
type vault struct {
	got  string
	fail error
}

func (v *vault) PublicKey() []byte { return []byte("the key") }
func (v *vault) Deliver(kind string, body []byte) error {
	v.got = kind + " " + string(body)
	return v.fail
}
func (v *vault) Request(names []string) ([]byte, error) {
	v.got = strings.Join(names, " ")
	return []byte("-----BEGIN"), v.fail
}
func (v *vault) Install(chain []byte) error {
	v.got = string(chain)
	return v.fail
}

func TestHealthIsAStatusForALoadBalancer(t *testing.T) {
	leak.Check(t)
	var missing atomic.Pointer[[]string]
	missing.Store(&[]string{"KEY"})
	monitor := health.New(nil)
	h := start(t, Options{Health: func() health.Report { return monitor.Report(1, *missing.Load()) }})
	status, text := h.ask(t, "GET", "/v1/health", "", "")
	var report health.Report
	if err := json.Unmarshal([]byte(text), &report); err != nil || status != 503 || report.Status != health.Waiting ||
		report.MissingSecrets[0] != "KEY" || report.App.Restarts != 1 {
		t.Errorf("got %d %s, %v", status, text, err)
	}
	missing.Store(&[]string{})
	if status, text := h.ask(t, "GET", "/v1/health", "", ""); status != 200 {
		t.Errorf("got %d %s", status, text)
	}
}

func TestMetricsAreText(t *testing.T) {
	leak.Check(t)
	registry := metrics.NewRegistry()
	registry.Counter("x_total", "X.").Inc()
	h := start(t, Options{Metrics: registry})
	if status, text := h.ask(t, "GET", "/v1/metrics", "", ""); status != 200 || !strings.HasSuffix(text, "\nx_total 1\n") {
		t.Errorf("got %d %q", status, text)
	}
}

func TestTheLogIsKeptInsideUnlessTheSettingsSayOtherwise(t *testing.T) {
	leak.Check(t)
	h := start(t, Options{})
	if status, text := h.ask(t, "GET", "/v1/logs?follow=1", "", ""); status != 403 || !strings.Contains(text, "error") {
		t.Errorf("got %d %q", status, text)
	}
}

func TestTheLogIsFollowed(t *testing.T) {
	leak.Check(t)
	ring := logs.New(logs.Size)
	ring.Add([]byte("app: one"))
	h := start(t, Options{Logs: ring})
	if status, text := h.ask(t, "GET", "/v1/logs", "", ""); status != 200 || text != "app: one\n" {
		t.Errorf("got %d %q", status, text)
	}
	response, err := h.client.Get("http://cage/v1/logs?follow=1")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for _, want := range []string{"app: one\n", "app: two\n"} {
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			t.Errorf("got %q, %v", got, err)
		}
		ring.Add([]byte("app: two"))
	}
}

func TestAFollowerDoesNotHoldUpTheEnd(t *testing.T) {
	leak.Check(t)
	ring := logs.New(logs.Size)
	h := start(t, Options{Logs: ring})
	ring.Add([]byte("x"))
	response, err := h.client.Get("http://cage/v1/logs?follow=1")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := h.server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != "x\n" {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestADocumentNamesTheKeyThatIsAskedFor(t *testing.T) {
	leak.Check(t)
	server, err := nsmtest.Listen(filepath.Join(t.TempDir(), "nsm"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	device, err := nsm.Open(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	h := start(t, Options{Attester: device, Secrets: &vault{}})
	for query, key := range map[string]string{"?nonce=00ff&key=secrets": "the key", "?nonce=00ff": ""} {
		status, text := h.ask(t, "GET", "/v1/attestation"+query, "", "")
		if status != 200 {
			t.Fatalf("got %d %q", status, text)
		}
		document, err := nsmtest.Verify([]byte(text), server.Root)
		if err != nil || string(document.PublicKey) != key || !bytes.Equal(document.Nonce, []byte{0, 255}) {
			t.Errorf("got %+v, %v", document, err)
		}
	}
	for query, want := range map[string]string{
		"?nonce=0g":                           "hexadecimal",
		"?nonce=000":                          "hexadecimal",
		"?key=tls":                            "there is no key",
		"?key=x":                              "there is no key",
		"?nonce=" + strings.Repeat("00", 513): "512",
	} {
		if status, text := h.ask(t, "GET", "/v1/attestation"+query, "", ""); status != 400 || !strings.Contains(text, want) {
			t.Errorf("%.40s: got %d %q", query, status, text)
		}
	}
	server.Fail(nsm.InternalError)
	if status, text := h.ask(t, "GET", "/v1/attestation", "", ""); status != 503 || !strings.Contains(text, "InternalError") {
		t.Errorf("got %d %q", status, text)
	}
}

func TestWhatTheCageDoesNotHaveIsNotFound(t *testing.T) {
	leak.Check(t)
	h := start(t, Options{})
	for _, given := range []struct {
		method, path, kind, body string
		status                   int
	}{
		{"POST", "/v1/csr", typeJSON, `{"names": ["a"]}`, 404},
		{"PUT", "/v1/certificate", typePEM, "x", 404},
		{"PUT", "/v1/secrets", typeJSON, "{}", 404},
		{"POST", "/v1/stop", "", "", 404},
		{"GET", "/v1/attestation", "", "", 503},
		{"GET", "/v1/attestation?key=secrets", "", "", 400},
		{"GET", "/", "", "", 404},
		{"GET", "/v1/secrets", "", "", 405},
		{"POST", "/v1/health", "", "", 405},
	} {
		status, text := h.ask(t, given.method, given.path, given.kind, given.body)
		var problem map[string]string
		if err := json.Unmarshal([]byte(text), &problem); err != nil || status != given.status || problem["error"] == "" {
			t.Errorf("%+v: got %d %q", given, status, text)
		}
	}
}

func TestWhatTheOperatorGivesIsHandedOnOrRefused(t *testing.T) {
	leak.Check(t)
	keeper := &vault{}
	h := start(t, Options{Certificates: keeper, Secrets: keeper, SecretTypes: []string{typeJSON, "application/x-sealed"}, MaxSecrets: 100})
	for _, given := range []struct {
		method, path, kind, body string
		fail                     error
		status                   int
		got                      string
	}{
		{"PUT", "/v1/secrets", typeJSON, "{}", nil, 204, typeJSON + " {}"},
		{"PUT", "/v1/secrets", "application/x-sealed", "\x00", nil, 204, "application/x-sealed \x00"},
		{"PUT", "/v1/secrets", "text/plain", "{}", nil, 415, ""},
		{"PUT", "/v1/secrets", typeJSON, strings.Repeat("x", 101), nil, 413, ""},
		{"PUT", "/v1/secrets", typeJSON, "{}", errors.New("no such name"), 400, typeJSON + " {}"},
		{"PUT", "/v1/certificate", typePEM, "chain", nil, 204, "chain"},
		{"PUT", "/v1/certificate", "application/pem-certificate-chain", "chain", nil, 204, "chain"},
		{"PUT", "/v1/certificate", typeJSON, "chain", nil, 415, ""},
		{"PUT", "/v1/certificate", typePEM, "chain", errors.New("not for this key"), 400, "chain"},
		{"POST", "/v1/csr", typeJSON, `{"names": ["a", "b"]}`, nil, 200, "a b"},
		{"POST", "/v1/csr", typeJSON, `{"names": []}`, nil, 400, ""},
		{"POST", "/v1/csr", typeJSON, `{"names": ["a"], "x": 1}`, nil, 400, ""},
		{"POST", "/v1/csr", typeJSON, `{"names": ["a"]}`, errors.New("no name"), 400, "a"},
		{"POST", "/v1/csr", typeJSON, `{"names": [` + strings.Repeat(`"a",`, maxNames) + `"a"]}`, nil, 400, ""},
	} {
		keeper.got, keeper.fail = "", given.fail
		status, text := h.ask(t, given.method, given.path, given.kind, given.body)
		if status != given.status || keeper.got != given.got || given.fail != nil && !strings.Contains(text, given.fail.Error()) {
			t.Errorf("%+v: got %d %q, %q came", given, status, text, keeper.got)
		}
	}
}

func TestStopIsAnsweredBeforeTheEnd(t *testing.T) {
	leak.Check(t)
	asked := make(chan struct{})
	h := start(t, Options{Stop: func() { close(asked) }})
	if status, text := h.ask(t, "POST", "/v1/stop", "", ""); status != 202 {
		t.Errorf("got %d %q", status, text)
	}
	<-asked
}

func TestStreamsThatSayNothingAreBoundedAndNothingIsServedAfterTheEnd(t *testing.T) {
	leak.Check(t)
	h := start(t, Options{})
	near, far := net.Pipe()
	defer far.Close()
	if !h.server.Serve(near) {
		t.Error("there was no room")
	}
	if _, err := io.WriteString(far, "GARBAGE\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if answer, err := io.ReadAll(far); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
		t.Errorf("got %q, %v", answer, err)
	}
	if err := h.server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	near, far = net.Pipe()
	defer near.Close()
	defer far.Close()
	if h.server.Serve(near) {
		t.Error("it was taken")
	}
}
