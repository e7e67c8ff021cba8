package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/netlink/isolate"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

func TestAllowedNamesLeadToTheParent(t *testing.T) {
	c := run(t, Options{
		Rules: allow(t, "api.example.com 443", "api.example.com 8443", "*.x.com 443", "db 5432"), Name: "cage",
	})
	for address, want := range map[string]string{
		"api.example.com:443":  "api.example.com 443",
		"api.example.com:8443": "api.example.com 8443",
		"API.Example.Com.:443": "api.example.com 443",
		"a.x.com:443":          "a.x.com 443",
		"a.b.c.x.com:443":      "a.b.c.x.com 443",
		"db:5432":              "db 5432",
	} {
		reach(t, address, want)
	}
	for _, address := range []string{"x.com:443", "evilx.com:443", "example.com:443", "www.api.example.com:443"} {
		_, err := dial(t, address)
		if missing, ok := errors.AsType[*net.DNSError](err); !ok || !missing.IsNotFound {
			t.Errorf("%s: got %v", address, err)
		}
		c.expect(t, "", `no rule allows the name "`+strings.TrimSuffix(address, ":443"))
	}
	// Ports that no rule has for that name, though one has them for another.
	fails(t, "api.example.com:80", syscall.ECONNREFUSED)
	fails(t, "a.x.com:8443", syscall.ECONNREFUSED)
	fails(t, "db:443", syscall.ECONNREFUSED)
	c.expect(t, "cage_egress_connections_total 6")
	c.expect(t, "cage_egress_connections 0")
	c.expect(t, `cage_egress_bytes_total{direction="out"} 1572864`)
	if text := c.text(); strings.Contains(text, "cage_egress_refused_total{") {
		t.Errorf("something was refused:\n%s", text)
	}
}

func TestWithoutRulesNothingListens(t *testing.T) {
	c := run(t, Options{Rules: allow(t), Name: "cage", State: filepath.Join(t.TempDir(), "names")})
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"} {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for index, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
			// Connections that earlier tests have closed are in the state 06, TIME_WAIT.
			if fields := strings.Fields(line); index > 0 && len(fields) > 3 && fields[3] != "06" {
				t.Errorf("%s has %s", path, line)
			}
		}
	}
	fails(t, "127.0.0.1:53", syscall.ECONNREFUSED)
	if isThere(c.options.State) {
		t.Error("a state was written")
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAddressesAndNetworks(t *testing.T) {
	lines := []string{
		"192.0.2.7 443", "10.20.0.0/16 5432", "10.20.1.1 6379", "198.51.100.0/24 443", "db.example.com 5432",
		"www.example.com 443",
	}
	hasIPv6 := isThere("/proc/net/if_inet6")
	if hasIPv6 {
		lines = append(lines, "2001:db8:1::7 443", "2001:db8:2::/48 5432")
	}
	c := run(t, Options{Rules: allow(t, lines...), Name: "cage"})
	reach(t, "192.0.2.7:443", "192.0.2.7 443")
	reach(t, "10.20.0.0:5432", "10.20.0.0 5432")
	reach(t, "10.20.255.254:5432", "10.20.255.254 5432")
	reach(t, "10.20.1.1:6379", "10.20.1.1 6379")
	reach(t, "[::ffff:10.20.3.4]:5432", "10.20.3.4 5432")
	// Names whose port is listened on at all addresses.
	reach(t, "db.example.com:5432", "db.example.com 5432")
	reach(t, "www.example.com:443", "www.example.com 443")
	if hasIPv6 {
		reach(t, "[2001:db8:1::7]:443", "2001:db8:1::7 443")
		reach(t, "[2001:db8:2:3::4]:5432", "2001:db8:2:3::4 5432")
		fails(t, "[2001:db8:1::8]:443", syscall.ENETUNREACH)
		reset(t, "[::1]:5432")
		reset(t, "[2001:db8:1::7]:5432")
	}
	// What comes to a listener at all addresses, and is for none of the rules.
	reset(t, "127.0.0.1:443")
	reset(t, "127.0.0.1:5432")
	reset(t, "127.64.0.77:443")
	reset(t, "192.0.2.7:5432")
	reset(t, "10.20.1.1:443")
	fails(t, "10.20.1.2:6379", syscall.ECONNREFUSED)
	fails(t, "192.0.2.7:80", syscall.ECONNREFUSED)
	fails(t, "192.0.2.8:443", syscall.ENETUNREACH)
	fails(t, "10.21.0.1:5432", syscall.ENETUNREACH)
	c.expect(t, "", "a connection is reset: no rule allows 127.0.0.1, port 443")
}

// A rule that the kernel can't serve costs a line, and the others work.
func TestAKernelWithoutIPv6(t *testing.T) {
	isolate.Need(t)
	const path = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Skipf("IPv6 can't be turned off: %v", err)
	}
	t.Cleanup(func() { _ = os.WriteFile(path, []byte("0"), 0) })
	c := run(t, Options{
		Rules: allow(t, "2001:db8:9::7 443", "2001:db8:a::/48 443", "10.30.0.0/16 443", "a.example.com 80"), Name: "cage",
	})
	reach(t, "10.30.1.2:443", "10.30.1.2 443")
	reach(t, "a.example.com:80", "a.example.com 80")
	c.expect(t, "", "the rule 2001:db8:9::7/128, port 443 can't be served: make local 2001:db8:9::7/128: rtnetlink: ",
		"the rule 2001:db8:a::/48, port 443 can't be served: make local 2001:db8:a::/48: rtnetlink: ")
}

