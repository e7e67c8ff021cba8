package egress_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/egress"
	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/netlink"
	"cagebuild.dev/runtime/internal/netlink/isolate"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/rules"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

func TestMain(m *testing.M) { isolate.Main(m) }

// Addresses of this machine in the tests' own network. All of a network are local, at which nobody listens.
const (
	private = "10.9.0.1"
	nobody  = "10.9.0.9"
	public  = "93.184.216.34"
)

func networks(t *testing.T) {
	t.Helper()
	isolate.Need(t)
	for _, network := range []string{"10.9.0.0/16", public + "/32", "64.0.0.0/24"} {
		if err := netlink.AddLocal(netip.MustParsePrefix(network)); err != nil {
			t.Fatal(err)
		}
	}
}

// patience is after how long a test hangs.
const patience = 20 * time.Second

// nameServer answers look-ups out of a table, over UDP. It counts what it was asked.
type nameServer struct {
	conn  net.PacketConn
	table map[string][]netip.Addr
	mutex sync.Mutex
	asked []string
}

func startNameServer(t *testing.T, table map[string][]netip.Addr) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &nameServer{conn: conn, table: table}
	var running sync.WaitGroup
	running.Go(server.serve)
	t.Cleanup(func() { _ = conn.Close(); running.Wait() })
	return server
}

func (n *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *nameServer) serve() {
	buffer := make([]byte, 1500)
	for {
		size, peer, err := n.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = n.conn.WriteTo(n.answer(buffer[:size]), peer)
	}
}

// answer is RFC 1035, as far as it goes with one question.
func (n *nameServer) answer(query []byte) []byte {
	var labels []string
	at := 12
	for query[at] != 0 {
		length := int(query[at])
		labels = append(labels, string(query[at+1:at+1+length]))
		at += 1 + length
	}
	name, kind := strings.Join(labels, "."), binary.BigEndian.Uint16(query[at+1:])
	n.mutex.Lock()
	n.asked = append(n.asked, name)
	n.mutex.Unlock()
	addresses, known := n.table[name]
	code := byte(0)
	if !known {
		code = 3 // NXDOMAIN
	}
	count := 0
	var records []byte
	for _, address := range addresses {
		if (kind == 1) != address.Is4() || kind != 1 && kind != 28 {
			continue
		}
		count++
		raw := address.AsSlice()
		records = append(records, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(len(raw)))
		records = append(records, raw...)
	}
	answer := append([]byte(nil), query[:2]...)
	answer = append(answer, 0x81, 0x80|code, 0, 1, 0, byte(count), 0, 0, 0, 0)
	answer = append(answer, query[12:at+5]...)
	return append(answer, records...)
}

type rig struct {
	parent  transport.Address
	names   *nameServer
	metrics *metrics.Registry
	said    *hosttest.Said
}

func start(t *testing.T, list []settings.Egress, table map[string][]netip.Addr, change func(*egress.Options)) *rig {
	t.Helper()
	leak.Check(t)
	allowed, err := rules.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := relay.New(relay.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		parent:  transport.Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "parent.sock")},
		names:   startNameServer(t, table),
		metrics: metrics.NewRegistry(), said: &hosttest.Said{},
	}
	options := egress.Options{
		Rules: allowed, Relay: moved, MaxConnections: 2000, Timeout: patience, Resolver: r.names.resolver(),
		Journal: journal.New(r.said), Metrics: r.metrics,
	}
	if change != nil {
		change(&options)
	}
	server := egress.New(options)
	listener, err := server.Listen(r.parent, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		listener.Close()
		server.Close()
		moved.Close()
	})
	return r
}

// open asks for a stream as the guest does.
func (r *rig) open(t testing.TB, hello wire.Hello) (transport.Conn, wire.Reply) {
	t.Helper()
	conn, err := r.parent.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := wire.WriteHello(conn, hello); err != nil {
		t.Fatal(err)
	}
	reply, err := wire.ReadReply(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, reply
}

func (r *rig) code(t testing.TB, host string, port uint16) wire.Code {
	t.Helper()
	conn, reply := r.open(t, wire.Hello{Stream: wire.Egress, Host: host, Port: port})
	_ = conn.Close()
	return reply.Code
}

// echo is a server on loopback that sends back what it gets until the client ends.
func echo(t testing.TB, address string) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				_, _ = io.Copy(conn, struct{ io.Reader }{conn})
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); running.Wait() })
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

