package data

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/api"
	"cagebuild.dev/runtime/internal/certificate"
	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
	"cagebuild.dev/runtime/internal/secrets"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/vsock"
	"cagebuild.dev/runtime/internal/wire"
)

// echoes sends something both ways and ends the stream in order.
func echoes(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(hang))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes of %d, %v", len(got), len(sent), err)
	}
	_ = conn.Close()
}

func TestAClientsStreamReachesTheAppAndNoOtherPort(t *testing.T) {
	port, other := echoApp(t), echoApp(t)
	c := prepare(t, map[string]any{"ingress": []any{ingressOf(port, nil)}}).start()
	for range 3 {
		conn, err := c.stream(wire.Hello{Stream: wire.Ingress, Port: port, Peer: "192.0.2.1:4000", Local: "192.0.2.2:443"})
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, conn)
	}
	var refused *wire.RefusedError
	if _, err := c.stream(wire.Hello{Stream: wire.Ingress, Port: other}); !errors.As(err, &refused) || refused.Reply.Code != wire.Denied {
		t.Errorf("another port: got %v", err)
	}
	for _, stream := range []wire.Stream{wire.Egress, wire.Time, "", "x"} {
		if _, err := c.stream(wire.Hello{Stream: stream}); !errors.As(err, &refused) || refused.Reply.Code != wire.Denied {
			t.Errorf("%q: got %v", stream, err)
		}
	}
}

func TestTheAppReachesWhatIsAllowedAndNothingElse(t *testing.T) {
	c := prepare(t, map[string]any{"egress": []any{
		map[string]any{"host": "api.example.com", "port": 4430},
		map[string]any{"host": "*.example.org", "port": 4430},
	}}).start()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:53")
	}}
	dialer := &net.Dialer{Resolver: resolver}
	for _, name := range []string{"api.example.com", "a.b.example.org", "API.Example.COM."} {
		conn, err := dialer.DialContext(t.Context(), "tcp4", net.JoinHostPort(name, "4430"))
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, conn)
	}
	for _, target := range []string{"example.org:4430", "evil.example.com:4430", "api.example.com:4431"} {
		if conn, err := dialer.DialContext(t.Context(), "tcp4", target); err == nil {
			_ = conn.Close()
			t.Errorf("%s was reached", target)
		}
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	want := []string{"egress api.example.com 4430", "egress a.b.example.org 4430", "egress api.example.com 4430"}
	if !slices.Equal(c.opened, want) {
		t.Errorf("got %q", c.opened)
	}
}

func TestANamesAddressOutlivesTheService(t *testing.T) {
	c := prepare(t, map[string]any{"egress": []any{map[string]any{"host": "*.example.com", "port": 4430}}}).start()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:53")
	}}
	var first []string
	for _, name := range []string{"b.example.com", "a.example.com"} {
		found, err := resolver.LookupHost(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		first = append(first, found...)
	}
	c.end()
	c.start()
	var second []string
	for _, name := range []string{"b.example.com", "a.example.com"} {
		found, err := resolver.LookupHost(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		second = append(second, found...)
	}
	if !slices.Equal(first, second) || first[0] == first[1] {
		t.Errorf("got %q, then %q", first, second)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(first[1], "4430"))
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, conn)
}

func TestTLSEndsInTheEnclaveWithAnAttestedKey(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.URL.Path)
	}))
	defer app.Close()
	port := uint16(app.Listener.Addr().(*net.TCPAddr).Port)
	rule := ingressOf(port, map[string]any{"tls": "terminate", "protocol": "http", "health": "/well"})
	c := prepare(t, map[string]any{"ingress": []any{rule}}).start()
	var state tls.ConnectionState
	client := &http.Client{Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		conn, err := c.stream(wire.Hello{Stream: wire.Ingress, Port: port})
		if err != nil {
			return nil, err
		}
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		err = secure.Handshake()
		state = secure.ConnectionState()
		return secure, err
	}}}
	defer client.CloseIdleConnections()
	if status, text := ask(t, client, "GET", "https://pay/x", "", ""); status != 200 || text != "hello /x" {
		t.Errorf("got %d %q", status, text)
	}
	document, err := certificate.Unwrap(state.PeerCertificates[0])
	if err != nil {
		t.Fatal(err)
	}
	said, err := nsmtest.Verify(document, c.module.Root)
	if err != nil || !bytes.Equal(said.PublicKey, state.PeerCertificates[0].RawSubjectPublicKeyInfo) {
		t.Errorf("got %+v, %v", said, err)
	}
	// The same key, by way of the control channel.
	if status, text := c.ask("GET", "/v1/attestation?nonce=00&key=tls", "", ""); status != 200 {
		t.Errorf("got %d %q", status, text)
	} else if again, err := nsmtest.Verify([]byte(text), c.module.Root); err != nil || !bytes.Equal(again.PublicKey, said.PublicKey) {
		t.Errorf("got %+v, %v", again, err)
	}
	if status, text := c.ask("POST", "/v1/csr", "application/json", `{"names": ["pay.example.com"]}`); status != 200 ||
		!strings.HasPrefix(text, "-----BEGIN CERTIFICATE REQUEST-----") {
		t.Errorf("got %d %q", status, text)
	}
	c.until(func() bool { return c.health().Status == health.Up })
}

