package data

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/data/ready"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/netlink/isolate"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// The tests have a network of their own: the resolver's address is fixed.
func TestMain(m *testing.M) { isolate.Main(m) }

// hang is how long a test waits for what has to come.
const hang = 30 * time.Second

// cage is a running data service, with the host's side of the wall around it.
type cage struct {
	t       *testing.T
	folder  string
	options Options
	guest   transport.Address
	module  *nsmtest.Server
	client  *http.Client // of control

	stop  context.CancelFunc
	ended chan error

	mutex  sync.Mutex
	opened []string // by the guest
	offset time.Duration
}

// config is a cage.json.
func config(changes map[string]any) []byte {
	values := map[string]any{
		"version": 2, "name": "pay", "argv": []string{"/app"}, "uid": 0, "gid": 0, "groups": []int{}, "env": []string{},
		"workdir": "/", "ingress": []any{}, "egress": []any{}, "logs": false, "epoch": 0,
		"secrets": map[string]any{"env": []string{}, "files": []string{}},
	}
	for key, value := range changes {
		values[key] = value
	}
	text, err := json.Marshal(values)
	if err != nil {
		panic(err) // a mistake of the test's
	}
	return text
}

func ingressOf(port uint16, changes map[string]any) map[string]any {
	rule := map[string]any{"port": port, "health": nil, "tls": "passthrough", "protocol": "tcp", "proxy_protocol": false}
	for key, value := range changes {
		rule[key] = value
	}
	return rule
}

// prepare lays out what a cage is started with; start starts it.
func prepare(t *testing.T, changes map[string]any) *cage {
	t.Helper()
	leak.Check(t)
	folder := t.TempDir()
	c := &cage{t: t, folder: folder, guest: transport.Address{Scheme: "unix", Path: filepath.Join(folder, "guest")}}
	if err := os.WriteFile(filepath.Join(folder, "cage.json"), config(changes), 0o600); err != nil {
		t.Fatal(err)
	}
	module, err := nsmtest.Listen(filepath.Join(folder, "nsm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(module.Close)
	c.module = module
	c.host()
	c.options = Options{
		Listen:   c.guest.String(),
		Parent:   "unix://" + filepath.Join(folder, "host"),
		NSM:      module.URL(),
		Settings: filepath.Join(folder, "cage.json"),
		Folder:   filepath.Join(folder, "run"),
		App:      filepath.Join(folder, "app"),
	}
	connections := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return c.stream(wire.Hello{Stream: wire.Control})
	}}
	t.Cleanup(connections.CloseIdleConnections)
	c.client = &http.Client{Transport: connections}
	return c
}

func (c *cage) start() *cage {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c.stop, c.ended = stop, make(chan error, 1)
	if c.options.Stop == nil {
		c.options.Stop = stop
	}
	go func() { c.ended <- Run(ctx, c.options) }()
	c.t.Cleanup(func() { c.end() })
	c.until(func() bool {
		select {
		case err := <-c.ended:
			c.t.Fatalf("it ended: %v", err)
		default:
		}
		_, err := os.Stat(c.guest.Path)
		return err == nil && ready.Was(filepath.Join(c.options.Folder, "ready"))
	})
	return c
}

// end has the service end in order.
func (c *cage) end() {
	c.t.Helper()
	if c.stop == nil {
		return
	}
	c.stop()
	c.stop = nil
	select {
	case err := <-c.ended:
		if err != nil {
			c.t.Error(err)
		}
	case <-time.After(hang):
		c.t.Error("it did not end")
	}
}

func (c *cage) until(condition func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(hang); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatal("it didn't come")
		}
	}
}

// host takes the guest's streams: of egress each says where it goes and echoes.
func (c *cage) host() {
	address := transport.Address{Scheme: "unix", Path: filepath.Join(c.folder, "host")}
	listener, err := address.Listen()
	if err != nil {
		c.t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { c.take(conn) })
		}
	})
	c.t.Cleanup(func() {
		_ = listener.Close()
		group.Wait()
	})
}

func (c *cage) take(conn transport.Conn) {
	defer conn.Close()
	hello, err := wire.ReadHello(conn)
	if err != nil {
		return
	}
	if hello.Stream == wire.Time {
		_ = wire.WriteReply(conn, wire.Reply{UnixNS: time.Now().Add(c.offset).UnixNano()})
		return
	}
	c.mutex.Lock()
	c.opened = append(c.opened, fmt.Sprintf("%s %s %d", hello.Stream, hello.Host, hello.Port))
	c.mutex.Unlock()
	_ = wire.WriteReply(conn, wire.Reply{})
	_, _ = io.Copy(conn, conn)
}

// stream opens a stream to the guest.
func (c *cage) stream(hello wire.Hello) (transport.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	conn, err := c.guest.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := wire.WriteHello(conn, hello); err != nil {
		_ = conn.Close()
		return nil, err
	}
	reply, err := wire.ReadReply(conn)
	if err == nil {
		err = reply.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask makes a request of the parent's.
func (c *cage) ask(method, path, kind, body string) (int, string) {
	c.t.Helper()
	return ask(c.t, c.client, method, "http://cage"+path, kind, body)
}

func ask(t *testing.T, client *http.Client, method, url, kind, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", kind)
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// echoApp listens on loopback and echoes; it returns its port.
func echoApp(t *testing.T) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		group.Wait()
	})
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}
