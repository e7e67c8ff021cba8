package ingress

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// reuse is how long a connection to the app waits for the next request. Servers close idle connections after
	// two seconds and more; a request that is sent at that moment is lost.
	reuse = time.Second
	// reuseHTTP2 is the same with HTTP/2, whose servers say which requests they have not begun with.
	reuseHTTP2 = 30 * time.Second

	maxAnswerHeader = 256 << 10
	maxIdle         = 1024
	// continuePatience is how long the app may take to say that it wants a request's body.
	continuePatience = time.Second
	// window is how much of an HTTP/2 answer the app may be ahead of the client, in bytes.
	window = 512 << 10
)

// pool is connections to the app's port for HTTP, of a client or of all.
type pool struct {
	http.Transport

	mutex  sync.Mutex
	conns  map[*pooledConn]bool
	closed bool
}

// newPool makes one. The client is who a PROXY header names.
func (p *port) newPool(client *stream) *pool {
	made := &pool{conns: map[*pooledConn]bool{}}
	made.Transport = http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := p.dial(ctx, client)
			if err != nil {
				return nil, err
			}
			return made.keep(conn), nil
		},
		DisableCompression:     true, // it would ask for gzip, and undo it
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        reuse,
		ExpectContinueTimeout:  continuePatience,
		MaxResponseHeaderBytes: maxAnswerHeader,
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: window},
		Protocols:              &http.Protocols{},
	}
	if p.Protocol == "h2c" {
		made.Protocols.SetUnencryptedHTTP2(true)
		made.IdleConnTimeout = reuseHTTP2
	} else {
		made.Protocols.SetHTTP1(true)
	}
	return made
}

// poolOf finds the connections for a client's requests.
func (p *port) poolOf(client *stream) *pool {
	if p.pool != nil {
		return p.pool
	}
	client.mutex.Lock()
	made := client.pool
	if made == nil {
		made = p.newPool(client)
		client.pool = made
		if client.ended {
			made.close()
		}
	}
	client.mutex.Unlock()
	return made
}

// pooledConn is one of a pool's.
type pooledConn struct {
	*net.TCPConn
	pool *pool
}

func (p *pool) keep(conn *net.TCPConn) *pooledConn {
	kept := &pooledConn{conn, p}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.closed {
		_ = conn.Close()
	} else {
		p.conns[kept] = true
	}
	return kept
}

// Close is that of a net.Conn.
func (c *pooledConn) Close() error {
	c.pool.mutex.Lock()
	delete(c.pool.conns, c)
	c.pool.mutex.Unlock()
	return c.TCPConn.Close()
}

// close ends all, also those that are made later.
func (p *pool) close() {
	p.mutex.Lock()
	p.closed = true
	for conn := range p.conns {
		_ = conn.TCPConn.Close()
	}
	p.mutex.Unlock()
	p.CloseIdleConnections()
}
