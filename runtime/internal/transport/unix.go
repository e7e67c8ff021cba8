package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// listenUnix makes a socket that its owner alone can reach, whatever the umask: whoever connects speaks for
// the other side of the wall.
func listenUnix(path string) (Listener, error) {
	listener, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && isLeftOver(path) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		listener, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return netListener{listener}, nil
}

func isLeftOver(path string) bool {
	status, err := os.Lstat(path)
	if err != nil || status.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// maxAnswer is how long the line may be that a hybrid vsock answers with: "OK 4294967295\n".
const maxAnswer = 32

// dialHybrid asks the device behind a unix socket for a port of its guest.
func dialHybrid(ctx context.Context, path string, port uint32) (Conn, error) {
	conn, err := dialNet(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := ask(ctx, conn, port); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("vsock port %d through %s: %w", port, path, err)
	}
	return conn, nil
}

func ask(ctx context.Context, conn net.Conn, port uint32) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	// Byte by byte: what follows the line is the stream's.
	var answer bytes.Buffer
	for {
		if _, err := io.CopyN(&answer, conn, 1); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				return syscall.ECONNREFUSED
			}
			return err
		}
		if bytes.HasSuffix(answer.Bytes(), []byte("\n")) {
			break
		}
		if answer.Len() == maxAnswer {
			return errors.New("the device's answer is too long")
		}
	}
	if line := answer.String(); !strings.HasPrefix(line, "OK ") {
		return fmt.Errorf("the device answered %q", line)
	}
	if !stop() {
		return ctx.Err()
	}
	return nil
}