// A name's port that is listened on at all addresses is still that name's alone.
func TestOneNamesPortIsNotAnothers(t *testing.T) {
	run(t, Options{Rules: allow(t, "a.example.com 443", "b.example.com 80", "198.51.100.0/24 443"), Name: "cage"})
	reach(t, "a.example.com:443", "a.example.com 443")
	reset(t, "b.example.com:443")
	reach(t, "b.example.com:80", "b.example.com 80")
	fails(t, "a.example.com:80", syscall.ECONNREFUSED)
}

func TestWhatTheParentRefusesIsReset(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "*.x.com 443"), Name: "cage"})
	c.parent.serveWith(func(stream transport.Conn, hello wire.Hello) {
		code, _, _ := strings.Cut(hello.Host, ".")
		_ = wire.WriteReply(stream, wire.Reply{Code: wire.Code(code), Message: "because\nof " + code})
	})
	for _, code := range []wire.Code{
		wire.Denied, wire.NotFound, wire.Refused, wire.Unreachable, wire.TimedOut, wire.Busy, wire.Failed,
	} {
		for range 2 {
			reset(t, string(code)+".x.com:443")
		}
		c.expect(t, fmt.Sprintf(`cage_egress_refused_total{reason=%q} 2`, code),
			fmt.Sprintf("%s.x.com, port 443: %s: because\nof %s", code, code, code))
	}
	// Whatever the parent makes up doesn't become a reason of its own.
	reset(t, "made-up.x.com:443")
	c.expect(t, `cage_egress_refused_total{reason="failed"} 3`, "made-up")
	c.expect(t, "cage_egress_connections 0")
	if count := strings.Count(c.said(), "denied.x.com"); count != 1 {
		t.Errorf("one refusal is said %d times", count)
	}
}

func TestAParentThatAnswersGarbage(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "*.x.com 443"), Name: "cage", OpenTimeout: time.Second})
	answers := map[string]string{
		"nothing": "", "half-a-frame": "\x00\x10{", "too-long": "\xff\xff", "no-json": "\x00\x04garb",
		"unknown-key": "\x00\x07{\"a\":1}", "two-objects": "\x00\x04{}{}", "http": "HTTP/1.1 200 OK\r\n\r\n",
		"zero": "\x00\x00",
	}
	var stalled sync.WaitGroup
	c.parent.serveWith(func(stream transport.Conn, hello wire.Hello) {
		name, _, _ := strings.Cut(hello.Host, ".")
		if name == "silence" {
			stalled.Go(func() { _, _ = io.Copy(io.Discard, stream) })
			stalled.Wait()
			return
		}
		_, _ = io.WriteString(stream, answers[name])
	})
	for name := range answers {
		reset(t, name+".x.com:443")
	}
	reset(t, "silence.x.com:443")
	c.expect(t, fmt.Sprintf(`cage_egress_refused_total{reason="no-parent"} %d`, len(answers)+1))
	c.expect(t, "cage_egress_connections 0")
	// And afterwards all is well.
	c.parent.serveWith(echo)
	reach(t, "a.x.com:443", "a.x.com 443")
}