func addresses(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func TestANameThatARuleAllowsIsReached(t *testing.T) {
	networks(t)
	port := echo(t, "0.0.0.0:0")
	only := echo(t, public+":0")
	r := start(t, []settings.Egress{
		{Host: "api.example.com", Port: port}, {Host: "*.example.org", Port: port}, {Host: "10.9.0.0/16", Port: port},
		{Host: "*.example.org", Port: only}, {Host: "10.9.0.0/16", Port: only},
	}, map[string][]netip.Addr{
		"api.example.com":  addresses(public),
		"a.b.example.org":  addresses(private),
		"all.example.org":  addresses("fd00::1", "192.168.0.1", public), // the first two are none that a rule allows
		"some.example.org": addresses(nobody, private, public),
		"none.example.org": addresses(nobody, private),
		"no.example.org":   {},
	}, nil)
	for _, host := range []string{"api.example.com", "API.Example.COM.", "a.b.example.org", "all.example.org", private,
		"::ffff:" + private} {
		conn, reply := r.open(t, wire.Hello{Stream: wire.Egress, Host: host, Port: port})
		if err := reply.Err(); err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		data := bytes.Repeat([]byte("x"), 1<<20)
		go func() { _, _ = conn.Write(data); _ = conn.CloseWrite() }()
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes, %v", host, len(got), err)
		}
	}
	for host, want := range map[string]wire.Code{
		"some.example.org": "",
		"none.example.org": wire.Refused,
		"gone.example.org": wire.NotFound,
		"no.example.org":   wire.NotFound,
		nobody:             wire.Refused,
	} {
		if got := r.code(t, host, only); got != want {
			t.Errorf("%s: got %q, expected %q", host, got, want)
		}
	}
}

func TestWhatNoRuleAllowsIsDeniedAndNotLookedUp(t *testing.T) {
	port := echo(t, "127.0.0.1:0")
	r := start(t, []settings.Egress{{Host: "api.example.com", Port: port}, {Host: "*.example.org", Port: port}},
		map[string][]netip.Addr{
			"evilexample.org": addresses("127.0.0.1"), "example.org": addresses("127.0.0.1"), "localhost": addresses("127.0.0.1"),
		}, nil)
	for _, test := range []wire.Hello{
		{Host: "api.example.com", Port: port + 1},
		{Host: "api.example.com", Port: 0},
		{Host: "evilexample.org", Port: port},
		{Host: "example.org", Port: port},
		{Host: "xapi.example.com", Port: port},
		{Host: "api.example.com.evil.net", Port: port},
		{Host: "127.0.0.1", Port: port},
		{Host: "::1", Port: port},
		{Host: "fe80::1%lo", Port: port},
		{Host: "0x7f.1", Port: port},
		{Host: "2130706433", Port: port},
		{Host: "localhost", Port: port},
		{Host: "", Port: port},
		{Host: "a b\x1b[2J\n.example.org", Port: port},
		{Host: "x..example.org", Port: port},
		{Host: strings.Repeat("a.", 200) + "example.org", Port: port},
	} {
		if got := r.code(t, test.Host, test.Port); got != wire.Denied {
			t.Errorf("%q port %d: got %q", test.Host, test.Port, got)
		}
	}
	if len(r.names.asked) > 0 {
		t.Errorf("looked up: %q", r.names.asked)
	}
	if text := r.said.String(); strings.Contains(text, "\x1b") || strings.Count(text, "host: egress: denied") != 16 {
		t.Errorf("said %s", text)
	}
}

func TestANameDoesNotLeadIntoThePrivateNetworks(t *testing.T) {
	const port = 80
	table := map[string][]netip.Addr{}
	list := []settings.Egress{{Host: "*.example.org", Port: port}, {Host: "10.9.0.0/16", Port: port + 1}}
	for number, address := range []string{
		"0.0.0.0", "10.9.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.255.255", "192.168.0.1", "198.18.0.1",
		"224.0.0.1", "255.255.255.255", "::", "::1", "::ffff:10.0.0.1", "::7f00:1", "fc00::1", "fd00:ec2::254", "fe80::1",
		"ff02::1", "64:ff9b::a9fe:a9fe", "2002:a00:1::", "2001:db8::1", "2a00::5efe:a00:1",
	} {
		table[fmt.Sprintf("n%d.example.org", number)] = addresses(address)
	}
	r := start(t, list, table, nil)
	for name, address := range table {
		conn, reply := r.open(t, wire.Hello{Stream: wire.Egress, Host: name, Port: port})
		_ = conn.Close()
		if reply.Code != wire.Denied || !strings.Contains(reply.Message, "special address") {
			t.Errorf("%v: got %+v", address, reply)
		}
	}
}

