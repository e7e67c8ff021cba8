package egress

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/rules"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// from is a stream that comes from a CID, as the hypervisor vouches for it.
type from struct {
	transport.Conn
	cid uint32
}

func (f from) RemoteAddr() net.Addr { return transport.VsockAddr{CID: f.cid, Port: 4711} }

func TestOnVsockOnlyTheGuestIsLetIn(t *testing.T) {
	none, err := rules.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	address := transport.Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "x.sock")}
	listener, err := address.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	const guest = 16
	for cid, want := range map[uint32]bool{guest: true, guest + 1: false, 2: false} {
		var said bytes.Buffer
		server := New(Options{Rules: none, MaxConnections: 1, Timeout: time.Minute, Journal: journal.New(&said)})
		peer, err := address.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = peer.SetDeadline(time.Now().Add(time.Minute))
		_ = wire.WriteHello(peer, wire.Hello{Stream: wire.Time})
		server.accepted(from{accepted, cid}, guest)
		answer, _ := io.ReadAll(peer)
		server.Close()
		_ = peer.Close()
		if got := bytes.Contains(answer, []byte("unix_ns")); got != want {
			t.Errorf("CID %d: got %q", cid, answer)
		}
		if refused := strings.Contains(said.String(), "the guest is CID 16"); refused == want {
			t.Errorf("CID %d: said %s", cid, said.String())
		}
	}
}
