package nsm

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// ioctlRaw is NSM_IOCTL_RAW of linux/nsm.h: _IOWR(0x0A, 0, struct nsm_raw). The structure is two vectors.
const ioctlRaw = 3<<30 | unsafe.Sizeof([2]syscall.Iovec{})<<16 | 0x0A<<8

// characterDevice is the kernel's device. An ioctl blocks a thread, which is why there is one at a time.
type characterDevice struct{ file *os.File }

func openCharacterDevice(path string) (link, error) {
	descriptor, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &characterDevice{os.NewFile(uintptr(descriptor), path)}, nil
}

func (c *characterDevice) close() error { return c.file.Close() }

func (c *characterDevice) exchange(request []byte) ([]byte, error) {
	response := make([]byte, MaxResponse)
	var pinned runtime.Pinner
	defer pinned.Unpin()
	pinned.Pin(&request[0])
	pinned.Pin(&response[0])
	raw, err := c.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		vectors [2]syscall.Iovec
		errno   = syscall.EINTR
	)
	for errno == syscall.EINTR {
		vectors[0].Base, vectors[1].Base = &request[0], &response[0]
		vectors[0].SetLen(len(request))
		vectors[1].SetLen(len(response))
		if err := raw.Control(func(descriptor uintptr) {
			_, _, errno = syscall.Syscall(
				syscall.SYS_IOCTL, descriptor, ioctlRaw, uintptr(unsafe.Pointer(&vectors)))
		}); err != nil {
			return nil, os.ErrClosed // the one reason there is
		}
	}
	if errno == syscall.EMSGSIZE {
		return nil, InputTooLarge // which is how AWS's library reads it
	}
	if errno != 0 {
		return nil, os.NewSyscallError("ioctl", errno)
	}
	if vectors[1].Len > uint64(len(response)) {
		return nil, fmt.Errorf("an answer of %d bytes, at most %d", vectors[1].Len, len(response))
	}
	return response[:vectors[1].Len], nil
}

// standIn is the path of a unix socket. Each request has a connection of its own, so that whoever listens
// there may be restarted.
type standIn string

// standInPatience is how long a stand-in may take.
const standInPatience = 10 * time.Second

func (s standIn) close() error { return nil }

func (s standIn) exchange(request []byte) ([]byte, error) {
	conn, err := net.DialTimeout("unix", string(s), standInPatience)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(standInPatience)); err != nil {
		return nil, err
	}
	if err := WriteFrame(conn, request); err != nil {
		return nil, err
	}
	return ReadFrame(conn, MaxResponse)
}

// WriteFrame sends a request or an answer as a stand-in has it.
func WriteFrame(to io.Writer, message []byte) error {
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(message)), uint32(len(message)))
	_, err := to.Write(append(frame, message...))
	return err
}

// ReadFrame reads one of up to so many bytes, and nothing behind it.
func ReadFrame(from io.Reader, most int) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > uint32(most) {
		return nil, fmt.Errorf("a message of %d bytes, at most %d", size, most)
	}
	message := make([]byte, size)
	if _, err := io.ReadFull(from, message); err != nil {
		return nil, err
	}
	return message, nil
}
