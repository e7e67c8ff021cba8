package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// answers is the handler of these tests: names say what they get.
func answers(asked Question) Answer {
	switch first, _, _ := strings.Cut(strings.ToLower(asked.Name), "."); {
	case first == "none":
		return Answer{Code: NXDomain, Authority: []Record{Authority(60)}}
	case first == "broken":
		return Answer{Records: []Record{{Owner: "a..b"}}}
	case asked.Type != TypeA:
		return Answer{Authority: []Record{Authority(60)}}
	case first == "many":
		many := []Record{}
		for index := range 100 {
			many = append(many, Address(netip.AddrFrom4([4]byte{127, 64, 1, byte(index)}), 300))
		}
		return Answer{Records: many}
	}
	return Answer{Records: []Record{Address(netip.MustParseAddr("127.64.0.1"), 300)}}
}

// serve runs a server until the test ends and returns its address.
func serve(t *testing.T, options Options) string {
	t.Helper()
	leak.Check(t)
	options.Handler = answers
	server, err := Listen("127.0.0.1:0", options)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- server.Serve() }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return server.Addr().String()
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func framed(messages ...[]byte) []byte {
	stream := []byte{}
	for _, message := range messages {
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(message))), message...)
	}
	return stream
}

func TestGoResolves(t *testing.T) {
	address := serve(t, Options{})
	for _, network := range []string{"udp", "tcp"} {
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}
		got, err := resolver.LookupNetIP(t.Context(), "ip", "one.example.")
		if want := []netip.Addr{netip.MustParseAddr("127.64.0.1")}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v", network, got, err)
		}
		// Cut over UDP: asked for again over whatever Dial gives; dig shows the change to TCP.
		got, err = resolver.LookupNetIP(t.Context(), "ip4", "many.example.")
		if network == "tcp" && (err != nil || len(got) != 100) {
			t.Errorf("%s: got %d addresses, %v", network, len(got), err)
		}
		_, err = resolver.LookupNetIP(t.Context(), "ip", "none.example.")
		if missing, ok := errors.AsType[*net.DNSError](err); !ok || !missing.IsNotFound {
			t.Errorf("%s: got %v", network, err)
		}
	}
}

