// Package vsock opens AF_VSOCK streams with nothing but system calls.
package vsock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Family is AF_VSOCK.
const Family = 40

// Any stands for every context, or for a port that is free (VMADDR_CID_ANY, VMADDR_PORT_ANY).
const Any = 1<<32 - 1

// Address is struct sockaddr_vm of linux/vm_sockets.h.
type Address struct {
	Family   uint16
	reserved uint16
	Port     uint32
	CID      uint32
	Flags    uint8
	zero     [3]uint8
}

// Dial connects to a port of a context. Reads and writes that take longer than timeout fail; the kernel
// gives up connecting after two seconds.
func Dial(cid, port uint32, timeout time.Duration) (*os.File, error) {
	for {
		file, err := dial(cid, port, timeout)
		// An interrupted connect has failed for good on this socket, unlike with TCP.
		if !errors.Is(err, syscall.EINTR) {
			return file, err
		}
	}
}

func dial(cid, port uint32, timeout time.Duration) (*os.File, error) {
	descriptor, err := syscall.Socket(Family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket AF_VSOCK", err)
	}
	limit := syscall.NsecToTimeval(timeout.Nanoseconds())
	for _, option := range []int{syscall.SO_RCVTIMEO, syscall.SO_SNDTIMEO} {
		if err := syscall.SetsockoptTimeval(descriptor, syscall.SOL_SOCKET, option, &limit); err != nil {
			_ = syscall.Close(descriptor)
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	peer := Address{Family: Family, Port: port, CID: cid}
	_, _, errno := syscall.Syscall(
		syscall.SYS_CONNECT, uintptr(descriptor), uintptr(unsafe.Pointer(&peer)), unsafe.Sizeof(peer))
	if errno != 0 {
		_ = syscall.Close(descriptor)
		return nil, fmt.Errorf("connect to vsock CID %d port %d: %w", cid, port, errno)
	}
	return os.NewFile(uintptr(descriptor), fmt.Sprintf("vsock:%d:%d", cid, port)), nil
}