func (c *cage) health() (report health.Report) {
	c.t.Helper()
	_, text := c.ask("GET", "/v1/health", "", "")
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		c.t.Fatalf("%q: %v", text, err)
	}
	return report
}

func TestHealthFollowsTheAppAndItsSecrets(t *testing.T) {
	port := echoApp(t)
	c := prepare(t, map[string]any{
		"ingress": []any{ingressOf(port, nil)},
		"secrets": map[string]any{"env": []string{"KEY"}, "files": []string{}},
	})
	if err := os.Mkdir(c.options.App, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.options.App, "restarts"), []byte("0 0 0 0 7 end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start()
	report := c.health()
	if report.Status != health.Waiting || !slices.Equal(report.MissingSecrets, []string{"KEY"}) || report.App.Restarts != 7 {
		t.Errorf("got %+v", report)
	}
	if status, text := c.ask("PUT", "/v1/secrets", "application/json", `{"env": {"KEY": "value"}}`); status != 204 {
		t.Errorf("got %d %q", status, text)
	}
	c.until(func() bool { return c.health().Status == health.Up })
	status, text := ask(t, http.DefaultClient, "GET", "http://"+api.Address+"/health", "", "")
	http.DefaultClient.CloseIdleConnections()
	if status != 200 || !strings.Contains(text, `"restarts":7`) {
		t.Errorf("got %d %q", status, text)
	}
}

func TestSecretsReachWhoeverStartsTheAppAndChangedOnesStartItAgain(t *testing.T) {
	c := prepare(t, map[string]any{"secrets": map[string]any{"env": []string{"KEY"}, "files": []string{"cert.pem"}}})
	fifo := filepath.Join(c.options.App, "supervise/control")
	if err := os.MkdirAll(filepath.Dir(fifo), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	runsv, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer runsv.Close()
	c.start()
	status, text := c.ask("PUT", "/v1/secrets", "application/json", `{"env": {"KEY": "one"}}`)
	if status != 204 {
		t.Errorf("got %d %q", status, text)
	}
	socket := filepath.Join(c.options.Folder, "secrets.sock")
	if _, missing, err := secrets.Fetch(socket); err != nil || !slices.Equal(missing, []string{"cert.pem"}) {
		t.Errorf("got %q, %v", missing, err)
	}
	// The rest sealed to the key that the document names.
	_, document := c.ask("GET", "/v1/attestation?key=secrets", "", "")
	said, err := nsmtest.Verify([]byte(document), c.module.Root)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := secrets.Seal(said.PublicKey, []byte(`{"files": {"cert.pem": "AAE="}}`))
	if err != nil {
		t.Fatal(err)
	}
	if status, text := c.ask("PUT", "/v1/secrets", secrets.MediaTypeSealed, string(sealed)); status != 204 {
		t.Errorf("got %d %q", status, text)
	}
	bundle, missing, err := secrets.Fetch(socket)
	if err != nil || len(missing) > 0 || bundle.Env["KEY"] != "one" || !bytes.Equal(bundle.Files["cert.pem"], []byte{0, 1}) {
		t.Errorf("got %+v, %q, %v", bundle, missing, err)
	}
	for _, body := range []string{`{"env": {"KEY": "one"}}`, `{"env": {"KEY": "two"}}`} {
		if status, text := c.ask("PUT", "/v1/secrets", "application/json", body); status != 204 {
			t.Errorf("got %d %q", status, text)
		}
	}
	// For the second one alone.
	_ = runsv.SetReadDeadline(time.Now().Add(hang))
	told := make([]byte, 10)
	if size, err := runsv.Read(told); err != nil || string(told[:size]) != "t" {
		t.Errorf("got %q, %v", told[:size], err)
	}
	status, text = c.ask("PUT", "/v1/secrets", "application/json", `{"env": {"OTHER": "hush"}}`)
	if status != 400 || strings.Contains(text, "hush") {
		t.Errorf("got %d %q", status, text)
	}
}

func TestTheLogGoesOutWhenTheSettingsSaySo(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		c := prepare(t, map[string]any{"logs": allowed}).start()
		path := filepath.Join(c.options.Folder, "log.sock")
		status, text := c.ask("GET", "/v1/logs", "", "")
		if !allowed {
			if _, err := os.Stat(path); status != 403 || err == nil {
				t.Errorf("got %d %q, %v", status, text, err)
			}
		} else {
			sender, err := net.Dial("unixgram", path)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(sender, "app: hello\n")
			_ = sender.Close()
			c.until(func() bool {
				_, text := c.ask("GET", "/v1/logs", "", "")
				return strings.Contains(text, "app: hello\n")
			})
		}
		c.end()
	}
}

func TestTheAppAsksForDocumentsRegistersAndMetrics(t *testing.T) {
	c := prepare(t, nil).start()
	defer http.DefaultClient.CloseIdleConnections()
	url := "http://" + api.Address
	status, text := ask(t, http.DefaultClient, "POST", url+"/attestation", "application/json", `{"nonce": "AAEC"}`)
	if said, err := nsmtest.Verify([]byte(text), c.module.Root); status != 200 || err != nil || !bytes.Equal(said.Nonce, []byte{0, 1, 2}) {
		t.Errorf("got %d %+v, %v", status, said, err)
	}
	if status, text := ask(t, http.DefaultClient, "GET", url+"/pcrs", "", ""); status != 200 || !strings.Contains(text, `"PCR0"`) {
		t.Errorf("got %d %q", status, text)
	}
	if status, text := ask(t, http.DefaultClient, "POST", url+"/kms/decrypt", "application/json", `{}`); status != 400 {
		t.Errorf("got %d %q", status, text)
	}
	_, text = c.ask("GET", "/v1/metrics", "", "")
	for _, name := range []string{"cage_pairs_open", "cage_app_restarts_total", "cage_clock_offset_seconds", "cage_streams_total"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("there is no %s in\n%s", name, text)
		}
	}
}

