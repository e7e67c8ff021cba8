package data

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

const (
	maxHellos = 1024             // streams at once that haven't said what they are
	patience  = 10 * time.Second // for a hello, and for its answer
	pause     = 100 * time.Millisecond
)

// door takes the host's streams and hands each on to whom it is for.
type door struct {
	listener transport.Listener
	ownCID   uint32
	ingress  func(conn transport.Conn, hello wire.Hello) // takes the stream over
	control  func(conn net.Conn) bool                    // takes the stream over if it returns true
	streams  *metrics.Counter

	hellos  chan struct{}
	group   sync.WaitGroup
	mutex   sync.Mutex
	waiting map[transport.Conn]bool // whose hello hasn't come
	closed  bool
}

func newDoor(listener transport.Listener, ownCID uint32, registry *metrics.Registry) *door {
	return &door{
		listener: listener,
		ownCID:   ownCID,
		streams: registry.Counter("cage_streams_total",
			"Streams that the host opened, by kind and by what became of them.", "stream", "result"),
		hellos:  make(chan struct{}, maxHellos),
		waiting: map[transport.Conn]bool{},
	}
}

// serve accepts streams until the door is closed.
func (d *door) serve() error {
	for {
		conn, err := d.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed), err != nil && d.isClosed():
			return nil
		case err != nil:
			// Too many open files, say. It passes.
			time.Sleep(pause)
			continue
		}
		if !d.isHost(conn.RemoteAddr()) {
			d.streams.Inc("none", "stranger")
			_ = conn.Close()
			continue
		}
		select {
		case d.hellos <- struct{}{}:
		default:
			// Whoever opens so many streams without a word gets no more, and nobody waits for it.
			d.streams.Inc("none", "busy")
			_ = conn.Close()
			continue
		}
		d.group.Go(func() { d.welcome(conn) })
	}
}

// isHost tells the host from this machine's own processes, which a vsock's loopback lets in: what the parent
// may do is not the app's.
func (d *door) isHost(peer net.Addr) bool {
	const local = 1 // VMADDR_CID_LOCAL
	address, isVsock := peer.(transport.VsockAddr)
	return !isVsock || address.CID != local && address.CID != d.ownCID
}

// welcome reads a stream's hello and hands it on. Its place is free again when the stream is somebody else's,
// who has limits of their own.
func (d *door) welcome(conn transport.Conn) {
	hello, err := d.hello(conn)
	if err == nil && hello.Stream == wire.Ingress {
		<-d.hellos
		d.streams.Inc("ingress", "ok")
		d.ingress(conn, hello)
		return
	}
	defer func() { <-d.hellos }()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
			d.streams.Inc("none", "bad-hello")
		}
		_ = conn.Close()
		return
	}
	if hello.Stream == wire.Control {
		d.openControl(conn)
		return
	}
	d.streams.Inc("unknown", "denied")
	d.refuse(conn, wire.Denied, fmt.Sprintf("the guest takes no streams of kind %.20q", hello.Stream))
}

// hello reads it. Meanwhile close may close the stream.
func (d *door) hello(conn transport.Conn) (wire.Hello, error) {
	d.mutex.Lock()
	if d.closed {
		d.mutex.Unlock()
		return wire.Hello{}, net.ErrClosed
	}
	d.waiting[conn] = true
	d.mutex.Unlock()
	defer func() {
		d.mutex.Lock()
		defer d.mutex.Unlock()
		delete(d.waiting, conn)
	}()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return wire.Hello{}, err
	}
	hello, err := wire.ReadHello(conn)
	if err != nil {
		return wire.Hello{}, err
	}
	return hello, conn.SetDeadline(time.Time{})
}

func (d *door) openControl(conn transport.Conn) {
	if err := reply(conn, wire.Reply{}); err != nil {
		d.streams.Inc("control", "gone")
		_ = conn.Close()
		return
	}
	if !d.control(conn) {
		d.streams.Inc("control", "busy")
		_ = conn.Close()
		return
	}
	d.streams.Inc("control", "ok")
}

func (d *door) refuse(conn transport.Conn, code wire.Code, message string) {
	_ = reply(conn, wire.Reply{Code: code, Message: message})
	_ = conn.Close()
}

func reply(conn transport.Conn, reply wire.Reply) error {
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := wire.WriteReply(conn, reply); err != nil {
		return err
	}
	return conn.SetWriteDeadline(time.Time{})
}

func (d *door) isClosed() bool {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.closed
}

// close takes no more streams and ends those that haven't said what they are.
func (d *door) close() {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.closed = true
	_ = d.listener.Close()
	for conn := range d.waiting {
		_ = conn.Close()
	}
}

// wait returns when no stream is with the door any more.
func (d *door) wait() { d.group.Wait() }
