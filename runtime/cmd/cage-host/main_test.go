package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

const (
	mark     = "CAGEBUILD_TEST_CAGE_HOST"
	patience = 30 * time.Second // after which a test hangs
)

// The test's program is cage-host when it is marked.
func TestMain(m *testing.M) {
	if os.Getenv(mark) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is a running cage-host.
type program struct {
	*exec.Cmd
	said  *hosttest.Said
	ended chan error
}

func prepare(environment []string, words ...string) *exec.Cmd {
	made := exec.Command(os.Args[0], words...)
	made.Env = append([]string{mark + "=1", "PATH=" + os.Getenv("PATH")}, environment...)
	return made
}

func start(t testing.TB, environment []string, words ...string) *program {
	t.Helper()
	p := &program{Cmd: prepare(environment, words...), said: &hosttest.Said{}, ended: make(chan error, 1)}
	p.Stdout, p.Stderr = p.said, p.said
	p.WaitDelay = time.Second
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.Wait() }()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.ended
	})
	return p
}

// end waits for the program's end and returns its status.
func (p *program) end(t testing.TB) int {
	t.Helper()
	select {
	case err := <-p.ended:
		p.ended <- err
		return p.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("it does not end: %s", p.said)
		return 0
	}
}

func (p *program) says(t testing.TB, text string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(p.said.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never %q: %s", text, p.said)
		}
	}
}

func (p *program) signal(t testing.TB, number syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(number); err != nil {
		t.Fatal(err)
	}
}

// rig is a cage-host that serves a guest of this process over unix sockets.
type rig struct {
	*program
	folder string
	client string
}

func serving(t *testing.T, guest *hosttest.Guest, environment []string, more ...string) *rig {
	t.Helper()
	guest.Start(t)
	r := &rig{folder: t.TempDir()}
	r.client = filepath.Join(r.folder, "app.sock")
	metadata := hosttest.Metadata(`[{"port":8080,"health":null,"tls":"passthrough","protocol":"tcp","proxy_protocol":false}]`,
		`[{"host":"api.example.com","port":443}]`)
	words := append([]string{
		"serve", "--eif", hosttest.Image(t, metadata), "--guest", guest.Address.String(),
		"--listen", "unix://" + filepath.Join(r.folder, "parent.sock"),
	}, more...)
	environment = append(environment, "CAGE_HOST_PUBLISH=unix://"+r.client+"=8080",
		"CAGE_HOST_ADMIN=unix://"+filepath.Join(r.folder, "admin.sock"))
	r.program = start(t, environment, words...)
	r.says(t, "host: admin:")
	return r
}

func (r *rig) connect(t testing.TB) *net.UnixConn {
	t.Helper()
	conn, err := net.Dial("unix", r.client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.UnixConn)
}

// pass sends a byte to the guest and back.
func pass(conn net.Conn) error {
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func controlled(status string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/health":
			_ = json.NewEncoder(w).Encode(map[string]string{"status": status})
		case "/v1/logs":
			_, _ = io.WriteString(w, "app: one\x1b[2J\n")
		case "/v1/attestation":
			_, _ = fmt.Fprint(w, r.URL.RawQuery)
		case "/v1/stop":
			w.WriteHeader(http.StatusAccepted)
		case "/v1/secrets", "/v1/certificate":
			w.WriteHeader(http.StatusNoContent)
		}
	}
}

