package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/certificate"
	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
	"cagebuild.dev/runtime/internal/settings"
)

// serve starts a Server and returns its URL.
func serve(t *testing.T, options Options) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := New(options)
	ended := make(chan error)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + listener.Addr().String()
}

// module is a stand-in for the NSM and what is open of it.
func module(t *testing.T) (*nsmtest.Server, *nsm.Device) {
	t.Helper()
	server, err := nsmtest.Listen(filepath.Join(t.TempDir(), "nsm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	device, err := nsm.Open(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	return server, device
}

func ask(t *testing.T, method, url, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for index := 0; index+1 < len(header); index += 2 {
		if header[index] == "Host" {
			request.Host = header[index+1]
			continue
		}
		request.Header.Set(header[index], header[index+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text), response.Header
}

func TestADocumentSaysWhatTheAppWantsAndNothingElse(t *testing.T) {
	leak.Check(t)
	server, device := module(t)
	url := serve(t, Options{Module: device})
	long := bytes.Repeat([]byte{7}, nsm.MaxPublicKey)
	for name, given := range map[string]struct {
		nonce, key, data []byte
	}{
		"nothing":    {},
		"all":        {[]byte("n"), long, []byte("\x00\xff")},
		"the limits": {long[:nsm.MaxNonce], long, long[:nsm.MaxUserData]},
	} {
		body, err := json.Marshal(map[string][]byte{"nonce": given.nonce, "public_key": given.key, "user_data": given.data})
		if err != nil {
			t.Fatal(err)
		}
		status, text, header := ask(t, "POST", url+"/attestation", string(body), "Content-Type", "application/json")
		if status != 200 || header.Get("Content-Type") != certificate.MediaType || header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%s: got %d %q %v", name, status, text, header)
		}
		document, err := nsmtest.Verify([]byte(text), server.Root)
		if err != nil || !bytes.Equal(document.Nonce, given.nonce) || !bytes.Equal(document.PublicKey, given.key) ||
			!bytes.Equal(document.UserData, given.data) {
			t.Errorf("%s: got %+v, %v", name, document, err)
		}
	}
}

func TestRequestsThatAreWrongAreProblems(t *testing.T) {
	leak.Check(t)
	_, device := module(t)
	url := serve(t, Options{Module: device})
	long := base64.StdEncoding.EncodeToString(make([]byte, nsm.MaxNonce+1))
	for _, given := range []struct {
		method, path, body string
		header             []string
		status             int
	}{
		{"POST", "/attestation", "{}", nil, 415},
		{"POST", "/attestation", "{}", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"POST", "/attestation", "", []string{"Content-Type", "application/json"}, 400},
		{"POST", "/attestation", "null", []string{"Content-Type", "application/json"}, 400},
		{"POST", "/attestation", "{}{}", []string{"Content-Type", "application/json"}, 400},
		{"POST", "/attestation", `{"nonse": ""}`, []string{"Content-Type", "application/json"}, 400},
		{"POST", "/attestation", `{"nonce": "?"}`, []string{"Content-Type", "application/json"}, 400},
		{"POST", "/attestation", `{"nonce": "` + long + `"}`, []string{"Content-Type", "application/json"}, 400},
		{"POST", "/attestation", strings.Repeat(" ", maxBody+1), []string{"Content-Type", "application/json"}, 413},
		{"GET", "/attestation", "", nil, 405},
		{"GET", "/", "", nil, 404},
		{"POST", "/kms/decrypt", "{}", []string{"Content-Type", "application/json"}, 404},
		{"GET", "/pcrs", "", []string{"Host", "evil.example.com"}, 403},
		{"GET", "/pcrs", "", []string{"Host", "localhost.evil.example.com:9001"}, 403},
		{"GET", "/pcrs", "", []string{"Host", "[::1]:9001"}, 403},
	} {
		status, text, _ := ask(t, given.method, url+given.path, given.body, given.header...)
		var problem struct{ Error string }
		if err := json.Unmarshal([]byte(text), &problem); err != nil || status != given.status || problem.Error == "" {
			t.Errorf("%+.200v: got %d %q", given, status, text)
		}
	}
	for _, host := range []string{"127.0.0.1", "localhost:1", "127.0.0.1:65535"} {
		if status, text, _ := ask(t, "GET", url+"/pcrs", "", "Host", host); status != 200 {
			t.Errorf("%s: got %d %q", host, status, text)
		}
	}
}

func TestTheRegistersAreThose(t *testing.T) {
	leak.Check(t)
	server, device := module(t)
	value := bytes.Repeat([]byte{0xa5}, 48)
	server.SetPCR(0, value)
	url := serve(t, Options{Module: device})
	status, text, _ := ask(t, "GET", url+"/pcrs", "")
	var registers map[string]string
	if err := json.Unmarshal([]byte(text), &registers); err != nil || status != 200 || registers["PCR0"] != hex.EncodeToString(value) {
		t.Errorf("got %d %s, %v", status, text, err)
	}
	server.Fail(nsm.InternalError)
	for _, target := range []string{"GET /pcrs", "POST /attestation"} {
		method, path, _ := strings.Cut(target, " ")
		status, text, _ := ask(t, method, url+path, "{}", "Content-Type", "application/json")
		if status != 503 || !strings.Contains(text, "InternalError") {
			t.Errorf("%s: got %d %q", target, status, text)
		}
	}
}

func TestWithoutAnNSMTheRestWorks(t *testing.T) {
	leak.Check(t)
	registry := metrics.NewRegistry()
	monitor := health.New([]settings.Ingress{{Port: 80}})
	url := serve(t, Options{Metrics: registry, Health: func() health.Report { return monitor.Report(2, nil) }})
	for target, want := range map[string]string{
		"POST /attestation": `503 {"error":"there is no NSM here"}`,
		"GET /pcrs":         `503 {"error":"there is no NSM here"}`,
		"GET /health":       `503 {"status":"starting","app":{"restarts":2},"ports":[{"port":80,"healthy":false,`,
		"GET /metrics":      "200 # HELP cage_api_requests_total ",
	} {
		method, path, _ := strings.Cut(target, " ")
		status, text, _ := ask(t, method, url+path, "{}", "Content-Type", "application/json")
		if got := fmt.Sprint(status, " ", text); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q", target, got)
		}
	}
	monitor = health.New(nil)
	if status, _, _ := ask(t, "GET", url+"/health", ""); status != 200 {
		t.Errorf("got %d", status)
	}
}

func TestDecryptIsHandedOn(t *testing.T) {
	leak.Check(t)
	url := serve(t, Options{Decrypt: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) })})
	if status, _, _ := ask(t, "POST", url+"/kms/decrypt", ""); status != 418 {
		t.Errorf("got %d", status)
	}
	if status, _, _ := ask(t, "POST", url+"/kms/decrypt", "", "Host", "evil.example.com"); status != 403 {
		t.Errorf("got %d", status)
	}
}

