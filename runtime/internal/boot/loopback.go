package boot

import (
	"os"
	"syscall"
	"unsafe"
)

// flagsRequest is struct ifreq of net/if.h with flags in its union.
type flagsRequest struct {
	name  [syscall.IFNAMSIZ]byte
	flags uint16
	rest  [22]byte
}

// loopbackUp does what "ifconfig lo up" does. The kernel then adds 127.0.0.1/8 and ::1 by itself.
func loopbackUp() error {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(socket)
	var request flagsRequest
	copy(request.name[:], "lo")
	if err := control(socket, syscall.SIOCGIFFLAGS, &request); err != nil {
		return os.NewSyscallError("ioctl SIOCGIFFLAGS", err)
	}
	request.flags |= syscall.IFF_UP | syscall.IFF_RUNNING
	if err := control(socket, syscall.SIOCSIFFLAGS, &request); err != nil {
		return os.NewSyscallError("ioctl SIOCSIFFLAGS", err)
	}
	return nil
}

func control(socket int, request uintptr, argument *flagsRequest) error {
	_, _, errno := syscall.Syscall(
		syscall.SYS_IOCTL, uintptr(socket), request, uintptr(unsafe.Pointer(argument)))
	if errno != 0 {
		return errno
	}
	return nil
}
