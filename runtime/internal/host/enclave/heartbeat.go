package enclave

import (
	"errors"
	"fmt"
	"io"
	"time"

	"cagebuild.dev/runtime/internal/transport"
)

const (
	heartbeatPort    = 9000
	heartbeatByte    = 0xB7
	heartbeatTimeout = 10 * time.Second
)

// answerHeartbeat waits on a listener for an enclave's sign of life and answers it, as nitro-cli does. It returns when
// one has come, or the listener is closed.
func answerHeartbeat(listener transport.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		err = echo(conn)
		_ = conn.Close()
		if !errors.Is(err, io.EOF) { // the device's own probe, or an init that tries again
			return err
		}
	}
}

func echo(conn transport.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(heartbeatTimeout)); err != nil {
		return err
	}
	var beat [1]byte
	if _, err := io.ReadFull(conn, beat[:]); err != nil {
		return err
	}
	if beat[0] != heartbeatByte {
		return fmt.Errorf("heartbeat: got %#02x, expected %#02x", beat[0], heartbeatByte)
	}
	_, err := conn.Write(beat[:])
	return err
}
