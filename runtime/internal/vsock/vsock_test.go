package vsock

import (
	"io"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

const local = 1 // VMADDR_CID_LOCAL

func TestTheAddressHasTheKernelsSize(t *testing.T) {
	if size := unsafe.Sizeof(Address{}); size != 16 {
		t.Errorf("got %d bytes, struct sockaddr_vm has 16", size)
	}
}

// listen answers one connection by sending back what it gets, and returns its port.
func listen(t *testing.T) uint32 {
	t.Helper()
	// Elsewhere such a connection would leave for the hypervisor.
	if _, err := os.Stat("/sys/module/vsock_loopback"); err != nil {
		t.Skip("needs vsock on this machine itself: modprobe vsock_loopback")
	}
	server, err := syscall.Socket(Family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(server) })
	own := Address{Family: Family, CID: Any, Port: Any}
	size := uint32(unsafe.Sizeof(own))
	for _, call := range []uintptr{syscall.SYS_BIND, syscall.SYS_GETSOCKNAME} {
		length := uintptr(size)
		if call == syscall.SYS_GETSOCKNAME {
			length = uintptr(unsafe.Pointer(&size))
		}
		if _, _, errno := syscall.Syscall(call, uintptr(server), uintptr(unsafe.Pointer(&own)), length); errno != 0 {
			t.Fatal(errno)
		}
	}
	if err := syscall.Listen(server, 1); err != nil {
		t.Fatal(err)
	}
	go func() {
		connection, _, errno := syscall.Syscall(syscall.SYS_ACCEPT, uintptr(server), 0, 0)
		if errno == 0 {
			stream := os.NewFile(connection, "accepted")
			_, _ = io.Copy(stream, stream)
			_ = stream.Close()
		}
	}()
	return own.Port
}

func TestBytesGoThereAndBack(t *testing.T) {
	stream, err := Dial(local, listen(t), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Write([]byte{0xB7}); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(stream, answer); err != nil || answer[0] != 0xB7 {
		t.Errorf("got %x, %v", answer, err)
	}
}

func TestASilentPeerIsGivenUpOn(t *testing.T) {
	stream, err := Dial(local, listen(t), 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Read(make([]byte, 1)); err == nil {
		t.Error("no error")
	}
}
