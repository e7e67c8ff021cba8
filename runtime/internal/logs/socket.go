package logs

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Socket is where the data service takes lines, if the cage's log may be read.
const Socket = "/run/cage/log.sock"

// pause is between attempts to read from a socket that fails.
const pause = 100 * time.Millisecond

// Receive takes lines at a unix datagram socket that its owner alone can reach, until the context ends.
// A socket that is left over is replaced.
func (r *Ring) Receive(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer os.Remove(path)
	if err := os.Chmod(path, 0o600); err != nil {
		_ = conn.Close()
		return err
	}
	line := make([]byte, MaxLine)
	for {
		size, err := conn.Read(line)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			time.Sleep(pause)
			continue
		}
		r.Add(line[:size])
	}
}

// Sender sends lines to a socket, and waits for nothing.
type Sender struct {
	to   syscall.SockaddrUnix
	name string

	mutex      sync.Mutex
	descriptor int // -1: none yet
	lost       int
}

// NewSender returns a Sender to a path. The name is whose lines it sends.
func NewSender(path, name string) *Sender {
	return &Sender{to: syscall.SockaddrUnix{Name: path}, name: name, descriptor: -1}
}

// Send sends a line if somebody takes it now. Lines that found the socket full are counted, and their number
// is sent instead of them.
func (s *Sender) Send(line []byte) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.descriptor < 0 {
		descriptor, err := syscall.Socket(
			syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
		if err != nil {
			return
		}
		s.descriptor = descriptor
	}
	if s.lost > 0 && s.send(fmt.Appendf(nil, "cage: %d lines of %s are missing here\n", s.lost, s.name)) != nil {
		s.lost++
		return
	}
	s.lost = 0
	switch err := s.send(line); err {
	case nil, syscall.ENOENT, syscall.ECONNREFUSED: // sent, or there is nobody to miss it
	default:
		s.lost++
	}
}

func (s *Sender) send(line []byte) error {
	return syscall.Sendto(s.descriptor, line, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, &s.to)
}

// Tee returns a writer that sends on each write to another one: a line each, as package say makes them.
func (s *Sender) Tee(console io.Writer) io.Writer { return &tee{console: console, sender: s} }

type tee struct {
	console io.Writer
	sender  *Sender
}

func (t *tee) Write(line []byte) (int, error) {
	size, err := t.console.Write(line)
	if err == nil {
		t.sender.Send(line)
	}
	return size, err
}
