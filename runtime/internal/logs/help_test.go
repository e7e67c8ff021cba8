package logs

import (
	"syscall"
	"testing"
)

func (s *Sender) close() { _ = syscall.Close(s.descriptor) }

// bind makes a datagram socket that nobody reads until the test does.
func bind(t *testing.T, path string) int {
	t.Helper()
	descriptor, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(descriptor) })
	if err := syscall.Bind(descriptor, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return descriptor
}

func receive(t *testing.T, descriptor int) string {
	t.Helper()
	line := make([]byte, MaxLine)
	size, err := syscall.Read(descriptor, line)
	if err != nil {
		t.Fatal(err)
	}
	return string(line[:size])
}

// drain reads all that is there and returns how many lines that were.
func drain(t *testing.T, descriptor int) (count int) {
	t.Helper()
	line := make([]byte, MaxLine)
	for {
		switch _, err := syscall.Read(descriptor, line); err {
		case nil:
			count++
		case syscall.EAGAIN:
			return count
		default:
			t.Fatal(err)
		}
	}
}
