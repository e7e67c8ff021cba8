package ingress

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
)

// upgradeApp takes a request to switch protocols, and then does as it is told.
func upgradeApp(t *testing.T, serve func(conn net.Conn, in *bufio.Reader)) uint16 {
	return app(t, func(conn net.Conn) {
		in := bufio.NewReader(conn)
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n"+
			"Sec-WebSocket-Accept: %s\r\n\r\n", request.Header.Get("Upgrade"), request.Header.Get("Sec-WebSocket-Key"))
		serve(conn, in)
	})
}

func TestWebSocketsPassThrough(t *testing.T) {
	port := upgradeApp(t, func(conn net.Conn, in *bufio.Reader) {
		_, _ = io.Copy(conn, in)
		_, _ = io.WriteString(conn, "bye")
		_ = conn.(*net.TCPConn).CloseWrite()
	})
	c := newCage(t, nil, terminate(port, "http"))
	conn := c.dialTLS(c.front(port), nil)
	// The first frame is sent with the request.
	_, _ = io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: key\r\nSec-WebSocket-Version: 13\r\n\r\nearly")
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Sec-WebSocket-Accept") != "key" {
		t.Fatalf("got %d, %v", response.StatusCode, response.Header)
	}
	frame := make([]byte, 100_000)
	if _, err := io.ReadFull(in, frame[:5]); err != nil || string(frame[:5]) != "early" {
		t.Fatalf("got %q, %v", frame[:5], err)
	}
	for size := 1; size <= len(frame); size *= 10 {
		sent := bytes.Repeat([]byte{byte(size % 251)}, size)
		_, _ = conn.Write(sent)
		if _, err := io.ReadFull(in, frame[:size]); err != nil || !bytes.Equal(frame[:size], sent) {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
	_ = conn.CloseWrite()
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "bye" {
		t.Errorf("got %q, %v", rest, err)
	}
}

const upgradeRequest = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

func TestAWebSocketThatTheClientBreaksOff(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"FIN":   func(conn net.Conn) { _ = conn.(*net.TCPConn).CloseWrite() },
		"reset": reset,
	} {
		ended := make(chan error, 1)
		port := upgradeApp(t, func(_ net.Conn, in *bufio.Reader) {
			_, err := io.ReadAll(in)
			ended <- err
		})
		c := newCage(t, nil, terminate(port, "http"))
		conn := c.dialTLS(c.front(port), nil)
		_, _ = io.WriteString(conn, upgradeRequest)
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Fatal(err)
		}
		end(conn.NetConn())
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAWebSocketThatTheAppBreaksOff(t *testing.T) {
	port := upgradeApp(t, func(conn net.Conn, in *bufio.Reader) {
		_, _ = in.ReadByte()
		reset(conn)
	})
	c := newCage(t, nil, terminate(port, "http"))
	conn, watched := c.dialWatched(c.front(port), nil)
	_, _ = io.WriteString(conn, upgradeRequest)
	in := bufio.NewReader(conn)
	if _, err := http.ReadResponse(in, nil); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "x")
	if got, err := io.ReadAll(in); !errors.Is(err, syscall.ECONNRESET) && !watched.cutOff.Load() {
		t.Errorf("got %q, %v", got, err)
	}
}
