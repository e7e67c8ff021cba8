package admin_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/admin"
	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/transport"
)

const patience = 20 * time.Second

func start(t *testing.T, guest *hosttest.Guest) (*admin.Server, func(path, accept string) (int, string)) {
	t.Helper()
	leak.Check(t)
	var address transport.Address
	if guest != nil {
		guest.Start(t)
		address = guest.Address
	}
	registry := metrics.NewRegistry()
	registry.Counter("cage_host_x_total", "X.").Inc()
	server := admin.New(admin.Options{
		Guest:   func() (transport.Address, bool) { return address, guest != nil },
		Journal: journal.New(io.Discard), Metrics: registry,
	})
	path := filepath.Join(t.TempDir(), "admin.sock")
	if _, err := server.Listen(transport.Address{Scheme: "unix", Path: path}); err != nil {
		t.Fatal(err)
	}
	asking := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", path)
		},
	}}
	t.Cleanup(server.Close)
	return server, func(path, accept string) (int, string) {
		request, err := http.NewRequest(http.MethodGet, "http://admin"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", accept)
		response, err := asking.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
}

func healthy(status string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/metrics" {
			_, _ = io.WriteString(w, "# TYPE cage_a gauge\ncage_a 1\ncage_host_x_total 99\n")
			return
		}
		if status != "up" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"status": status, "ports": []any{map[string]any{"port": 80, "error": "a\nb"}},
		})
	}
}

func TestHealthIsTheGuestsAndReadinessItsAnswer(t *testing.T) {
	for status, want := range map[string]int{"up": 200, "starting": 503, "waiting-for-secrets": 503, "down": 503} {
		_, get := start(t, &hosttest.Guest{Control: healthy(status)})
		code, body := get("/health", "")
		if code != want || body != status+"\nport 80: not healthy: a\\nb\n" {
			t.Errorf("%s: got %d %q", status, code, body)
		}
		if code, _ := get("/ready", ""); code != 200 {
			t.Errorf("%s: ready is %d", status, code)
		}
		code, body = get("/health", "application/json")
		var said struct {
			Status string
			Guest  struct{ Status string }
		}
		if err := json.Unmarshal([]byte(body), &said); err != nil || code != want || said.Status != status || said.Guest.Status != status {
			t.Errorf("%s: got %d %s, %v", status, code, body, err)
		}
	}
}

func TestNobodyIsHealthyWithoutAGuest(t *testing.T) {
	dead := &hosttest.Guest{}
	_, get := start(t, dead)
	dead.Stop()
	_, none := start(t, nil)
	for _, ask := range []func(string, string) (int, string){get, none} {
		for _, path := range []string{"/health", "/ready"} {
			if code, body := ask(path, ""); code != 503 || !strings.HasPrefix(body, "unreachable\n") {
				t.Errorf("%s: got %d %q", path, code, body)
			}
		}
		code, body := ask("/metrics", "")
		if code != 200 || !strings.Contains(body, "cage_host_x_total 1\n") || !strings.Contains(body, "cage_host_guest_metrics 0\n") {
			t.Errorf("got %d %s", code, body)
		}
	}
}

func TestDrainingIsNotHealthy(t *testing.T) {
	server, get := start(t, &hosttest.Guest{Control: healthy("up")})
	server.Drain()
	for _, path := range []string{"/health", "/ready"} {
		if code, body := get(path, ""); code != 503 || !strings.HasPrefix(body, "draining\n") {
			t.Errorf("%s: got %d %q", path, code, body)
		}
	}
}

func TestTheGuestIsAskedOnceHoweverManyAsk(t *testing.T) {
	var asked atomic.Int32
	_, get := start(t, &hosttest.Guest{Control: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		healthy("up")(w, r)
	})})
	began := time.Now()
	for range 20 {
		if code, _ := get("/health", ""); code != 200 {
			t.Error(code)
		}
	}
	if most := int32(time.Since(began)/time.Second) + 1; asked.Load() > most {
		t.Errorf("asked %d times, at most %d", asked.Load(), most)
	}
}

func TestBothMetricsAreThereAndTheGuestHasNoNameOfTheHosts(t *testing.T) {
	_, get := start(t, &hosttest.Guest{Control: healthy("up")})
	code, body := get("/metrics", "")
	if code != 200 || !strings.Contains(body, "cage_host_x_total 1\n") || strings.Contains(body, "99") ||
		!strings.HasSuffix(body, "# TYPE cage_a gauge\ncage_a 1\n") {
		t.Errorf("got %d %s", code, body)
	}
	if code, _ := get("/nothing", ""); code != 404 {
		t.Errorf("got %d", code)
	}
}

func TestOnlyRightMetricsAreLeft(t *testing.T) {
	for text, want := range map[string]string{
		"a 1\n":                            "a 1\n",
		"a 1":                              "a 1\n",
		"a{b=\"c\",d=\"\\\"\\\\\\n\"} 1\n": "a{b=\"c\",d=\"\\\"\\\\\\n\"} 1\n",
		"a +Inf\nb NaN\nc 1e9\n":           "a +Inf\nb NaN\nc 1e9\n",
		"# HELP a Text.\n# TYPE a counter\na 1\n": "# HELP a Text.\n# TYPE a counter\na 1\n",
		"a 1\nb 1\n# TYPE a gauge\na{x=\"\"} 2\n": "# TYPE a gauge\na 1\na{x=\"\"} 2\nb 1\n", // in one piece
		"a 1\na 2\n":                 "a 1\n",
		"a 1 1700000000\n":           "",
		"a\n":                        "",
		"a x\n":                      "",
		"1a 1\n":                     "",
		"a{b=c} 1\n":                 "",
		"a{b=\"\\x\"} 1\n":           "",
		"a{b=\"\n\"} 1\n":            "",
		"a 1\r\n":                    "",
		"a{b=\"\xff\"} 1\n":          "",
		"cage_host_x 1\n":            "",
		"# TYPE cage_host_x gauge\n": "",
		"# TYPE a histogram\na 1\n":  "a 1\n",
		"# HELP a \\x\na 1\n":        "a 1\n",
		"# EOF\n# a comment\n\n":     "",
	} {
		if got := string(admin.Clean([]byte(text))); got != want {
			t.Errorf("%q: got %q, expected %q", text, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add([]byte("# HELP a Text.\n# TYPE a counter\na{b=\"c\"} 1\nb 2\na 3\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		once := admin.Clean(text)
		if twice := admin.Clean(once); string(twice) != string(once) {
			t.Fatalf("%q became %q", once, twice)
		}
		if strings.Contains("\n"+string(once), "\ncage_host_") {
			t.Fatalf("%q", once)
		}
	})
}
