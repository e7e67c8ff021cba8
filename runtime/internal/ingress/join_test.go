package ingress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/wire"
)

func versions(t *testing.T, test func(t *testing.T, change func(*tls.Config))) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			test(t, func(config *tls.Config) { config.MinVersion, config.MaxVersion = version, version })
		})
	}
}

func TestTLSEndsAndTheBytesGoOnWithTheirEnds(t *testing.T) {
	versions(t, func(t *testing.T, change func(*tls.Config)) {
		port := app(t, echo)
		c := newCage(t, nil, terminate(port, "tcp"))
		conn := c.dialTLS(c.front(port), change)
		sent := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
		go func() {
			_, _ = conn.Write(sent)
			_ = conn.CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		_ = conn.Close()
		label := fmt.Sprintf(`{port="%d"}`, port)
		eventually(t, "the connection has ended", func() bool { return c.value("cage_ingress_connections"+label) == 0 })
		if got := c.value(fmt.Sprintf(`cage_ingress_bytes_total{port="%d",direction="in"}`, port)); got < len(sent) {
			t.Errorf("%d bytes were counted", got)
		}
	})
}

func TestTheAppMayEndItsDirectionFirst(t *testing.T) {
	got := make(chan string, 1)
	port := app(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "hello")
		_ = conn.(*net.TCPConn).CloseWrite()
		rest, err := io.ReadAll(conn)
		got <- fmt.Sprint(string(rest), err)
	})
	c := newCage(t, nil, terminate(port, "tcp"))
	conn := c.dialTLS(c.front(port), nil)
	if first, err := io.ReadAll(conn); err != nil || string(first) != "hello" {
		t.Fatalf("got %q, %v", first, err)
	}
	time.Sleep(50 * time.Millisecond)
	_, _ = io.WriteString(conn, "and more")
	_ = conn.CloseWrite()
	if got := <-got; got != "and more<nil>" {
		t.Errorf("the app got %s", got)
	}
}

// TestWithoutCloseNotifyTheAppSeesNoEnd has the connection end as anybody on the way could end it.
func TestWithoutCloseNotifyTheAppSeesNoEnd(t *testing.T) {
	versions(t, func(t *testing.T, change func(*tls.Config)) {
		for name, end := range map[string]func(*net.TCPConn){
			"FIN":   func(conn *net.TCPConn) { _ = conn.CloseWrite() },
			"close": func(conn *net.TCPConn) { _ = conn.Close() },
			"reset": func(conn *net.TCPConn) { reset(conn) },
		} {
			got := make(chan error, 1)
			port := app(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, "x")
				_, err := io.ReadAll(conn)
				got <- err
			})
			c := newCage(t, nil, terminate(port, "tcp"))
			conn := c.dialTLS(c.front(port), change)
			_, _ = io.WriteString(conn, "pay 100")
			_, _ = io.ReadFull(conn, make([]byte, 1))
			end(conn.NetConn().(*net.TCPConn))
			if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: the app got %v", name, err)
			}
		}
	})
}

func TestWhenTheAppBreaksOffTheClientSeesNoEnd(t *testing.T) {
	versions(t, func(t *testing.T, change func(*tls.Config)) {
		port := app(t, func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 1))
			reset(conn)
		})
		c := newCage(t, nil, terminate(port, "tcp"), terminate(port+1, "tcp"))
		for _, each := range []uint16{port, port + 1} { // nobody listens at the second
			conn, watched := c.dialWatched(c.front(each), change)
			_, _ = io.WriteString(conn, "x")
			got, err := io.ReadAll(conn)
			if !errors.Is(err, syscall.ECONNRESET) && !watched.cutOff.Load() {
				t.Errorf("got %q, %v and close_notify", got, err)
			}
		}
	})
}