func TestWithoutAParentConnectionsAreReset(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "api.example.com 443"), Name: "cage"})
	c.parent.stop()
	for range 20 {
		reset(t, "api.example.com:443")
	}
	c.expect(t, `cage_egress_refused_total{reason="no-parent"} 20`, "the parent can't be reached")
	c.expect(t, "cage_egress_connections 0")
	c.parent.start(t)
	reach(t, "api.example.com:443", "api.example.com 443")
	if lines := strings.Count(c.said(), "\n") + 1; lines != 1 {
		t.Errorf("%d lines:\n%s", lines, c.said())
	}
}

// A stream that breaks off in the middle is no end of what was sent.
func TestAParentThatDiesInMidStream(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "api.example.com 443"), Name: "cage"})
	conn, err := dial(t, "api.example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, len("api.example.com 443\n"))); err != nil {
		t.Fatal(err)
	}
	c.parent.stop()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, expected a reset", err)
	}
	c.expect(t, "cage_egress_connections 0")
}

func TestConnectionsAreLimited(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "api.example.com 443"), Name: "cage", MaxConns: 3})
	open := []*net.TCPConn{}
	for range 3 {
		conn, err := dial(t, "api.example.com:443")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, len("api.example.com 443\n"))); err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	reset(t, "api.example.com:443")
	reset(t, "api.example.com:443")
	c.expect(t, `cage_egress_refused_total{reason="busy"} 2`, "there are as many as there may be")
	c.expect(t, "cage_egress_connections 3")
	_ = open[0].Close()
	c.expect(t, "cage_egress_connections 2")
	reach(t, "api.example.com:443", "api.example.com 443")
}

// A destination that takes forever to open holds up itself, and no other.
func TestAStalledDestinationHoldsUpNoOther(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "stalls.x.com 443", "api.example.com 443"), Name: "cage"})
	release := make(chan struct{})
	c.parent.serveWith(func(stream transport.Conn, hello wire.Hello) {
		if hello.Host == "stalls.x.com" {
			<-release
		}
		echo(stream, hello)
	})
	var group sync.WaitGroup
	for range maxUnderWay + 100 {
		group.Go(func() { reach(t, "stalls.x.com:443", "stalls.x.com 443") })
	}
	c.expect(t, fmt.Sprintf("cage_egress_connections %d", maxUnderWay))
	reach(t, "api.example.com:443", "api.example.com 443")
	c.expect(t, fmt.Sprintf("cage_egress_connections %d", maxUnderWay))
	close(release)
	group.Wait() // those that waited in the kernel, too
	c.expect(t, "cage_egress_connections 0")
	if text := c.text(); strings.Contains(text, "cage_egress_refused_total{") {
		t.Errorf("something was refused:\n%s", text)
	}
}

func TestOpeningsAreLimited(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "stalls.x.com 443"), Name: "cage", MaxOpenings: 2})
	release := make(chan struct{})
	c.parent.serveWith(func(stream transport.Conn, hello wire.Hello) {
		<-release
		echo(stream, hello)
	})
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() { reach(t, "stalls.x.com:443", "stalls.x.com 443") })
	}
	c.expect(t, "cage_egress_connections 2")
	reset(t, "stalls.x.com:443")
	close(release)
	group.Wait()
}

func TestManyConnectionsOpenedAndDropped(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "api.example.com 443", "*.x.com 443"), Name: "cage"})
	var group sync.WaitGroup
	for worker := range 10 {
		group.Go(func() {
			for index := range 100 {
				name := "api.example.com"
				if worker%2 == 1 {
					name = fmt.Sprintf("n%d.x.com", index)
				}
				conn, err := dial(t, name+":443")
				if err != nil {
					t.Error(err)
					continue
				}
				if index%3 == 0 {
					_ = conn.SetLinger(0) // a reset
				}
				if index%2 == 0 {
					_, _ = io.WriteString(conn, "something")
				}
				_ = conn.Close()
			}
		})
	}
	group.Wait()
	c.expect(t, "cage_egress_connections 0")
	reach(t, "api.example.com:443", "api.example.com 443")
}

