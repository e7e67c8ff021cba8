package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/netlink/isolate"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/rules"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

func TestMain(m *testing.M) { isolate.Main(m) }

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// parent is the other side of the wall, whose destinations say who they are and then echo.
type parent struct {
	address transport.Address

	listener transport.Listener
	group    sync.WaitGroup
	mutex    sync.Mutex
	serve    func(stream transport.Conn, hello wire.Hello) // has a stream after its hello
	streams  map[transport.Conn]struct{}
}

func newParent(t *testing.T) *parent {
	t.Helper()
	return &parent{
		address: transport.Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "parent.sock")},
		serve:   echo,
		streams: map[transport.Conn]struct{}{},
	}
}

func (p *parent) start(t *testing.T) {
	t.Helper()
	listener, err := p.address.Listen()
	if err != nil {
		t.Fatal(err)
	}
	p.listener = listener
	p.group.Go(func() {
		for {
			stream, err := listener.Accept()
			if err != nil {
				return
			}
			p.mutex.Lock()
			p.streams[stream] = struct{}{}
			p.mutex.Unlock()
			p.group.Go(func() { p.take(t, stream) })
		}
	})
	t.Cleanup(p.stop)
}

// stop is the parent's sudden end.
func (p *parent) stop() {
	_ = p.listener.Close()
	p.mutex.Lock()
	for stream := range p.streams {
		_ = stream.Close()
	}
	p.mutex.Unlock()
	p.group.Wait()
}

func (p *parent) take(t *testing.T, stream transport.Conn) {
	defer func() {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		delete(p.streams, stream)
		_ = stream.Close()
	}()
	hello, err := wire.ReadHello(stream)
	if err != nil {
		// An opening that was given up at once.
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the parent got no hello: %v", err)
		}
		return
	}
	if hello.Stream != wire.Egress {
		t.Errorf("the parent got a stream for %q", hello.Stream)
	}
	p.mutex.Lock()
	serve := p.serve
	p.mutex.Unlock()
	serve(stream, hello)
}

func (p *parent) serveWith(serve func(stream transport.Conn, hello wire.Hello)) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.serve = serve
}

// echo opens every stream.
func echo(stream transport.Conn, hello wire.Hello) {
	_ = wire.WriteReply(stream, wire.Reply{})
	_, _ = fmt.Fprintf(stream, "%s %d\n", hello.Host, hello.Port)
	_, _ = io.Copy(stream, stream)
	_ = stream.CloseWrite()
}

// cage is an Egress that runs, and what it said.
type cage struct {
	*Egress
	parent  *parent
	metrics *metrics.Registry
	end     context.CancelFunc

	mutex sync.Mutex
	lines []string
}

func allow(t testing.TB, lines ...string) *rules.Set {
	t.Helper()
	list := []settings.Egress{}
	for _, line := range lines {
		var rule settings.Egress
		if _, err := fmt.Sscan(line, &rule.Host, &rule.Port); err != nil {
			t.Fatal(err)
		}
		list = append(list, rule)
	}
	set, err := rules.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// run starts a parent, and an Egress until the test ends. Names are resolved through it.
func run(t *testing.T, options Options) *cage {
	t.Helper()
	isolate.Need(t)
	leak.Check(t)
	isolate.Replace(t, "/etc/resolv.conf", "nameserver 127.0.0.1\n")
	isolate.Replace(t, "/etc/hosts", "127.0.0.1 localhost\n")
	parent := newParent(t)
	parent.start(t)
	return runWith(t, parent, options)
}

// runWith starts an Egress for a parent that may be there or not.
func runWith(t *testing.T, parent *parent, options Options) *cage {
	t.Helper()
	mover, err := relay.New(relay.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mover.Close)
	c := &cage{parent: parent, metrics: metrics.NewRegistry()}
	options.Relay, options.Parent, options.Metrics = mover, parent.address, c.metrics
	if c.Egress, err = New(options); err != nil {
		t.Fatal(err)
	}
	c.notes.line = func(format string, arguments ...any) {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.lines = append(c.lines, fmt.Sprintf(format, arguments...))
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	c.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		c.end()
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Drain(now)
	})
	return c
}

func (c *cage) text() string {
	text := &bytes.Buffer{}
	if err := c.metrics.WriteText(text); err != nil {
		return err.Error()
	}
	return text.String()
}

func (c *cage) said() string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return strings.Join(c.lines, "\n")
}

// expect waits until the metrics have a line, and the log has one that contains each text.
func (c *cage) expect(t *testing.T, metric string, lines ...string) {
	t.Helper()
	eventually(t, func() error {
		if text := c.text(); metric != "" && !strings.Contains(text, "\n"+metric+"\n") {
			return fmt.Errorf("the metrics lack %q:\n%s", metric, text)
		}
		for _, line := range lines {
			if said := c.said(); !strings.Contains(said, line) {
				return fmt.Errorf("the log lacks %q:\n%s", line, said)
			}
		}
		return nil
	})
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// resolver is Go's own, which reads /etc/resolv.conf.
var resolver = &net.Resolver{PreferGo: true}

func dial(t *testing.T, address string) (*net.TCPConn, error) {
	t.Helper()
	dialer := net.Dialer{Resolver: resolver, Timeout: patience}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn), nil
}

// reach connects and checks which destination answers, and that it takes and gives everything.
func reach(t *testing.T, address, want string) {
	t.Helper()
	conn, err := dial(t, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	sent := strings.Repeat("0123456789abcdef", 1<<14)
	go func() {
		_, _ = io.WriteString(conn, sent)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != want+"\n"+sent {
		t.Errorf("%s: got %d bytes, %.60q…, %v; expected %q first", address, len(got), got, err, want)
	}
}

// reset connects and checks that the connection is reset.
func reset(t *testing.T, address string) {
	t.Helper()
	conn, err := dial(t, address)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: got %v, expected a reset", address, err)
	}
}

// fails connects and checks with which error that fails.
func fails(t *testing.T, address string, want error) {
	t.Helper()
	conn, err := dial(t, address)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, expected %v", address, err, want)
	}
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