func TestWithPROXYHeaderBehindTLS(t *testing.T) {
	port := app(t, sayPeer)
	c := newCage(t, nil, settings.Ingress{Port: port, TLS: "terminate", Protocol: "tcp", ProxyProtocol: true})
	conn := c.dialTLS(c.front(port), nil)
	_ = conn.CloseWrite()
	got, err := io.ReadAll(conn)
	want := fmt.Sprintf("%v %v <nil>\n", conn.LocalAddr(), conn.RemoteAddr())
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; expected %q", got, err, want)
	}
	stream, err := c.open(wire.Hello{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	client := tls.Client(stream, &tls.Config{RootCAs: c.roots(), ServerName: "pay"})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	_ = client.CloseWrite()
	got, err = io.ReadAll(client)
	if want := fmt.Sprintf("%v %v <nil>\n", netip.AddrPort{}, netip.AddrPort{}); err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	_ = client.Close()
}

func TestOffersThatTheCageDoesNotKnowAreLeftToTheApp(t *testing.T) {
	port := app(t, echo)
	c := newCage(t, nil, terminate(port, "tcp"))
	for _, offered := range [][]string{nil, {"postgresql"}, {"h2", "http/1.1"}, {"acme-tls/1", "x"}} {
		conn := c.dialTLS(c.front(port), func(config *tls.Config) { config.NextProtos = offered })
		if got := conn.ConnectionState().NegotiatedProtocol; got != "" {
			t.Errorf("%q: got %q", offered, got)
		}
		_, _ = io.WriteString(conn, "hello")
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
			t.Errorf("%q: got %q, %v", offered, got, err)
		}
	}
}

func TestASlowAppStopsTheClientBehindTLS(t *testing.T) {
	release := make(chan struct{})
	got := make(chan int64, 1)
	port := app(t, func(conn net.Conn) {
		<-release
		count, _ := io.Copy(io.Discard, conn)
		got <- count
	})
	c := newCage(t, nil, terminate(port, "tcp"))
	conn := c.dialTLS(c.front(port), nil)
	const most = 64 << 20
	block := make([]byte, 1<<20)
	sent := 0
	for sent < most {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		count, err := conn.Write(block)
		sent += count
		if err != nil {
			break
		}
	}
	close(release)
	if sent >= most {
		t.Errorf("%d bytes were taken", sent)
	}
	_ = conn.NetConn().Close()
	if count := <-got; count > most {
		t.Errorf("the app got %d bytes", count)
	}
}

func TestGarbageInPlaceOfAHandshake(t *testing.T) {
	port := app(t, echo)
	c := newCage(t, nil, terminate(port, "tcp"), terminate(port+1, "http"))
	count := 0
	for _, each := range []uint16{port, port + 1} {
		address := c.front(each)
		for _, garbage := range []string{
			"", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\x16\x03\x01", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
			"\x16\x03\x01\xff\xff" + strings.Repeat("x", 1<<16), strings.Repeat("\x00", 1<<20),
		} {
			conn := c.dial(address)
			_, _ = io.WriteString(conn, garbage)
			_ = conn.CloseWrite()
			_, _ = io.ReadAll(conn) // an alert, or nothing
			_ = conn.Close()
			count++
		}
	}
	eventually(t, "all failures are counted", func() bool {
		return c.value(fmt.Sprintf(`cage_ingress_handshake_failures_total{port="%d"}`, port))+
			c.value(fmt.Sprintf(`cage_ingress_handshake_failures_total{port="%d"}`, port+1)) == count
	})
}

func TestAHandshakeThatTakesTooLongIsBrokenOff(t *testing.T) {
	port := app(t, echo)
	c := newCage(t, func(o *Options) { o.Handshakes = 1 }, terminate(port, "tcp"))
	c.patience = 500 * time.Millisecond
	address := c.front(port)
	slow := c.dial(address)
	_, _ = io.WriteString(slow, "\x16\x03\x01\x01\x00")
	eventually(t, "a handshake is under way", func() bool { return len(c.handshakes) == 1 })
	if _, err := c.open(wire.Hello{Port: port}); refusal(t, err) != wire.Busy {
		t.Errorf("a second one: got %v", err)
	}
	if _, err := io.ReadAll(slow); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the place is free", func() bool { return len(c.handshakes) == 0 })
	conn := c.dialTLS(address, nil)
	_ = conn.CloseWrite()
	if _, err := io.ReadAll(conn); err != nil {
		t.Error(err)
	}
}
