package answer

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cagebuild.dev/runtime/internal/leak"
)

func TestABodyIsOfOneTypeAndBounded(t *testing.T) {
	for _, given := range []struct {
		kind, body string
		status     int
	}{
		{"application/json", "12345678", 0},
		{"application/json; charset=utf-8", "", 0},
		{"text/plain", "", 415},
		{"", "", 415},
		{"application/json", "123456789", 413},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/", strings.NewReader(given.body))
		r.Header.Set("Content-Type", given.kind)
		body, kind, ok := Body(w, r, 8, "application/json", "application/x")
		if ok != (given.status == 0) || ok && (string(body) != given.body || kind != "application/json") {
			t.Errorf("%+v: got %q, %q, %v", given, body, kind, ok)
		}
		if !ok && (w.Code != given.status || !strings.HasPrefix(w.Body.String(), `{"error":"`)) {
			t.Errorf("%+v: got %d %s", given, w.Code, w.Body)
		}
	}
}

func TestPathsAndMethodsThatAreNotThereAreProblemsInJSON(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /a", func(w http.ResponseWriter, _ *http.Request) { JSON(w, 200, 1) })
	handler := JSONErrors(mux)
	for target, want := range map[string]string{
		"GET /a":    "200  1\n",
		"POST /a":   `405 GET, HEAD {"error":"this path takes GET or HEAD"}` + "\n",
		"GET /b":    `404  {"error":"there is no such path"}` + "\n",
		"GET /a/":   `404  {"error":"there is no such path"}` + "\n",
		"GET /%2e/": `404  {"error":"there is no such path"}` + "\n",
	} {
		method, path, _ := strings.Cut(target, " ")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		got := strings.Join([]string{http.StatusText(w.Code), w.Header().Get("Allow"), w.Body.String()}, " ")
		want = strings.NewReplacer("200", "OK", "404", "Not Found", "405", "Method Not Allowed").Replace(want)
		if got != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: got %q, expected %q", target, got, want)
		}
	}
}

func TestAValueThatIsNoJSONIsAProblem(t *testing.T) {
	w := httptest.NewRecorder()
	JSON(w, 200, func() {})
	if w.Code != 500 || !json.Valid(w.Body.Bytes()) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	leak.Check(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := &Bounded{Listener: inner, Slots: make(chan struct{}, 1)}
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	var clients []net.Conn
	for range 2 {
		client, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Error("a second one was accepted")
	default:
	}
	_ = first.Close()
	_ = first.Close() // gives back one place, not two
	second := <-accepted
	if len(listener.Slots) != 1 {
		t.Errorf("%d places are taken", len(listener.Slots))
	}
	_ = second.Close()
	_ = listener.Close()
	for range accepted {
		t.Error("another one was accepted")
	}
	for _, client := range clients {
		_, _ = io.Copy(io.Discard, client)
		_ = client.Close()
	}
}

func FuzzDecode(f *testing.F) {
	for _, body := range []string{`{"names": ["a"]}`, `{}`, `{} {}`, `null`, `[]`, `{"x": 1}`, ` {"names": null}`, "\xff"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var value struct {
			Names []string `json:"names"`
		}
		if err := Decode(body, &value); err != nil {
			return
		}
		var same map[string]any
		if err := json.Unmarshal(body, &same); err != nil || same == nil || len(same) > 1 && !strings.Contains(strings.ToLower(string(body)), "names") {
			t.Fatalf("%q was taken: %v", body, err)
		}
	})
}
