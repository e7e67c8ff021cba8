package ingress

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
)

// record is how much a TLS record holds.
const record = 16 << 10

var buffers = sync.Pool{New: func() any { return new([record]byte) }}

// join moves bytes between a client's TLS connection and the app. The end of one direction (close_notify, FIN) is
// passed on as such; whatever else ends one breaks both off.
func (p *port) join(client *tls.Conn, s *stream) {
	app, err := p.dial(p.owner.context, s)
	if err != nil {
		p.counts.refused.Inc(p.name(), string(codeOf(err)))
		s.abort()
		return
	}
	var both sync.WaitGroup
	var failed [2]error
	directions := []func() error{
		func() error {
			if err := move(app, client); err != nil {
				return err
			}
			if s.cutOff.Load() {
				// Anybody on the way can end a connection. Only the client can say that it has sent everything.
				return errCutOff
			}
			return app.CloseWrite()
		},
		func() error {
			if err := move(client, app); err != nil {
				return err
			}
			return client.CloseWrite()
		},
	}
	for index, direction := range directions {
		both.Go(func() {
			if failed[index] = direction(); failed[index] != nil {
				s.abort()
				reset(app)
			}
		})
	}
	both.Wait()
	if errors.Join(failed[:]...) == nil {
		_ = client.Close()
		_ = app.Close()
	}
}

var errCutOff = errors.New("the client's connection ended without close_notify")

func move(to io.Writer, from net.Conn) error {
	buffer := buffers.Get().(*[record]byte)
	defer buffers.Put(buffer)
	for {
		count, err := from.Read(buffer[:])
		if count > 0 {
			if _, err := to.Write(buffer[:count]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
