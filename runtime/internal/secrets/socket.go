package secrets

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/transport"
)

// Socket is where the data service hands out what has been delivered, to root alone.
const Socket = "/run/cage/secrets.sock"

const (
	maxFrame = 4 << 20 // all values in base64, and all names
	atOnce   = 4
	deadline = 10 * time.Second
	pause    = 100 * time.Millisecond
)

// frame is what the socket says: its length in four bytes, big-endian, and this as JSON. Variables are in
// base64 too, so that no escape makes them longer.
type frame struct {
	Missing []string          `json:"missing"`
	Env     map[string][]byte `json:"env"`
	Files   map[string][]byte `json:"files"`
}

// Serve answers on a socket until ctx ends, to processes of the own user (root's, in an enclave): that is the
// socket's mode, and what the kernel says of each peer.
func (s *Store) Serve(ctx context.Context, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return err
	}
	address, err := transport.Parse("unix://" + socket)
	if err != nil {
		return err
	}
	listener, err := address.Listen()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	slots := make(chan struct{}, atOnce)
	for {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// Too many open files, say. It passes.
			time.Sleep(pause)
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(deadline))
			// Whoever goes away before the end asks again.
			_ = s.answer(conn)
		})
	}
}

func (s *Store) answer(conn transport.Conn) error {
	uid, err := peer(conn)
	if err != nil {
		return err
	}
	if int(uid) != os.Geteuid() {
		return fmt.Errorf("user %d asked for secrets", uid)
	}
	bundle, missing := s.all()
	said := frame{Missing: missing, Env: map[string][]byte{}, Files: bundle.Files}
	for name, value := range bundle.Env {
		said.Env[name] = []byte(value)
	}
	text, err := json.Marshal(said)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// peer is the user that a process had when it connected.
func peer(conn syscall.Conn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *syscall.Ucred
	var failed error
	err = raw.Control(func(descriptor uintptr) {
		credentials, failed = syscall.GetsockoptUcred(int(descriptor), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return credentials.Uid, nil
}

// Fetch asks the data service for what has been delivered. While names are missing it returns these, and no
// values. It fails if nothing answers at the socket (yet).
func Fetch(socket string) (delivered Bundle, missing []string, err error) {
	conn, err := net.DialTimeout("unix", socket, deadline)
	if err != nil {
		return Bundle{}, nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return Bundle{}, nil, err
	}
	said, err := readFrame(conn)
	if err != nil {
		return Bundle{}, nil, fmt.Errorf("secrets from %s: %w", socket, err)
	}
	if len(said.Missing) > 0 {
		return Bundle{}, said.Missing, nil
	}
	delivered = Bundle{Env: map[string]string{}, Files: said.Files}
	for name, value := range said.Env {
		delivered.Env[name] = string(value)
	}
	if err := delivered.check(); err != nil {
		return Bundle{}, nil, fmt.Errorf("secrets from %s: %w", socket, err)
	}
	return delivered, nil, nil
}

func readFrame(from io.Reader) (frame, error) {
	var length [4]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxFrame {
		return frame{}, fmt.Errorf("a frame of %d bytes, expected at most %d", size, maxFrame)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(from, text); err != nil {
		return frame{}, err
	}
	var said frame
	if err := json.Unmarshal(text, &said); err != nil {
		return frame{}, errors.New("not JSON")
	}
	return said, nil
}