func TestARuleForALargeNetworkDoesNotMeanTheSpecialOnesInIt(t *testing.T) {
	networks(t)
	port := echo(t, "0.0.0.0:0")
	r := start(t, []settings.Egress{{Host: "10.0.0.0/7", Port: port}, {Host: "64.0.0.0/8", Port: port}}, nil, nil)
	if got := r.code(t, private, port); got != wire.Denied {
		t.Errorf("got %q", got)
	}
	if got := r.code(t, "64.0.0.1", port); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestSpecialAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.2.3": "10.0.0.0/8", "::ffff:10.1.2.3": "10.0.0.0/8", "169.254.169.254": "169.254.0.0/16",
		"fd00:ec2::254": "fc00::/7", "64:ff9b::a01:203": "64:ff9b::a00:0/104", "2002:c0a8:1::1": "2002:c0a8::/32",
		"::ffff:0:10.0.0.1": "::ffff:0:a00:0/104", "2600::200:5efe:7f00:1": "2600::200:5efe:7f00:0/104",
		"8.8.8.8": "", "1.1.1.1": "", "2600:1f18::1": "", "64:ff9b::808:808": "", "2002:808:808::1": "", "100.128.0.1": "",
		"172.32.0.1": "", "2606:4700::1111": "",
	} {
		prefix, isSpecial := egress.Special(netip.MustParseAddr(text))
		if isSpecial != (want != "") || isSpecial && prefix.String() != want {
			t.Errorf("%s: got %v, %v; expected %q", text, prefix, isSpecial, want)
		}
	}
	if _, isSpecial := egress.Special(netip.Addr{}); !isSpecial {
		t.Error("no address is not special")
	}
	if _, isSpecial := egress.Special(netip.MustParseAddr("2600::1%eth0")); !isSpecial {
		t.Error("an address with a zone is not special")
	}
}

func TestTheTimeIsTold(t *testing.T) {
	r := start(t, nil, nil, nil)
	before := time.Now().UnixNano()
	conn, reply := r.open(t, wire.Hello{Stream: wire.Time})
	if reply.Code != "" || reply.UnixNS < before || reply.UnixNS > time.Now().UnixNano() {
		t.Errorf("got %+v", reply)
	}
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v, expected the end", err)
	}
	for _, kind := range []wire.Stream{wire.Control, wire.Ingress, "x"} {
		if _, reply := r.open(t, wire.Hello{Stream: kind}); reply.Code != wire.Denied {
			t.Errorf("%s: got %+v", kind, reply)
		}
	}
}

func TestAGuestThatSaysNonsenseHarmsNobody(t *testing.T) {
	networks(t)
	port := echo(t, private+":0")
	r := start(t, []settings.Egress{{Host: private, Port: port}}, nil, nil)
	for _, data := range []string{
		"", "\x00", "\xff\xff{", "\x00\x02[]", "GET / HTTP/1.1\r\n\r\n", "\x00\x0f{\"version\":9999}", "\x00\x03{x}",
		strings.Repeat("\x08\x00", 5000),
	} {
		conn, err := r.parent.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write([]byte(data))
		_ = conn.CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("%.20q: got %q", data, got)
		}
		_ = conn.Close()
	}
	if got := r.code(t, private, port); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestTheLimitOnStreamsIsKept(t *testing.T) {
	networks(t)
	port := echo(t, private+":0")
	r := start(t, []settings.Egress{{Host: private, Port: port}}, nil,
		func(o *egress.Options) { o.MaxConnections = 2 })
	for range 2 {
		if _, reply := r.open(t, wire.Hello{Stream: wire.Egress, Host: private, Port: port}); reply.Code != "" {
			t.Fatal(reply)
		}
	}
	conn, err := r.parent.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(r.said.String(), "all 2 are in use") {
		t.Errorf("said %s", r.said)
	}
}

func TestADestinationThatDoesNotAnswerIsGivenUp(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // a name server that says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	r := start(t, []settings.Egress{{Host: "api.example.com", Port: 443}}, nil, func(o *egress.Options) {
		o.Timeout = 50 * time.Millisecond
		o.Resolver = (&nameServer{conn: silent}).resolver()
	})
	if got := r.code(t, "api.example.com", 443); got != wire.TimedOut {
		t.Errorf("got %q", got)
	}
}

func TestStreamsThatAreOpenedAndDropped(t *testing.T) {
	networks(t)
	port := echo(t, private+":0")
	r := start(t, []settings.Egress{{Host: private, Port: port}}, nil, nil)
	var waiting sync.WaitGroup
	room := make(chan struct{}, 32)
	for number := range 1000 {
		waiting.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			conn, err := r.parent.Dial(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			if number%2 == 0 {
				_ = wire.WriteHello(conn, wire.Hello{Stream: wire.Egress, Host: private, Port: port})
			}
		})
	}
	waiting.Wait()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		var text strings.Builder
		_ = r.metrics.WriteText(&text)
		if strings.Contains(text.String(), "cage_host_egress_open 0\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(text.String())
		}
	}
}
