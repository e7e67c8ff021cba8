package accept

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/transport"
)

const patience = 20 * time.Second

// failing is a listener whose Accept fails so many times first.
type failing struct {
	transport.Listener
	mutex sync.Mutex
	times int
	calls int
}

func (f *failing) Accept() (transport.Conn, error) {
	f.mutex.Lock()
	f.calls++
	fail := f.calls <= f.times
	f.mutex.Unlock()
	if fail {
		return nil, syscall.EMFILE
	}
	conn, err := f.Listener.Accept()
	if err != nil {
		err = errors.New("whatever") // it needn't be net.ErrClosed
	}
	return conn, err
}

func TestTooManyOpenFilesAreWaitedOut(t *testing.T) {
	leak.Check(t)
	address := transport.Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "x.sock")}
	real, err := address.Listen()
	if err != nil {
		t.Fatal(err)
	}
	broken := &failing{Listener: real, times: 4}
	listener := &Listener{Listener: broken}
	var said bytes.Buffer
	accepted, ended := make(chan transport.Conn), make(chan struct{})
	go func() {
		Loop(listener, journal.New(&said).Limit(), func(conn transport.Conn) { accepted <- conn })
		close(ended)
	}()
	began := time.Now()
	conn, err := address.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	select {
	case taken := <-accepted:
		_ = taken.Close()
	case <-time.After(patience):
		t.Fatal("the loop has ended")
	}
	if pauses := 15 * firstPause; time.Since(began) < pauses { // 1 + 2 + 4 + 8
		t.Errorf("only %v for four failures", time.Since(began))
	}
	_ = listener.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the loop has not ended")
	}
	if lines := strings.Count(said.String(), "too many open files\n"); lines != 4 {
		t.Errorf("said %s", said.String())
	}
}

func TestRoomIsBounded(t *testing.T) {
	room := NewRoom(2)
	first, second, third := room.Enter(), room.Enter(), room.Enter()
	if !first || !second || third || room.Used() != 2 {
		t.Error("more than two")
	}
	room.Leave()
	if !room.Enter() {
		t.Error("none again")
	}
}

func TestAResetIsOne(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	Reset(accepted.(transport.Conn))
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}