func TestAClientThatSaysNothingHoldsNobodyUp(t *testing.T) {
	leak.Check(t)
	url := serve(t, Options{Health: func() health.Report { return health.New(nil).Report(0, nil) }})
	for range maxConns - 1 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /health HTTP/1.1\r\n")
	}
	if status, _, _ := ask(t, "GET", url+"/health", ""); status != 200 {
		t.Errorf("got %d", status)
	}
}

// The file says which paths there are, and which statuses these tests have seen.
func TestTheDescriptionHasThePathsOfTheServer(t *testing.T) {
	text, err := os.ReadFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string][]string{}
	path, operation := "", ""
	line := regexp.MustCompile(`^(?:  (/[a-z/]+):|    (get|post|put|delete):|        "?([0-9]{3}|default)"?:.*)$`)
	for _, one := range strings.Split(string(text), "\n") {
		switch found := line.FindStringSubmatch(one); {
		case found == nil:
		case found[1] != "":
			path = found[1]
		case found[2] != "":
			operation = strings.ToUpper(found[2]) + " " + path
			described[operation] = nil
		default:
			described[operation] = append(described[operation], found[3])
		}
	}
	want := map[string][]string{
		"POST /attestation": {"200", "400", "403", "413", "415", "503"},
		"GET /pcrs":         {"200", "403", "503"},
		"GET /health":       {"200", "403", "503"},
		"GET /metrics":      {"200", "403"},
		"POST /kms/decrypt": {"200", "400", "403", "415", "502", "default"},
	}
	for operation, statuses := range want {
		if !slices.Equal(described[operation], statuses) {
			t.Errorf("%s: the file has %q, expected %q", operation, described[operation], statuses)
		}
		method, path, _ := strings.Cut(operation, " ")
		request, err := http.NewRequest(method, "http://127.0.0.1:9001"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &status{header: http.Header{}}
		New(Options{
			Metrics: metrics.NewRegistry(),
			Health:  func() health.Report { return health.Report{} },
			Decrypt: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }),
		}).http.Handler.ServeHTTP(w, request)
		if !slices.Contains(statuses, fmt.Sprint(w.code)) {
			t.Errorf("%s: got %d", operation, w.code)
		}
	}
	if len(described) != len(want) {
		t.Errorf("the file has %d operations", len(described))
	}
}

type status struct {
	header http.Header
	code   int
}

func (s *status) Header() http.Header  { return s.header }
func (s *status) WriteHeader(code int) { s.code = code }
func (s *status) Write(data []byte) (int, error) {
	if s.code == 0 {
		s.code = 200
	}
	return len(data), nil
}

func TestShutdownEndsWhatDoesNotEnd(t *testing.T) {
	leak.Check(t)
	asked, leave := make(chan struct{}), make(chan struct{})
	server := New(Options{Decrypt: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-leave
	})})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- server.Serve(listener) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /kms/decrypt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := server.Shutdown(ctx); err == nil {
		t.Error("no error")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	close(leave)
}
