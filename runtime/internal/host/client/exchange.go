package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// maxInterim is how many interim answers (1xx) are skipped.
const maxInterim = 5

// exchange makes one request on a stream of its own. net/http's client isn't used, for it keeps connections, follows
// the other side's wishes (redirects, protocols, compression), and writes to the log what it doesn't understand.
func exchange(ctx context.Context, guest transport.Address, request *http.Request) (*http.Response, error) {
	conn, err := Open(ctx, guest, wire.Hello{Stream: wire.Control})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	end := func() error {
		stop()
		return conn.Close()
	}
	response, err := talk(ctx, conn, request)
	if err != nil {
		_ = end()
		return nil, failure(ctx, err)
	}
	response.Body = &body{Reader: response.Body, end: end}
	return response, nil
}

func talk(ctx context.Context, conn transport.Conn, request *http.Request) (*http.Response, error) {
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	request.Close = true
	// An answer may come before the request was read to its end, and be the reason why it wasn't.
	sent := request.Write(conn)
	header := &io.LimitedReader{R: conn, N: maxHeader}
	reader := bufio.NewReader(header)
	for range maxInterim {
		response, err := http.ReadResponse(reader, request)
		switch {
		case err != nil && header.N == 0:
			return nil, fmt.Errorf("the answer's header has more than %d bytes", maxHeader)
		case err != nil && sent != nil:
			return nil, sent
		case err != nil:
			return nil, err
		case response.StatusCode/100 == 1 && response.StatusCode != http.StatusSwitchingProtocols:
			continue
		}
		// What is read of the body is the caller's to bound, in bytes and time.
		header.N = 1<<63 - 1
		if err := conn.SetDeadline(time.Time{}); err != nil {
			return nil, err
		}
		if ctx.Err() != nil { // whose end has set a deadline just before
			return nil, ctx.Err()
		}
		return response, nil
	}
	return nil, errors.New("too many interim answers")
}

// body ends the stream with the answer. What wasn't read of it stays unread.
type body struct {
	io.Reader
	end func() error
}

func (b *body) Close() error { return b.end() }
