package ingress_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/host/ingress"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/proxyproto"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// patience is after how long a test hangs.
const patience = 20 * time.Second

type rig struct {
	server  *ingress.Server
	relay   *relay.Relay
	metrics *metrics.Registry
	said    *hosttest.Said
	address string // of clients, for port 8080
}

func start(t *testing.T, guest *hosttest.Guest, change func(*ingress.Options)) *rig {
	t.Helper()
	leak.Check(t)
	moved, err := relay.New(relay.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{relay: moved, metrics: metrics.NewRegistry(), said: &hosttest.Said{}}
	var address transport.Address
	if guest != nil {
		guest.Start(t)
		address = guest.Address
	}
	options := ingress.Options{
		Guest: func() (transport.Address, bool) { return address, true },
		Relay: moved, MaxConnections: 2000, Journal: journal.New(r.said), Metrics: r.metrics,
	}
	if change != nil {
		change(&options)
	}
	r.server = ingress.New(options)
	where, err := r.server.Listen(ingress.Publication{
		Address: transport.Address{Scheme: "tcp", Host: "127.0.0.1"}, Port: 8080,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.address = where.String()
	t.Cleanup(func() {
		r.server.Close()
		r.server.Abort()
		moved.Close()
	})
	return r
}

func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// roundTrip sends, ends its own direction, and returns what came until the other side's end.
func roundTrip(conn *net.TCPConn, data []byte) ([]byte, error) {
	go func() {
		_, _ = conn.Write(data)
		_ = conn.CloseWrite()
	}()
	return io.ReadAll(conn)
}

func (r *rig) text(t testing.TB) string {
	t.Helper()
	var text strings.Builder
	if err := r.metrics.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestBytesGoBothWaysAndTheClientIsNamed(t *testing.T) {
	hellos := make(chan wire.Hello, 1)
	r := start(t, &hosttest.Guest{Ingress: func(hello wire.Hello, conn transport.Conn) {
		hellos <- hello
		hosttest.Echo(hello, conn)
	}}, nil)
	conn := dial(t, r.address)
	data := bytes.Repeat([]byte("some bytes "), 300_000)
	got, err := roundTrip(conn, data)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("got %d bytes of %d, %v", len(got), len(data), err)
	}
	want := wire.Hello{Version: 1, Stream: wire.Ingress, Port: 8080, Peer: conn.LocalAddr().String(), Local: r.address}
	if hello := <-hellos; hello != want {
		t.Errorf("got %+v, expected %+v", hello, want)
	}
	eventually(t, "the bytes are counted", func() bool {
		text := r.text(t)
		return strings.Contains(text, fmt.Sprintf("cage_host_ingress_bytes_total{way=\"in\"} %d\n", len(data))) &&
			strings.Contains(text, fmt.Sprintf("cage_host_ingress_bytes_total{way=\"out\"} %d\n", len(data))) &&
			strings.Contains(text, "cage_host_ingress_connections_total{port=\"8080\",result=\"ok\"} 1\n") &&
			strings.Contains(text, "cage_host_ingress_open 0\n")
	})
}

func TestAUnixSocketIsPublished(t *testing.T) {
	hellos := make(chan wire.Hello, 1)
	r := start(t, &hosttest.Guest{Ingress: func(hello wire.Hello, conn transport.Conn) {
		hellos <- hello
		hosttest.Echo(hello, conn)
	}}, nil)
	path := filepath.Join(t.TempDir(), "app.sock")
	publication, err := ingress.ParsePublication("unix://" + path + "=5432")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.server.Listen(publication); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte("x"))
	_ = conn.(*net.UnixConn).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if hello := <-hellos; hello.Peer != "" || hello.Local != "" || hello.Port != 5432 {
		t.Errorf("got %+v", hello)
	}
	r.server.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file is still there: %v", err)
	}
}

// visit connects, sends, and returns how that ended. A reset may come before the kernel says that it is connected.
func visit(t testing.TB, address string, data []byte) error {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if len(data) > 0 {
		_, err = conn.Write(data) // which takes the news of a reset, if it has come already
	}
	_, failure := io.ReadAll(conn)
	return errors.Join(err, failure)
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func TestAClientIsResetWhenTheGuestTakesNothing(t *testing.T) {
	nobody := transport.Address{Scheme: "unix", Path: "/nowhere/guest.sock"}
	for name, test := range map[string]struct {
		guest  *hosttest.Guest
		change func(*ingress.Options)
		result string
	}{
		"no enclave": {nil, func(o *ingress.Options) {
			o.Guest = func() (transport.Address, bool) { return transport.Address{}, false }
		}, "no-guest"},
		"nobody listens": {nil, func(o *ingress.Options) {
			o.Guest = func() (transport.Address, bool) { return nobody, true }
		}, "unreachable"},
		"refused": {&hosttest.Guest{Ingress: func(_ wire.Hello, conn transport.Conn) {
			_ = wire.WriteReply(conn, wire.Reply{Code: wire.Refused, Message: "\x1b[2J"})
		}}, nil, "refused"},
		"unknown code": {&hosttest.Guest{Ingress: func(_ wire.Hello, conn transport.Conn) {
			_ = wire.WriteReply(conn, wire.Reply{Code: "x\" 1\nevil 2"})
		}}, nil, "failed"},
		"hangs up":     {&hosttest.Guest{Raw: func(transport.Conn) {}}, nil, "unreachable"},
		"garbage":      {&hosttest.Guest{Raw: func(c transport.Conn) { _, _ = c.Write(bytes.Repeat([]byte{1}, 5000)) }}, nil, "unreachable"},
		"a long frame": {&hosttest.Guest{Raw: func(c transport.Conn) { _, _ = c.Write([]byte{0xff, 0xff, '{'}) }}, nil, "unreachable"},
		"no object":    {&hosttest.Guest{Raw: func(c transport.Conn) { _, _ = c.Write([]byte("\x00\x02[]")) }}, nil, "unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, test.guest, test.change)
			if err := visit(t, r.address, nil); !isReset(err) {
				t.Errorf("got %v, expected a reset", err)
			}
			want := fmt.Sprintf("cage_host_ingress_connections_total{port=\"8080\",result=%q} 1\n", test.result)
			if text := r.text(t); !strings.Contains(text, want) {
				t.Errorf("got\n%sexpected %s", text, want)
			}
			if line := r.said.String(); strings.Count(line, "\n") != 1 || strings.Contains(line, "\x1b") {
				t.Errorf("said %q", line)
			}
		})
	}
}

func TestAStalledGuestHoldsNobodyElseUpAndIsGivenUpAtTheEnd(t *testing.T) {
	first := make(chan struct{}, 1)
	first <- struct{}{}
	stalled := make(chan struct{})
	r := start(t, &hosttest.Guest{Ingress: func(hello wire.Hello, conn transport.Conn) {
		select {
		case <-first:
			close(stalled)
			_, _ = io.Copy(io.Discard, conn) // until the host gives up
		default:
			hosttest.Echo(hello, conn)
		}
	}}, nil)
	waiting := dial(t, r.address)
	<-stalled
	if got, err := roundTrip(dial(t, r.address), []byte("x")); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	r.server.Close()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.server.Drain(ended)
	if _, err := io.ReadAll(waiting); !isReset(err) {
		t.Errorf("got %v, expected a reset", err)
	}
}

func TestDrainWaitsForClientsAndCutsOffTheRest(t *testing.T) {
	r := start(t, &hosttest.Guest{Ingress: hosttest.Echo}, nil)
	stays, goes := dial(t, r.address), dial(t, r.address)
	for _, conn := range []*net.TCPConn{stays, goes} {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	r.server.Close()
	if conn, err := net.Dial("tcp", r.address); err == nil {
		_ = conn.Close()
		t.Error("a client is taken after Close")
	}
	ctx, cancel := context.WithCancel(context.Background())
	drained := make(chan error)
	go func() { drained <- r.server.Drain(ctx) }()
	if got, err := roundTrip(goes, []byte("y")); string(got) != "y" || err != nil {
		t.Errorf("while draining: got %q, %v", got, err)
	}
	select {
	case err := <-drained:
		t.Errorf("drained with a client: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-drained; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := io.ReadAll(stays); !isReset(err) {
		t.Errorf("got %v, expected a reset", err)
	}
}

func TestTheLimitOnConnectionsIsKept(t *testing.T) {
	r := start(t, &hosttest.Guest{Ingress: hosttest.Echo}, func(o *ingress.Options) { o.MaxConnections = 2 })
	held := []*net.TCPConn{dial(t, r.address), dial(t, r.address)}
	for _, conn := range held {
		_, _ = conn.Write([]byte("x"))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := visit(t, r.address, nil); !isReset(err) {
		t.Errorf("got %v, expected a reset", err)
	}
	if _, err := roundTrip(held[0], nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is room again", func() bool {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		got, _ := roundTrip(conn.(*net.TCPConn), []byte("x"))
		return string(got) == "x"
	})
	if !strings.Contains(r.said.String(), "all 2 connections are in use") {
		t.Errorf("said %q", r.said)
	}
}

func TestALoadBalancerNamesTheClient(t *testing.T) {
	hellos := make(chan wire.Hello, 1)
	r := start(t, &hosttest.Guest{Ingress: func(hello wire.Hello, conn transport.Conn) {
		hellos <- hello
		hosttest.Echo(hello, conn)
	}}, func(o *ingress.Options) { o.AcceptProxy = true })
	peer, own := netip.MustParseAddrPort("203.0.113.7:4711"), netip.MustParseAddrPort("198.51.100.1:443")
	header := proxyproto.Append(nil, peer, own)
	if got, err := roundTrip(dial(t, r.address), append(header, "x"...)); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if hello := <-hellos; hello.Peer != peer.String() || hello.Local != own.String() {
		t.Errorf("got %+v", hello)
	}
	// The command LOCAL, as health checks of load balancers send it: the connection's own addresses.
	conn := dial(t, r.address)
	header = proxyproto.Append(nil, netip.AddrPort{}, netip.AddrPort{})
	if got, err := roundTrip(conn, append(header, "x"...)); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if hello := <-hellos; hello.Peer != conn.LocalAddr().String() {
		t.Errorf("got %+v", hello)
	}
	if err := visit(t, r.address, []byte("GET / HTTP/1.1\r\n\r\n")); !isReset(err) {
		t.Errorf("without a header: got %v, expected a reset", err)
	}
}

func TestAThousandClientsComeAndGo(t *testing.T) {
	r := start(t, &hosttest.Guest{Ingress: hosttest.Echo}, nil)
	var waiting sync.WaitGroup
	room := make(chan struct{}, 64)
	failures := make(chan error, 1000)
	for number := range 1000 {
		waiting.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			conn, err := net.Dial("tcp", r.address)
			if err != nil {
				failures <- err
				return
			}
			defer func() { _ = conn.Close() }()
			switch number % 4 {
			case 0: // gone before anything
			case 1: // gone with a reset, in the middle
				_, _ = conn.Write([]byte("half"))
				_ = conn.(*net.TCPConn).SetLinger(0)
			default:
				_ = conn.SetDeadline(time.Now().Add(patience))
				want := fmt.Sprintf("client %d", number)
				if got, err := roundTrip(conn.(*net.TCPConn), []byte(want)); string(got) != want || err != nil {
					failures <- fmt.Errorf("got %q, %w", got, err)
				}
			}
		})
	}
	waiting.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	eventually(t, "all places are free", func() bool {
		return strings.Contains(r.text(t), "cage_host_ingress_open 0\n")
	})
}

func TestPublications(t *testing.T) {
	ports := []settings.Ingress{{Port: 8080}, {Port: 5432}}
	list, err := ingress.Publications(nil, ports)
	if err != nil || len(list) != 2 || list[0].String() != "tcp://:8080=8080" || list[1].String() != "tcp://:5432=5432" {
		t.Errorf("got %v, %v", list, err)
	}
	for text, want := range map[string]string{
		"8080":                         "tcp://:8080=8080",
		"80=8080":                      "tcp://:80=8080",
		":80=8080":                     "tcp://:80=8080",
		"127.0.0.1:80=8080":            "tcp://127.0.0.1:80=8080",
		"[::1]:80=8080":                "tcp://[::1]:80=8080",
		"tcp://*:80=8080":              "tcp://:80=8080",
		"unix:///run/a=b.sock=8080":    "unix:///run/a=b.sock=8080",
		"vsock://any:80=8080":          "vsock://any:80=8080",
		"tcp://example.com:443=5432":   "tcp://example.com:443=5432",
		"tcp://[2001:db8::1]:443=5432": "tcp://[2001:db8::1]:443=5432",
	} {
		list, err := ingress.Publications([]string{text}, ports)
		if err != nil || len(list) != 1 || list[0].String() != want {
			t.Errorf("%s: got %v, %v; expected %s", text, list, err, want)
		}
	}
	for _, wrong := range [][]string{
		{""}, {"="}, {"0"}, {"http"}, {"8081"}, {"80=8081"}, {"80=0"}, {"80=99999"}, {"127.0.0.1=8080"}, {"udp://:80=8080"},
		{"unix://x=8080"}, {"hybrid:///x:1=8080"}, {"80=8080", "80=5432"},
	} {
		if list, err := ingress.Publications(wrong, ports); err == nil {
			t.Errorf("%q: taken as %v", wrong, list)
		}
	}
	if _, err := ingress.Publications([]string{"80=81"}, ports); !strings.Contains(err.Error(), "it has 8080, 5432") {
		t.Errorf("got %v", err)
	}
}
