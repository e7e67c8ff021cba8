package control

import (
	"net"
	"sync"
)

// streams is a net.Listener of streams that somebody else has accepted.
type streams struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (s *streams) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *streams) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *streams) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "control" }
func (address) String() string  { return "control" }
