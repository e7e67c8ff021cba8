package transport

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"cagebuild.dev/runtime/internal/vsock"
)

// VsockAddr is one end of a vsock stream.
type VsockAddr struct{ CID, Port uint32 }

// Network is "vsock".
func (VsockAddr) Network() string { return "vsock" }

func (a VsockAddr) String() string {
	return Address{Scheme: "vsock", CID: a.CID, Port: a.Port}.String()
}

// vsockConn is an os.File, whose descriptor the runtime's poller watches, with what net.Conn has besides.
type vsockConn struct {
	*os.File
	local, remote VsockAddr
}

func (c *vsockConn) LocalAddr() net.Addr  { return c.local }
func (c *vsockConn) RemoteAddr() net.Addr { return c.remote }

// CloseWrite tells the other side that nothing more will come.
func (c *vsockConn) CloseWrite() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	if err := raw.Control(func(descriptor uintptr) {
		failure = os.NewSyscallError("shutdown", syscall.Shutdown(int(descriptor), syscall.SHUT_WR))
	}); err != nil {
		return err
	}
	return failure
}

// newSocket makes a socket that the runtime's poller can watch.
func newSocket() (int, error) {
	descriptor, err := syscall.Socket(
		vsock.Family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	return descriptor, os.NewSyscallError("socket AF_VSOCK", err)
}

// dialVsock connects. The kernel itself gives up after two seconds.
func dialVsock(ctx context.Context, cid, port uint32) (Conn, error) {
	descriptor, err := newSocket()
	if err != nil {
		return nil, err
	}
	peer := vsock.Address{Family: vsock.Family, Port: port, CID: cid}
	_, _, errno := syscall.Syscall(
		syscall.SYS_CONNECT, uintptr(descriptor), uintptr(unsafe.Pointer(&peer)), unsafe.Sizeof(peer))
	file := os.NewFile(uintptr(descriptor), fmt.Sprintf("vsock:%d:%d", cid, port))
	err = nil
	switch errno {
	case 0:
	case syscall.EINPROGRESS, syscall.EINTR:
		err = connected(ctx, file)
	default:
		err = errno
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("connect to vsock CID %d port %d: %w", cid, port, err)
	}
	return &vsockConn{File: file, remote: VsockAddr{cid, port}}, nil
}

// connected waits for the end of a connect that is under way.
func connected(ctx context.Context, file *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = file.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	failure := error(syscall.EINPROGRESS)
	err = raw.Write(func(descriptor uintptr) bool {
		if !isWritable(int(descriptor)) {
			return false
		}
		code, err := syscall.GetsockoptInt(int(descriptor), syscall.SOL_SOCKET, syscall.SO_ERROR)
		switch {
		case err != nil:
			failure = err
		case code != 0:
			failure = syscall.Errno(code)
		default:
			failure = nil
		}
		return true
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case failure == nil && !stop():
		return ctx.Err()
	}
	return failure
}

// pollOut is POLLOUT of poll(2).
const pollOut = 4

type pollRequest struct {
	descriptor int32
	wanted     int16
	found      int16
}

func isWritable(descriptor int) bool {
	request := pollRequest{descriptor: int32(descriptor), wanted: pollOut}
	var none syscall.Timespec
	count, _, errno := syscall.Syscall6(
		syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&request)), 1, uintptr(unsafe.Pointer(&none)), 0, 0, 0)
	return errno == 0 && count == 1
}

type vsockListener struct {
	file   *os.File
	addr   VsockAddr
	closed atomic.Bool
}

func (l *vsockListener) Addr() net.Addr { return l.addr }

func (l *vsockListener) Close() error {
	l.closed.Store(true)
	return l.file.Close()
}

// Accept waits for a stream. Its RemoteAddr is a VsockAddr: whose CID it is the hypervisor vouches for.
func (l *vsockListener) Accept() (Conn, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		accepted uintptr
		peer     vsock.Address
		errno    syscall.Errno
	)
	err = raw.Read(func(descriptor uintptr) bool {
		size := uint32(unsafe.Sizeof(peer))
		accepted, _, errno = syscall.Syscall6(
			syscall.SYS_ACCEPT4, descriptor, uintptr(unsafe.Pointer(&peer)), uintptr(unsafe.Pointer(&size)),
			syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0, 0)
		return errno != syscall.EAGAIN && errno != syscall.EINTR && errno != syscall.ECONNABORTED
	})
	// What a closed file's RawConn returns is none of the errors that have a name.
	if l.closed.Load() {
		if err == nil && errno == 0 {
			_ = syscall.Close(int(accepted))
		}
		return nil, net.ErrClosed
	}
	if err != nil {
		return nil, err
	}
	if errno != 0 {
		return nil, os.NewSyscallError("accept4", errno)
	}
	return &vsockConn{
		File:   os.NewFile(accepted, "vsock"),
		local:  l.addr,
		remote: VsockAddr{peer.CID, peer.Port},
	}, nil
}

// backlog is how many streams may wait to be accepted.
const backlog = 4096

func listenVsock(cid, port uint32) (Listener, error) {
	descriptor, err := newSocket()
	if err != nil {
		return nil, err
	}
	own := vsock.Address{Family: vsock.Family, Port: port, CID: cid}
	_, _, errno := syscall.Syscall(
		syscall.SYS_BIND, uintptr(descriptor), uintptr(unsafe.Pointer(&own)), unsafe.Sizeof(own))
	if errno == 0 {
		if err := syscall.Listen(descriptor, backlog); err != nil {
			errno = err.(syscall.Errno)
		}
	}
	if errno != 0 {
		_ = syscall.Close(descriptor)
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, errno)
	}
	return &vsockListener{file: os.NewFile(uintptr(descriptor), "vsock listener"), addr: VsockAddr{cid, port}}, nil
}

// LocalCID is the context identifier of this machine.
func LocalCID() (uint32, error) {
	const getLocalCID = 0x7b9 // IOCTL_VM_SOCKETS_GET_LOCAL_CID
	file, err := os.Open("/dev/vsock")
	if err != nil {
		return 0, err
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cid uint32
	var errno syscall.Errno
	if err := raw.Control(func(descriptor uintptr) {
		_, _, errno = syscall.Syscall(
			syscall.SYS_IOCTL, descriptor, getLocalCID, uintptr(unsafe.Pointer(&cid)))
	}); err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, os.NewSyscallError("ioctl GET_LOCAL_CID", errno)
	}
	return cid, nil
}
