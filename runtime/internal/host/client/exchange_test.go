package client

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/transport"
)

// canned is a guest's side of a stream that is known in advance.
type canned struct {
	answer *bytes.Reader
}

func (c *canned) Read(to []byte) (int, error)                { return c.answer.Read(to) }
func (*canned) Write(data []byte) (int, error)               { return len(data), nil }
func (*canned) Close() error                                 { return nil }
func (*canned) CloseWrite() error                            { return nil }
func (*canned) LocalAddr() net.Addr                          { return transport.VsockAddr{} }
func (*canned) RemoteAddr() net.Addr                         { return transport.VsockAddr{} }
func (*canned) SetDeadline(time.Time) error                  { return nil }
func (*canned) SetReadDeadline(time.Time) error              { return nil }
func (*canned) SetWriteDeadline(time.Time) error             { return nil }
func (*canned) SyscallConn() (conn syscall.RawConn, _ error) { return conn, syscall.ENOTSUP }

func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 503 No\r\n\r\n{\"error\":\"x\"}",
		"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nxxxxx",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		request, err := http.NewRequest(http.MethodGet, "http://guest/v1/health", nil)
		if err != nil {
			t.Fatal(err)
		}
		stream := &canned{answer: bytes.NewReader(answer)}
		response, err := talk(context.Background(), stream, request)
		if err != nil {
			if text := describe(err); bytes.ContainsAny([]byte(text), "\n\x1b\x00") || len(text) > maxProblem+8 {
				t.Fatalf("%q", text)
			}
			return
		}
		data, err := io.ReadAll(io.LimitReader(response.Body, maxHealth))
		if err == nil && len(data) > len(answer) {
			t.Fatalf("%d bytes out of %d", len(data), len(answer))
		}
		_, _ = ParseHealth(data)
		_, _ = cleanRequest(data)
		if text := problem(data); bytes.ContainsAny([]byte(text), "\n\x1b\x00") || len(text) > maxProblem+8 {
			t.Fatalf("%q", text)
		}
	})
}
