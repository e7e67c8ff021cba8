package ingress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/wire"
)

func TestDrainLetsRequestsEnd(t *testing.T) {
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			begun, release := make(chan struct{}), make(chan struct{})
			port := httpApp(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(begun)
					<-release
				}
				_, _ = io.WriteString(w, "done")
			}, func(server *http.Server) {
				if protocol == "h2c" {
					h2c(server)
				}
			})
			c := newCage(t, nil, terminate(port, protocol))
			client, url := c.client(version), "https://"+c.front(port)
			idle := c.client(version)
			get(t, idle, url+"/")
			answered := make(chan error, 1)
			go func() {
				response, err := client.Get(url + "/slow")
				if err == nil {
					var body []byte
					body, err = io.ReadAll(response.Body)
					_ = response.Body.Close()
					if string(body) != "done" {
						err = fmt.Errorf("got %q, %w", body, err)
					}
				}
				answered <- err
			}()
			<-begun
			drained := make(chan error, 1)
			go func() { drained <- c.Drain(context.Background()) }()
			eventually(t, "new connections are refused", func() bool {
				_, err := c.open(wire.Hello{Port: port})
				return err != nil
			})
			select {
			case err := <-drained:
				t.Fatalf("drained with a request under way: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			close(release)
			if err := <-answered; err != nil {
				t.Error(err)
			}
			if err := <-drained; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDrainEndsWithItsContext(t *testing.T) {
	httpPort := httpApp(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil)
	tcpPort := app(t, echo)
	socketPort := upgradeApp(t, func(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(conn, in) })
	c := newCage(t, nil, terminate(httpPort, "http"), terminate(tcpPort, "tcp"), terminate(socketPort, "http"))
	address := c.front(httpPort)
	var all sync.WaitGroup
	for version := 1; version <= 2; version++ {
		client := c.client(version)
		all.Go(func() {
			if response, err := client.Get("https://" + address + "/"); err == nil {
				t.Errorf("got %d", response.StatusCode)
			}
		})
	}
	tcp := c.dialTLS(c.front(tcpPort), nil)
	_, _ = io.WriteString(tcp, "x")
	_, _ = io.ReadFull(tcp, make([]byte, 1))
	socket := c.dialTLS(c.front(socketPort), nil)
	_, _ = io.WriteString(socket, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(socket), nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are open", func() bool {
		return c.ports[httpPort].open.Load() == 2 && c.ports[tcpPort].open.Load() == 1
	})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := c.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	all.Wait()
	_, _ = io.ReadAll(tcp)
	_, _ = io.ReadAll(socket)
	for _, port := range []uint16{httpPort, tcpPort, socketPort} {
		if open := c.ports[port].open.Load(); open != 0 {
			t.Errorf("%d connections of port %d are open", open, port)
		}
	}
}

// TestAThousandConnectionsOpenedAndDropped has clients leave at every stage, in every way.
func TestAThousandConnectionsOpenedAndDropped(t *testing.T) {
	echoPort := app(t, echo)
	second := app(t, echo)
	httpPort := httpApp(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }, nil)
	c := newCage(t, nil, passthrough(echoPort), terminate(second, "tcp"), terminate(httpPort, "http"))
	addresses := []string{c.front(echoPort), c.front(second), c.front(httpPort)}
	leave := []func(*net.TCPConn){
		func(conn *net.TCPConn) { _ = conn.Close() },
		func(conn *net.TCPConn) { reset(conn) },
		func(conn *net.TCPConn) {
			_ = conn.CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		},
	}
	const count, atOnce = 1000, 50
	work := make(chan int)
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for number := range work {
				address := addresses[number%3]
				raw, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					continue
				}
				conn := raw.(*net.TCPConn)
				_ = conn.SetDeadline(time.Now().Add(hang))
				switch number / 3 % 4 {
				case 0: // at once
				case 1:
					_, _ = io.WriteString(conn, "\x16\x03\x01\x02\x00\x01\x00")
				case 2:
					_, _ = conn.Write(make([]byte, 100_000))
				case 3:
					if client := c.handshaken(conn); client != nil {
						_, _ = io.WriteString(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
					}
				}
				leave[number/12%3](conn)
			}
		})
	}
	for number := range count {
		work <- number
	}
	close(work)
	all.Wait()
	eventually(t, "all have ended", func() bool {
		return c.inner.Open() == 0 && c.outer.Open() == 0 && c.ports[echoPort].open.Load() == 0 &&
			c.ports[second].open.Load() == 0 && c.ports[httpPort].open.Load() == 0
	})
	// And it still serves.
	if response, body := get(t, c.client(2), "https://"+addresses[2]+"/"); response.StatusCode != 200 || body != "" {
		t.Errorf("got %d, %q", response.StatusCode, body)
	}
}