func TestDig(t *testing.T) {
	program, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is not installed: apt-get install bind9-dnsutils")
	}
	host, port, err := net.SplitHostPort(serve(t, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, given := range []struct {
		arguments string
		want      []string
		lacks     string
	}{
		{"one.example A", []string{"status: NOERROR", "flags: qr aa rd ra;", "127.64.0.1", "EDNS: version: 0", "udp: 4096"}, "Warning"},
		{"OnE.eXaMple A", []string{"OnE.eXaMple.\t\t300"}, "Warning"},
		{"+noedns one.example A", []string{"127.64.0.1"}, "EDNS"},
		{"+tcp one.example A", []string{"127.64.0.1", "(TCP)"}, "Warning"},
		{"one.example AAAA", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1", "IN\tSOA\tlocalhost. nobody.invalid."}, "Warning"},
		{"none.example A", []string{"status: NXDOMAIN"}, "Warning"},
		{"+ignore +bufsize=512 many.example A", []string{"flags: qr aa tc rd ra;", "ANSWER: 0"}, "127.64"},
		{"+bufsize=512 many.example A", []string{"ANSWER: 100", "127.64.1.99", "(TCP)"}, "Warning"},
		{"+bufsize=4096 many.example A", []string{"ANSWER: 100", "127.64.1.99", "(UDP)"}, "Warning"},
		{"+edns=1 +noednsnegotiation one.example A", []string{"status: BADVERS"}, "127.64"},
		{"+opcode=status one.example A", []string{"status: NOTIMP"}, "127.64"},
		{"+dnssec +cookie +nsid one.example A", []string{"flags: do;", "127.64.0.1"}, "Warning"},
		{"broken.example A", []string{"status: SERVFAIL"}, "Warning"},
		{"+header-only one.example A", []string{"status: FORMERR"}, "127.64"},
	} {
		arguments := append([]string{"@" + host, "-p", port, "+tries=1", "+time=20", "+nocrypto"}, strings.Fields(given.arguments)...)
		output, err := exec.CommandContext(t.Context(), program, arguments...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", given.arguments, err, output)
			continue
		}
		for _, want := range given.want {
			if !bytes.Contains(output, []byte(want)) {
				t.Errorf("%s: lacks %q:\n%s", given.arguments, want, output)
			}
		}
		if bytes.Contains(output, []byte(given.lacks)) {
			t.Errorf("%s: has %q:\n%s", given.arguments, given.lacks, output)
		}
	}
}

func TestPipelinedQueriesAreAllAnswered(t *testing.T) {
	address := serve(t, Options{})
	conn := dial(t, "tcp", address)
	const many = 2000
	go func() {
		for index := range many {
			message := query(0, [4]uint16{1}, askA)
			binary.BigEndian.PutUint16(message, uint16(index))
			// One byte at a time now and then: a message needn't come in one piece.
			stream := framed(message)
			if index%100 == 0 {
				for _, each := range stream {
					_, _ = conn.Write([]byte{each})
				}
			} else {
				_, _ = conn.Write(stream)
			}
		}
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	buffer := make([]byte, maxQuery)
	for index := range many {
		message, err := readMessage(conn, buffer)
		if err != nil {
			t.Fatal(err)
		}
		if m := decode(t, message); m.id != uint16(index) || m.code != NoError || len(m.answers) != 1 {
			t.Fatalf("got %+v", m)
		}
	}
	if _, err := readMessage(conn, buffer); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

func TestGarbageIsAnsweredOrDropped(t *testing.T) {
	var mutex sync.Mutex
	codes := map[Code]int{}
	address := serve(t, Options{Answered: func(code Code) {
		mutex.Lock()
		defer mutex.Unlock()
		codes[code]++
	}})
	conn := dial(t, "udp", address)
	for _, message := range [][]byte{
		{}, {0}, query(0, [4]uint16{1}, askA)[:11], query(bitResponse, [4]uint16{1}, askA), // no answers
		query(0, [4]uint16{9}, askA), query(0, [4]uint16{1}, askA, long(5000)), query(5<<11, [4]uint16{1}, "\xff"),
		query(0, [4]uint16{1}, askA),
	} {
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
	}
	buffer := make([]byte, maxQuery)
	for _, want := range []Code{FormErr, FormErr, NotImp, NoError} {
		size, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if m := decode(t, buffer[:size]); m.code != want {
			t.Errorf("got %+v, expected %v", m, want)
		}
	}
	mutex.Lock()
	defer mutex.Unlock()
	if codes[FormErr] != 2 || codes[NotImp] != 1 || codes[NoError] != 1 || len(codes) != 3 {
		t.Errorf("heard of %v", codes)
	}
}

// Whoever sends what can't be answered over TCP, or nothing, is cut off, and the others are served.
func TestClientsThatAreCutOff(t *testing.T) {
	address := serve(t, Options{Idle: time.Second})
	for name, stream := range map[string][]byte{
		"nothing":             nil,
		"half a length":       {0},
		"half a message":      framed(query(0, [4]uint16{1}, askA))[:20],
		"an empty message":    {0, 0},
		"a message too long":  {0xFF, 0xFF, 1, 2, 3},
		"a response":          framed(query(bitResponse, [4]uint16{1}, askA)),
		"another protocol":    []byte("GET / HTTP/1.1\r\n\r\n"),
		"a query and silence": framed(query(0, [4]uint16{1}, askA)),
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, "tcp", address)
			if _, err := conn.Write(stream); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil && !strings.Contains(err.Error(), "reset by peer") {
				t.Error(err)
			}
			if isAnswered := len(got) > 0; isAnswered != (name == "a query and silence") {
				t.Errorf("got %q", got)
			}
		})
	}
}

// More clients than there are slots for wait until others leave or are cut off.
func TestMoreClientsThanSlotsWait(t *testing.T) {
	address := serve(t, Options{Idle: 2 * time.Second})
	var group sync.WaitGroup
	for range 2 * maxConns {
		conn := dial(t, "tcp", address)
		group.Go(func() {
			if _, err := conn.Write(framed(query(0, [4]uint16{1}, askA))); err != nil {
				t.Error(err)
				return
			}
			// Not closed: the server has to do it.
			message, err := readMessage(conn, make([]byte, maxQuery))
			if err != nil {
				t.Error(err)
				return
			}
			if m := decode(t, message); m.code != NoError {
				t.Errorf("got %+v", m)
			}
		})
	}
	group.Wait()
}

func TestCloseCutsWhatIsOpen(t *testing.T) {
	leak.Check(t)
	server, err := Listen("127.0.0.1:0", Options{Handler: answers})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- server.Serve() }()
	conn := dial(t, "tcp", server.Addr().String())
	if _, err := conn.Write(framed(query(0, [4]uint16{1}, askA))); err != nil {
		t.Fatal(err)
	}
	if _, err := readMessage(conn, make([]byte, maxQuery)); err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection is open: %v", err)
	}
	_ = conn.Close()
}

func TestAnAddressInUseIsAnError(t *testing.T) {
	address := serve(t, Options{})
	if server, err := Listen(address, Options{Handler: answers}); err == nil {
		_ = server.Close()
		t.Error("two servers have the same address")
	}
}