func TestTrafficGoesThroughAndSIGTERMWaitsForIt(t *testing.T) {
	guest := &hosttest.Guest{Ingress: hosttest.Echo, Control: controlled("up")}
	r := serving(t, guest, nil)
	conn := r.connect(t)
	if err := pass(conn); err != nil {
		t.Fatal(err)
	}
	parent := transport.Address{Scheme: "unix", Path: filepath.Join(r.folder, "parent.sock")}
	stream, err := parent.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	_ = wire.WriteHello(stream, wire.Hello{Stream: wire.Egress, Host: "other.example.com", Port: 443})
	if reply, err := wire.ReadReply(stream); err != nil || reply.Code != wire.Denied {
		t.Errorf("got %+v, %v", reply, err)
	}
	r.says(t, "host: guest: up\n")
	r.signal(t, syscall.SIGTERM)
	r.says(t, "1 connections of clients have 30s left")
	if _, err := net.Dial("unix", r.client); err == nil {
		t.Error("a client is taken while draining")
	}
	if err := pass(conn); err != nil {
		t.Errorf("while draining: %v", err)
	}
	_ = conn.CloseWrite()
	if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
	if status := r.end(t); status != 0 {
		t.Errorf("status %d: %s", status, r.said)
	}
	left, err := filepath.Glob(filepath.Join(r.folder, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	r := serving(t, &hosttest.Guest{Ingress: hosttest.Echo, Control: controlled("up")}, nil, "--drain-timeout", "1h")
	conn := r.connect(t)
	if err := pass(conn); err != nil {
		t.Fatal(err)
	}
	r.signal(t, syscall.SIGINT)
	r.says(t, "have 1h0m0s left")
	r.signal(t, syscall.SIGTERM)
	if status := r.end(t); status != 0 {
		t.Errorf("status %d: %s", status, r.said)
	}
	if rest, _ := io.ReadAll(conn); len(rest) > 0 {
		t.Errorf("got %q", rest)
	}
}

func TestTheDrainTimeoutIsKept(t *testing.T) {
	r := serving(t, &hosttest.Guest{Ingress: hosttest.Echo, Control: controlled("up")}, []string{"CAGE_HOST_DRAIN_TIMEOUT=50ms"})
	if err := pass(r.connect(t)); err != nil {
		t.Fatal(err)
	}
	r.signal(t, syscall.SIGTERM)
	if status := r.end(t); status != 0 || !strings.Contains(r.said.String(), "were cut off") {
		t.Errorf("status %d: %s", status, r.said)
	}
}

func TestTooFewFilesLimitConnectionsAndEndNothing(t *testing.T) {
	shell := "ulimit -n 96; exec \"$0\" \"$@\""
	guest := &hosttest.Guest{Ingress: hosttest.Echo, Control: controlled("up")}
	guest.Start(t)
	folder := t.TempDir()
	r := &rig{client: filepath.Join(folder, "app.sock")}
	made := prepare(nil, "serve")
	made.Path, made.Args = "/bin/sh", append([]string{"sh", "-c", shell, os.Args[0]},
		"serve", "--guest", guest.Address.String(), "--listen", "unix://"+folder+"/parent.sock", "--admin", "none",
		"--publish", "unix://"+r.client+"=8080", "--max-connections", "1000", "--max-egress-connections", "1000",
		"--eif", hosttest.Image(t, hosttest.Metadata(
			`[{"port":8080,"health":null,"tls":"passthrough","protocol":"tcp","proxy_protocol":false}]`, `[]`)))
	r.program = &program{Cmd: made, said: &hosttest.Said{}, ended: make(chan error, 1)}
	made.Stdout, made.Stderr = r.said, r.said
	if err := made.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- made.Wait() }()
	t.Cleanup(func() { _ = made.Process.Kill(); <-r.ended })
	r.says(t, "host: clients:")
	r.says(t, "may open 96 files")
	for round := range 3 {
		var open []net.Conn
		for range 200 {
			conn, err := net.Dial("unix", r.client)
			if err != nil {
				continue
			}
			open = append(open, conn)
			_, _ = conn.Write([]byte("x"))
		}
		for _, conn := range open {
			_ = conn.Close()
		}
		served := func() bool {
			conn, err := net.Dial("unix", r.client)
			if err != nil {
				return false
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			return pass(conn) == nil
		}
		for deadline := time.Now().Add(patience); !served(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: not served again: %s", round, r.said)
			}
		}
	}
}

// vsockOrSkip skips where this machine can't listen on vsock, as cage-host does for a real enclave.
func vsockOrSkip(t *testing.T) {
	t.Helper()
	listener, err := transport.Address{Scheme: "vsock", CID: 1<<32 - 1, Port: 10016}.Listen()
	if err != nil {
		t.Skipf("needs vsock (modprobe vsock): %v", err)
	}
	_ = listener.Close()
}

func TestAnEnclaveEndsWithTheProgramOrIsFoundTheNextTime(t *testing.T) {
	vsockOrSkip(t)
	cli := hosttest.NewNitroCLI(t)
	image := hosttest.Image(t, hosttest.Metadata(`[]`, `[]`))
	state := filepath.Join(t.TempDir(), "state")
	begin := func() *program {
		p := start(t, nil, "run", "--eif", image, "--nitro-cli", cli.Path, "--state", state, "--admin", "none",
			"--memory", "1024", "--drain-timeout", "0s")
		p.says(t, "guest: vsock://16:9001")
		return p
	}
	p := begin()
	if calls := strings.Join(cli.Calls(t), "\n"); !strings.Contains(calls,
		"run-enclave --enclave-name pay --eif-path "+image+" --cpu-count 2 --memory 1024") {
		t.Errorf("called %s", calls)
	}
	if second := start(t, nil, "run", "--eif", image, "--nitro-cli", cli.Path, "--state", state); second.end(t) != failure ||
		!strings.Contains(second.said.String(), "another cage-host uses it") {
		t.Errorf("a second one: %s", second.said)
	}
	p.signal(t, syscall.SIGKILL)
	p.end(t)
	if len(cli.Running(t)) != 1 {
		t.Errorf("running: %q", cli.Running(t))
	}
	p = begin()
	if !strings.Contains(p.said.String(), "was left by an earlier run: terminating it") || len(cli.Running(t)) != 1 {
		t.Errorf("running %q: %s", cli.Running(t), p.said)
	}
	p.signal(t, syscall.SIGTERM)
	if status := p.end(t); status != 0 || len(cli.Running(t)) != 0 {
		t.Errorf("status %d, running %q: %s", status, cli.Running(t), p.said)
	}
}

// once runs a command to its end.
func once(t testing.TB, input string, environment []string, words ...string) (status int, stdout, stderr string) {
	t.Helper()
	made := prepare(environment, words...)
	var out, said bytes.Buffer
	made.Stdin, made.Stdout, made.Stderr = strings.NewReader(input), &out, &said
	err := made.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return made.ProcessState.ExitCode(), out.String(), said.String()
}

func TestOperatorsAskTheGuest(t *testing.T) {
	guest := &hosttest.Guest{Control: controlled("up")}
	guest.Start(t)
	at := []string{"CAGE_HOST_GUEST=" + guest.Address.String()}
	file := filepath.Join(t.TempDir(), "document")
	for _, test := range []struct {
		words []string
		input string
		want  string
	}{
		{[]string{"health"}, "", "up\n"},
		{[]string{"health", "--json"}, "", `{"status":"up","app":{"restarts":0},"ports":null,"missing_secrets":null}` + "\n"},
		{[]string{"logs"}, "", `app: one\x1b[2J` + "\n"},
		{[]string{"attestation", "--nonce", "00ff"}, "", "nonce=00ff"},
		{[]string{"attestation", "--nonce", "00ff", "--key", "tls"}, "", "key=tls&nonce=00ff"},
		{[]string{"attestation", "--nonce", "00ff", "-o", file}, "", ""},
		{[]string{"secrets", "put", "-"}, `{"env":{"A":"b"}}`, ""},
		{[]string{"secrets", "put", "--sealed", "-"}, `anything`, ""},
		{[]string{"stop"}, "", ""},
	} {
		if status, out, said := once(t, test.input, at, test.words...); status != 0 || out != test.want || said != "" {
			t.Errorf("%q: status %d, %q, %q", test.words, status, out, said)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "nonce=00ff" {
		t.Errorf("got %q, %v", data, err)
	}
	down := &hosttest.Guest{Control: controlled("down")}
	down.Start(t)
	if status, out, said := once(t, "", nil, "health", "--guest", down.Address.String()); status != 1 || out != "down\n" || said != "" {
		t.Errorf("status %d, %q, %q", status, out, said)
	}
	down.Stop()
	if status, _, said := once(t, "", nil, "health", "--guest", down.Address.String()); status != 1 || !strings.Contains(said, "guest at unix://") {
		t.Errorf("status %d, %q", status, said)
	}
}

func TestMistakesAreExplained(t *testing.T) {
	image := hosttest.Image(t, hosttest.Metadata(`[{"port":8080,"health":null,"tls":"passthrough","protocol":"tcp","proxy_protocol":false}]`, `[]`))
	foreign := hosttest.Image(t, `{"CustomMetadata":null}`)
	for _, test := range []struct {
		environment string
		words       []string
		status      int
		want        string
	}{
		{"", nil, 2, "no command"},
		{"", []string{"rum"}, 2, `"rum" is no command`},
		{"", []string{"serve"}, 2, "which enclave?"},
		{"", []string{"serve", "--cid", "16"}, 2, "which image?"},
		{"", []string{"serve", "--cid", "3"}, 2, "from 4 to"},
		{"", []string{"serve", "--cid", "x"}, 2, "from 4 to"},
		{"", []string{"serve", "--cid", "16", "--guest", "vsock://16:9001"}, 2, "exclude each other"},
		{"", []string{"serve", "--guest", "unix:///x"}, 2, "--listen"},
		{"", []string{"serve", "--guest", "unix:///x", "--listen", "vsock://any:10016"}, 2, "own CID"},
		{"", []string{"serve", "--guest", "vsock://any:9001"}, 2, "is no guest's CID"},
		{"", []string{"serve", "--guest", "http://x"}, 2, "is no scheme"},
		{"", []string{"serve", "--cid", "16", "--eif", "/nowhere/x.eif"}, 1, "no such file"},
		{"", []string{"serve", "--cid", "16", "--eif", foreign}, 1, "holds no settings of cagebuild"},
		{"", []string{"serve", "--cid", "16", "--eif", image, "--publish", "81=80"}, 2, "the cage has no port 80: it has 8080"},
		{"", []string{"serve", "--cid", "16", "--eif", image, "more"}, 2, `unexpected "more"`},
		{"", []string{"serve", "--cid", "16", "--eif", image, "--admin", "x"}, 2, "--admin"},
		{"", []string{"serve", "--wrong"}, 2, "-wrong"},
		{"", []string{"serve", "--max-connections", "0"}, 2, "from 1 to"},
		{"CAGE_HOST_MAX_CONNECTIONS=many", []string{"serve"}, 2, "CAGE_HOST_MAX_CONNECTIONS"},
		{"", []string{"run", "--eif", image, "--nitro-cli", "/nowhere/x", "--state", t.TempDir()}, 1, "aws-nitro-enclaves-cli"},
		{"", []string{"run", "--eif", image, "--emulator", "--qemu", "/nowhere/x", "--state", t.TempDir()}, 1, "--qemu"},
		{"", []string{"run", "--eif", image, "--name", "../x"}, 2, "--name"},
		{"", []string{"health"}, 2, "which enclave?"},
		{"", []string{"attestation", "--cid", "16"}, 2, "--nonce"},
		{"", []string{"attestation", "--cid", "16", "--nonce", "xy"}, 2, "hexadecimal"},
		{"", []string{"attestation", "--cid", "16", "--nonce", "00", "--key", "x"}, 2, "tls or secrets"},
		{"", []string{"csr", "--cid", "16"}, 2, "something is missing"},
		{"", []string{"certificate", "--cid", "16", image}, 1, "no certificate"},
		{"", []string{"secrets"}, 2, "put or seal"},
		{"", []string{"secrets", "put", "--cid", "16"}, 2, "either FILE or --sealed"},
		{"", []string{"secrets", "put", "--cid", "16", image}, 1, image},
		{"", []string{"secrets", "seal", image}, 2, "--key"},
	} {
		var environment []string
		if test.environment != "" {
			environment = append(environment, test.environment)
		}
		status, out, said := once(t, "", environment, test.words...)
		if status != test.status || out != "" || !strings.Contains(said, test.want) || strings.Contains(said, "goroutine") {
			t.Errorf("%q: status %d, %q, %q; expected %d, %q", test.words, status, out, said, test.status, test.want)
		}
	}
}

func TestHelpNamesEveryFlagOnStandardOutput(t *testing.T) {
	for _, words := range [][]string{{"help"}, {"--help"}, {"version"}, {"run", "--help"}, {"secrets", "--help"}, {"secrets", "seal", "-h"}} {
		if status, out, said := once(t, "", nil, words...); status != 0 || out == "" || said != "" {
			t.Errorf("%q: status %d, %q, %q", words, status, out, said)
		}
	}
	_, out, _ := once(t, "", nil, "run", "--help")
	for _, name := range []string{"--eif FILE", "--publish [WHERE]=PORT", "--cid CID", "--drain-timeout", "CAGE_HOST_EIF"} {
		if !strings.Contains(out, name) {
			t.Errorf("%s is not in %s", name, out)
		}
	}
}

// What is documented and what there is have to be the same.
func TestTheDocumentationNamesEveryFlag(t *testing.T) {
	text, err := os.ReadFile("../../../docs/cage-host.md")
	if err != nil {
		t.Skipf("needs the repository: %v", err)
	}
	for _, name := range []string{"run", "serve", "health", "logs", "attestation", "csr"} {
		_, help, _ := once(t, "", nil, name, "--help")
		for line := range strings.Lines(help) {
			if flag, found := strings.CutPrefix(line, "  --"); found {
				word := strings.Fields(flag)[0]
				if !bytes.Contains(text, []byte("--"+word)) && word != "o" {
					t.Errorf("%s --%s is not in docs/cage-host.md", name, word)
				}
			}
		}
	}
}
