package ingress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"cagebuild.dev/runtime/internal/proxyproto"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/wire"
)

func TestBytesPassThroughWithTheirEnds(t *testing.T) {
	port := app(t, echo)
	c := newCage(t, nil, passthrough(port))
	conn := c.dial(c.front(port))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	label := fmt.Sprintf(`{port="%d"}`, port)
	eventually(t, "connections are counted", func() bool {
		return c.value("cage_ingress_connections"+label) == 0 && c.value("cage_ingress_connections_total"+label) == 1
	})
	for _, direction := range []string{"in", "out"} {
		name := fmt.Sprintf(`cage_ingress_bytes_total{port="%d",direction="%s"}`, port, direction)
		if got := c.value(name); got != len(sent) {
			t.Errorf("%s is %d", name, got)
		}
	}
}

func TestWhenTheAppResetsSoDoesTheCage(t *testing.T) {
	port := app(t, func(conn net.Conn) {
		_, _ = io.ReadFull(conn, make([]byte, 1))
		reset(conn)
	})
	c := newCage(t, nil, passthrough(port))
	conn := c.dial(c.front(port))
	_, _ = conn.Write([]byte("x"))
	if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

func refusal(t *testing.T, err error) wire.Code {
	t.Helper()
	var refused *wire.RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v", err)
	}
	return refused.Reply.Code
}

func TestStreamsThatAreNotOpened(t *testing.T) {
	silent := unused(t)
	port := app(t, echo)
	c := newCage(t, func(o *Options) { o.Connections = 1 }, passthrough(silent), passthrough(port))
	if _, err := c.open(wire.Hello{Port: port + 1}); refusal(t, err) != wire.Denied {
		t.Errorf("a port that isn't published: got %v", err)
	}
	for range 2 {
		if _, err := c.open(wire.Hello{Port: silent}); refusal(t, err) != wire.Refused {
			t.Errorf("an app that doesn't listen: got %v", err)
		}
	}
	first, err := c.open(wire.Hello{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.open(wire.Hello{Port: port}); refusal(t, err) != wire.Busy {
		t.Errorf("one too many: got %v", err)
	}
	_ = first.Close()
	eventually(t, "the place is free", func() bool { return c.ports[port].open.Load() == 0 })
	second, err := c.open(wire.Hello{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if err := c.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.open(wire.Hello{Port: port}); refusal(t, err) != wire.Busy {
		t.Errorf("after the end: got %v", err)
	}
	want := fmt.Sprintf("port %d of the app does not answer: connection refused", silent)
	if got := c.log.String(); got != want {
		t.Errorf("said %q, expected %q", got, want)
	}
	if got := c.value(fmt.Sprintf(`cage_ingress_refused_total{port="%d",reason="refused"}`, silent)); got != 2 {
		t.Errorf("%d were counted", got)
	}
}

func TestAnAppThatListensOnIPv6AloneIsFound(t *testing.T) {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("takes IPv6 on loopback: %v", err)
	}
	port := portOf(listener.Addr())
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			echo(conn)
			_ = conn.Close()
		}
	}()
	defer listener.Close()
	c := newCage(t, nil, passthrough(port))
	conn := c.dial(c.front(port))
	_, _ = conn.Write([]byte("hello"))
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

// sayPeer reads a PROXY header and answers with what it says.
func sayPeer(conn net.Conn) {
	peer, own, err := proxyproto.Read(conn)
	_, _ = fmt.Fprintf(conn, "%v %v %v\n", peer, own, err)
	echo(conn)
}

func TestThePROXYHeaderNamesTheClient(t *testing.T) {
	port := app(t, sayPeer)
	c := newCage(t, nil, settings.Ingress{Port: port, TLS: "passthrough", Protocol: "tcp", ProxyProtocol: true})
	conn := c.dial(c.front(port))
	_, _ = conn.Write([]byte("hello"))
	_ = conn.CloseWrite()
	got, err := io.ReadAll(conn)
	want := fmt.Sprintf("%v %v <nil>\nhello", conn.LocalAddr(), conn.RemoteAddr())
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; expected %q", got, err, want)
	}
	// Whatever else the parent says is no address.
	for _, peer := range []string{"", "@", "/run/x", "192.0.2.1", "192.0.2.1:99999", strings.Repeat("1", 200)} {
		stream, err := c.open(wire.Hello{Port: port, Peer: peer, Local: "192.0.2.2:443"})
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.CloseWrite()
		got, err := io.ReadAll(stream)
		if want := fmt.Sprintf("%v %v <nil>\n", netip.AddrPort{}, netip.AddrPort{}); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v", peer, got, err)
		}
		_ = stream.Close()
	}
}

func TestSettingsThatAreWrongAreRefused(t *testing.T) {
	for name, options := range map[string]Options{
		"a port twice":     {Ports: []settings.Ingress{passthrough(1), passthrough(1)}},
		"unknown TLS":      {Ports: []settings.Ingress{{Port: 1, TLS: "off"}}},
		"no certificates":  {Ports: []settings.Ingress{terminate(1, "http")}},
		"unknown protocol": {Ports: []settings.Ingress{terminate(1, "http"), terminate(2, "smtp")}, Certificates: noCertificates{}},
	} {
		if _, err := New(options); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}

type noCertificates struct{ Certificates }

func (noCertificates) Attest([]byte) ([]byte, error) { return nil, errors.New("none") }

// readHeader reads a PROXY header as addresses of the net package.
func readHeader(conn net.Conn) (peer, own net.Addr, err error) {
	from, to, err := proxyproto.Read(conn)
	return net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to), err
}