func TestDrainWaitsForWhatIsOpen(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "api.example.com 443"), Name: "cage"})
	conn, err := dial(t, "api.example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, len("api.example.com 443\n"))
	if _, err := io.ReadFull(conn, greeting); err != nil {
		t.Fatal(err)
	}
	address := conn.RemoteAddr().String()
	c.end()
	fails(t, address, syscall.ECONNREFUSED)
	drained := make(chan error, 1)
	go func() { drained <- c.Drain(t.Context()) }()
	for range 100 {
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, greeting[:4]); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with a connection open: %v", err)
	default:
	}
	_ = conn.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestDrainGivesOpeningsUpInTheEnd(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "stalls.x.com 443"), Name: "cage"})
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	c.parent.serveWith(func(transport.Conn, wire.Hello) { <-release })
	conn, err := dial(t, "stalls.x.com:443")
	if err != nil {
		t.Fatal(err)
	}
	c.expect(t, "cage_egress_connections 1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, expected a reset", err)
	}
	c.expect(t, "cage_egress_connections 0")
}

// An app that listens where the data plane wants to costs that rule, until it has gone.
func TestPortsThatAreTaken(t *testing.T) {
	isolate.Need(t)
	taken, err := net.Listen("tcp", "0.0.0.0:5432")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := run(t, Options{
		Rules: allow(t, "a.example.com 443", "a.example.com 5432", "*.x.com 5432", "10.20.0.0/16 53"), Name: "cage",
	})
	reach(t, "a.example.com:443", "a.example.com 443")
	_, err = resolver.LookupNetIP(t.Context(), "ip", "b.x.com")
	if failed, ok := errors.AsType[*net.DNSError](err); !ok || failed.IsNotFound || !failed.IsTemporary {
		t.Errorf("got %v, expected SERVFAIL", err)
	}
	c.expect(t, "", "b.x.com: listen at 127.64.0.2:5432: bind: address already in use")
	_ = taken.Close()
	reach(t, "b.x.com:5432", "b.x.com 5432")
	reach(t, "a.example.com:5432", "a.example.com 5432")
	// The network's port is the resolver's own.
	fails(t, "10.20.0.1:53", syscall.ECONNREFUSED)
}

func TestAnAddressThatAResolverHasIsAnError(t *testing.T) {
	isolate.Need(t)
	leak.Check(t)
	taken, err := net.Listen("tcp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := newParent(t)
	e, err := New(Options{Rules: allow(t, "a.example.com 443"), Relay: relayFor(t), Parent: c.address})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, options := range []Options{
		{}, {Rules: allow(t)}, {Rules: allow(t), Relay: relayFor(t), MaxNames: maxNames + 1},
	} {
		if _, err := New(options); err == nil {
			t.Errorf("%+v is fine", options)
		}
	}
}

func TestNamesUnderAWildcardAreBounded(t *testing.T) {
	c := run(t, Options{Rules: allow(t, "a.example.com 443", "*.x.com 443"), Name: "cage", MaxNames: 3})
	reach(t, "b.x.com:443", "b.x.com 443")
	reach(t, "c.x.com:443", "c.x.com 443")
	_, err := resolver.LookupNetIP(t.Context(), "ip", "d.x.com")
	if failed, ok := errors.AsType[*net.DNSError](err); !ok || failed.IsNotFound {
		t.Errorf("got %v, expected REFUSED", err)
	}
	c.expect(t, "", "d.x.com is refused: as many names as there may be")
	if text := c.text(); !strings.Contains(text, `cage_dns_queries_total{result="refused"} `) {
		t.Errorf("the metrics lack refused queries:\n%s", text)
	}
	for _, address := range []string{"a.example.com:443", "b.x.com:443", "c.x.com:443"} {
		reach(t, address, strings.Replace(address, ":", " ", 1))
	}
}

func TestListenersAreBounded(t *testing.T) {
	isolate.Need(t)
	leak.Check(t)
	a, err := newAcceptor(2, func(*net.TCPConn, func()) {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := []error{}
	for index := range 3 {
		got = append(got, a.listen(addrPort(t, fmt.Sprintf("127.64.0.%d:443", 1+index))))
	}
	if want := []error{nil, nil, errTooMany}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	a.close()
	a.close()
	if err := a.listen(addrPort(t, "127.64.0.1:443")); !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
	if err := a.run(); err != nil {
		t.Error(err)
	}
}
