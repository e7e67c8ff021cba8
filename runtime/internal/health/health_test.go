package health

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/proxyproto"
	"cagebuild.dev/runtime/internal/settings"
)

const hang = 20 * time.Second

func port(address net.Addr) uint16 { return uint16(address.(*net.TCPAddr).Port) }

// ask asks once, of a port with a path.
func ask(t *testing.T, rule settings.Ingress) error {
	t.Helper()
	probe := newProbe(rule)
	defer probe.close()
	return probe.ask(t.Context())
}

func expect(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, expected %q", err, want)
	}
}

func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func TestTheStatusDecides(t *testing.T) {
	leak.Check(t)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		if _, err := fmt.Sscanf(r.RequestURI, "/status?code=%d&x=%%20", &status); err != nil {
			t.Errorf("got %q: %v", r.RequestURI, err)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	})
	for status, want := range map[int]string{
		200: "", 204: "", 299: "", 301: "got status 301, expected 2xx", 404: "got status 404", 503: "got status 503",
	} {
		rule := settings.Ingress{Port: port(server.Listener.Addr()), TLS: "terminate", Protocol: "http"}
		rule.Health = fmt.Sprintf("/status?code=%d&x=%%20", status)
		expect(t, ask(t, rule), want)
	}
}

func TestAPortThatSpeaksTLSIsFoundOut(t *testing.T) {
	leak.Check(t)
	var plain, secure atomic.Int32
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			secure.Add(1)
		} else {
			plain.Add(1)
		}
	})
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	probe := newProbe(settings.Ingress{Port: port(server.Listener.Addr()), Health: "/", TLS: "passthrough"})
	defer probe.close()
	for range 3 {
		expect(t, probe.ask(t.Context()), "")
		if probe.scheme != "https" {
			t.Errorf("scheme %q", probe.scheme)
		}
	}
	if plain.Load() != 0 || secure.Load() != 3 {
		t.Errorf("%d and %d requests", plain.Load(), secure.Load())
	}
	// With terminated TLS the app has nothing to do with it.
	expect(t, ask(t, settings.Ingress{Port: port(server.Listener.Addr()), Health: "/", TLS: "terminate"}), "400")
}

func TestAPassthroughPortWithoutTLSIsAskedWithoutOnceThatIsKnown(t *testing.T) {
	leak.Check(t)
	var connections atomic.Int32
	status := http.StatusServiceUnavailable
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	probe := newProbe(settings.Ingress{Port: port(server.Listener.Addr()), Health: "/", TLS: "passthrough"})
	defer probe.close()
	expect(t, probe.ask(t.Context()), "got status 503")
	status = http.StatusOK
	expect(t, probe.ask(t.Context()), "")
	before := connections.Load()
	status = http.StatusInternalServerError
	expect(t, probe.ask(t.Context()), "got status 500")
	if got := connections.Load() - before; got != 1 || probe.scheme != "http" {
		t.Errorf("%d connections, scheme %q", got, probe.scheme)
	}
}

func TestHTTP2WithoutTLSIsAskedWithPriorKnowledge(t *testing.T) {
	leak.Check(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("got %s", r.Proto)
		}
	}))
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	expect(t, ask(t, settings.Ingress{Port: port(server.Listener.Addr()), Health: "/", TLS: "terminate", Protocol: "h2c"}), "")
}

// listen answers every connection to a port in its own way.
func listen(t *testing.T, answer func(net.Conn)) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			answer(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return port(listener.Addr())
}

