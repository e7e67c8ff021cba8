package ingress

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// upgrade is a connection that begins with HTTP and goes on with another protocol, such as WebSocket. As with any
// connection, one that breaks off on one side is broken off on the other.
type upgrade struct {
	client *stream
	app    atomic.Pointer[pooledConn]
}

// watch has the app's connection told.
func (u *upgrade) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if conn, isPooled := info.Conn.(*pooledConn); isPooled {
			u.app.Store(conn)
		}
	}})
}

// fromApp is what the app sends after its answer, which the client must have asked for.
func (u *upgrade) fromApp(response *http.Response) error {
	app := u.app.Load()
	body, isBoth := response.Body.(io.ReadWriteCloser)
	if app == nil || !isBoth {
		return errors.New("switched protocols unasked")
	}
	response.Body = &upgradedApp{body, app, u.client}
	return nil
}

type upgradedApp struct {
	io.ReadWriteCloser
	conn   *pooledConn
	client *stream
}

func (a *upgradedApp) Read(data []byte) (int, error) {
	count, err := a.ReadWriteCloser.Read(data)
	if err != nil && !errors.Is(err, io.EOF) {
		a.client.abort()
	}
	return count, err
}

// CloseWrite tells the app that nothing more will come.
func (a *upgradedApp) CloseWrite() error { return a.conn.CloseWrite() }

// fromClient is what the client sends after its request, or with it.
func (u *upgrade) fromClient(conn net.Conn, buffered *bufio.Reader) (net.Conn, error) {
	early, err := buffered.Peek(buffered.Buffered())
	return &upgradedClient{Conn: conn, early: append([]byte(nil), early...), upgrade: u}, err
}

type upgradedClient struct {
	net.Conn
	early   []byte
	upgrade *upgrade
}

func (c *upgradedClient) Read(data []byte) (int, error) {
	if len(c.early) > 0 {
		count := copy(data, c.early)
		c.early = c.early[count:]
		return count, nil
	}
	count, err := c.Conn.Read(data)
	if errors.Is(err, io.EOF) && c.upgrade.client.cutOff.Load() {
		err = errCutOff
	}
	if app := c.upgrade.app.Load(); err != nil && !errors.Is(err, io.EOF) && app != nil {
		_ = app.SetLinger(0)
		_ = app.Close()
	}
	return count, err
}

// CloseWrite tells the client that nothing more will come.
func (c *upgradedClient) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