func TestWithoutNSMAndParentTheRestWorks(t *testing.T) {
	port := echoApp(t)
	c := prepare(t, map[string]any{"ingress": []any{ingressOf(port, nil)}})
	c.options.NSM = filepath.Join(c.folder, "none")
	c.options.Parent = "unix://" + filepath.Join(c.folder, "nobody")
	c.start()
	conn, err := c.stream(wire.Hello{Stream: wire.Ingress, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, conn)
	if status, text := c.ask("GET", "/v1/attestation", "", ""); status != 503 {
		t.Errorf("got %d %q", status, text)
	}
}

func TestWithoutAVsockTheAppCanBeServedAllTheSame(t *testing.T) {
	if _, err := transport.LocalCID(); err == nil {
		t.Skip("this machine has a vsock")
	}
	c := prepare(t, nil)
	c.options.Listen, c.options.Parent, c.guest.Path = "", "", c.options.Folder
	c.start()
	defer http.DefaultClient.CloseIdleConnections()
	if status, text := ask(t, http.DefaultClient, "GET", "http://"+api.Address+"/health", "", ""); status != 200 {
		t.Errorf("got %d %q", status, text)
	}
}

func TestStreamsThatSayNothingOrGarbageHoldNobodyUp(t *testing.T) {
	port := echoApp(t)
	c := prepare(t, map[string]any{"ingress": []any{ingressOf(port, nil)}}).start()
	var silent []net.Conn
	defer func() {
		for _, conn := range silent {
			_ = conn.Close()
		}
	}()
	for range 200 {
		conn, err := net.Dial("unix", c.guest.Path)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
	}
	for _, garbage := range []string{"\xff\xff", "\x00\x02{}", "\x00\x01", "GET / HTTP/1.1\r\n\r\n", "\x00\x04null"} {
		conn, err := net.Dial("unix", c.guest.Path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, garbage)
		_ = conn.(*net.UnixConn).CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("%q: got %q", garbage, got)
		}
		_ = conn.Close()
	}
	conn, err := c.stream(wire.Hello{Stream: wire.Ingress, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, conn)
	c.end() // and they don't hold up the end
}

func TestWhatIsUnderWayComesToItsEnd(t *testing.T) {
	port := echoApp(t)
	c := prepare(t, map[string]any{"ingress": []any{ingressOf(port, nil)}}).start()
	conn, err := c.stream(wire.Hello{Stream: wire.Ingress, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	for turn := range 3 {
		if _, err := io.WriteString(conn, "one\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := lines.ReadString('\n'); err != nil || got != "one\n" {
			t.Fatalf("got %q, %v", got, err)
		}
		if turn == 0 {
			c.stop()
			c.until(func() bool { _, err := os.Stat(c.guest.Path); return err != nil }) // it takes no more
		}
	}
	echoes(t, conn)
	c.end()
}

func TestStopEndsIt(t *testing.T) {
	c := prepare(t, nil).start()
	if status, text := c.ask("POST", "/v1/stop", "", ""); status != 202 {
		t.Errorf("got %d %q", status, text)
	}
	c.end()
	if _, err := os.Stat(c.guest.Path); err == nil {
		t.Error("it still listens")
	}
}

func TestAPortThatIsTakenIsAnErrorAndLeavesNothingBehind(t *testing.T) {
	c := prepare(t, nil)
	listener, err := net.Listen("tcp", api.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := Run(t.Context(), c.options); err == nil || !strings.Contains(err.Error(), "local API") {
		t.Errorf("got %v", err)
	}
}

func TestOptionsAndSettingsThatAreWrongAreErrors(t *testing.T) {
	for want, change := range map[string]func(*cage){
		"is no URL":    func(c *cage) { c.options.Listen = "x" },
		"is no scheme": func(c *cage) { c.options.Parent = "x://y" },
		"settings:":    func(c *cage) { c.options.Settings += "x" },
		"egress": func(c *cage) {
			text := config(map[string]any{"egress": []any{map[string]any{"host": "a..b", "port": 1}}})
			if err := os.WriteFile(c.options.Settings, text, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c := prepare(t, nil)
		change(c)
		if err := Run(t.Context(), c.options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestTheParentsAddressFollowsFromTheOwnCID(t *testing.T) {
	for line, want := range map[string]string{
		"":                                    "vsock://3:10016",
		"quiet cagebuild.parent_cid=2 x\n":    "vsock://2:10016",
		"xcagebuild.parent_cid=2":             "vsock://3:10016",
		"cagebuild.parent_cid=x":              "",
		"cagebuild.parent_cid=4294967295":     "",
		"cagebuild.parent_cid= panic=30 -- x": "",
	} {
		address, err := parentOf(line, 16)
		if (err == nil) != (want != "") || err == nil && address.String() != want {
			t.Errorf("%q: got %v, %v", line, address, err)
		}
	}
	if _, err := parentOf("", 1<<32-2); err == nil {
		t.Error("a CID that is too large: no error")
	}
}

func TestStreamsThatWaitAreBoundedWhateverTheyWaitFor(t *testing.T) {
	leak.Check(t)
	address := transport.Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "s")}
	listener, err := address.Listen()
	if err != nil {
		t.Fatal(err)
	}
	registry := metrics.NewRegistry()
	d := newDoor(listener, 0, registry)
	asked, leave := make(chan struct{}, 2*maxHellos), make(chan struct{})
	d.control = func(net.Conn) bool {
		asked <- struct{}{}
		<-leave
		return false
	}
	ended := make(chan error)
	go func() { ended <- d.serve() }()
	var conns []net.Conn
	open := func() net.Conn {
		conn, err := net.Dial("unix", address.Path)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		return conn
	}
	for range maxHellos {
		if err := wire.WriteHello(open(), wire.Hello{Stream: wire.Control}); err != nil {
			t.Fatal(err)
		}
		<-asked
	}
	// One too many is closed unheard.
	if got, err := io.ReadAll(open()); err != nil || len(got) > 0 {
		t.Errorf("got %q, %v", got, err)
	}
	close(leave)
	d.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	d.wait()
	for _, conn := range conns {
		_ = conn.Close()
	}
	var text strings.Builder
	if err := registry.WriteText(&text); err != nil || !strings.Contains(text.String(), `{stream="none",result="busy"} 1`) {
		t.Errorf("got %s, %v", text.String(), err)
	}
}

// A vsock's listener and its end, which aren't those of package net.
func TestADoorOfAVsockCloses(t *testing.T) {
	leak.Check(t)
	listener, err := transport.Address{Scheme: "vsock", CID: vsock.Any, Port: vsock.Any}.Listen()
	if err != nil {
		t.Skipf("needs a kernel with vsock: %v", err)
	}
	d := newDoor(listener, 0, nil)
	ended := make(chan error)
	go func() { ended <- d.serve() }()
	d.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestThisMachinesOwnProcessesAreNotTheHost(t *testing.T) {
	d := &door{ownCID: 16}
	for peer, want := range map[net.Addr]bool{
		transport.VsockAddr{CID: 3}:            true,
		transport.VsockAddr{CID: 2}:            true,
		transport.VsockAddr{CID: 1}:            false,
		transport.VsockAddr{CID: 16}:           false,
		&net.UnixAddr{}:                        true,
		&net.TCPAddr{IP: net.IPv4(1, 2, 3, 4)}: true,
	} {
		if got := d.isHost(peer); got != want {
			t.Errorf("%v: got %v", peer, got)
		}
	}
}