func TestAnAppThatWantsAProxyHeaderGetsOneOfNobody(t *testing.T) {
	leak.Check(t)
	number := listen(t, func(conn net.Conn) {
		peer, own, err := proxyproto.Read(conn)
		if err != nil || peer.IsValid() || own.IsValid() {
			t.Errorf("got %v, %v, %v", peer, own, err)
		}
		_, _ = conn.Read(make([]byte, 1000))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	for _, path := range []string{"/well", ""} {
		expect(t, ask(t, settings.Ingress{Port: number, Health: path, TLS: "terminate", ProxyProtocol: true}), "")
	}
}

func TestAnswersThatAreNoneAreErrors(t *testing.T) {
	leak.Check(t)
	endless := strings.Repeat("x", 1<<10)
	for name, given := range map[string]struct {
		answer func(net.Conn)
		want   string
	}{
		"garbage":         {func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-x\r\n") }, "malformed HTTP"},
		"nothing":         {func(net.Conn) {}, "EOF"},
		"cut off":         {func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab") }, "unexpected EOF"},
		"endless header":  {func(conn net.Conn) { flood(conn, "HTTP/1.1 200 OK\r\n", "X: "+endless+"\r\n") }, "exceeded"},
		"endless body":    {func(conn net.Conn) { flood(conn, "HTTP/1.1 200 OK\r\n\r\n", endless) }, ""},
		"endless 1xx":     {func(conn net.Conn) { flood(conn, "", "HTTP/1.1 103 Early\r\n\r\n") }, "exceeded"},
		"endless garbage": {func(conn net.Conn) { flood(conn, "", endless) }, ""},
	} {
		number := listen(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1000))
			given.answer(conn)
		})
		err := ask(t, settings.Ingress{Port: number, Health: "/", TLS: "terminate", Protocol: "http"})
		if name == "endless garbage" {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
			continue
		}
		expect(t, err, given.want)
	}
}

// flood writes until nobody reads.
func flood(conn net.Conn, first, again string) {
	_, err := io.WriteString(conn, first)
	for err == nil {
		_, err = io.WriteString(conn, again)
	}
}

func TestAPortWithoutAListenerIsNotHealthy(t *testing.T) {
	number := listen(t, func(net.Conn) {})
	for _, path := range []string{"", "/"} {
		expect(t, ask(t, settings.Ingress{Port: number, TLS: "passthrough"}), "")
		expect(t, ask(t, settings.Ingress{Port: 1, Health: path, TLS: "passthrough"}), "connection refused")
	}
}

func TestTheMonitorFollowsTheApp(t *testing.T) {
	leak.Check(t)
	var status atomic.Int32
	status.Store(http.StatusServiceUnavailable)
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	number := port(server.Listener.Addr())
	monitor := New([]settings.Ingress{
		{Port: number, Health: "/", TLS: "terminate", Protocol: "http"},
		{Port: number, TLS: "terminate", Protocol: "tcp"},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		monitor.Run(ctx)
		close(ended)
	}()
	until(t, func() bool {
		ports := monitor.Ports()
		return ports[1].Healthy && ports[0].Error == "got status 503, expected 2xx"
	})
	if healthy, ever := monitor.State(); healthy || ever {
		t.Errorf("got %v, %v", healthy, ever)
	}
	status.Store(http.StatusOK)
	until(t, func() bool { healthy, ever := monitor.State(); return healthy && ever })
	for _, got := range monitor.Ports() {
		if got.Port != number || got.Error != "" || time.Since(got.Since) > hang {
			t.Errorf("got %+v", got)
		}
	}
	cancel()
	<-ended
}

func TestACageWithoutPortsIsHealthy(t *testing.T) {
	monitor := New(nil)
	monitor.Run(t.Context())
	if healthy, ever := monitor.State(); !healthy || !ever {
		t.Errorf("got %v, %v", healthy, ever)
	}
}

func until(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hang); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it didn't come")
		}
	}
}

func TestTheReportSaysWhatCountsMost(t *testing.T) {
	monitor := New([]settings.Ingress{{Port: 80}})
	check := func(want Status, missing ...string) {
		t.Helper()
		got := monitor.Report(3, missing)
		if got.Status != want || got.App.Restarts != 3 || len(got.Ports) != 1 || len(got.MissingSecrets) != len(missing) {
			t.Errorf("got %+v, expected %s", got, want)
		}
	}
	check(Starting)
	check(Waiting, "A")
	monitor.note(0, nil)
	check(Up)
	check(Waiting, "A", "B")
	monitor.note(0, io.EOF)
	check(Down)
	text, err := json.Marshal(New(nil).Report(0, nil))
	if want := `{"status":"up","app":{"restarts":0},"ports":[],"missing_secrets":[]}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v", text, err)
	}
}
