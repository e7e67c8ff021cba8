package relay

import (
	"os"
	"syscall"
	"unsafe"
)

// The calls below never block, so the scheduler needn't know of them.

func read(descriptor int, into []byte) (int, error) {
	for {
		count, _, errno := syscall.RawSyscall(
			syscall.SYS_READ, uintptr(descriptor), uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(len(into)))
		if errno == 0 {
			return int(count), nil
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

// send writes to a socket without SIGPIPE.
func send(descriptor int, data []byte) (int, error) {
	const noSignal = 0x4000 // MSG_NOSIGNAL
	for {
		count, _, errno := syscall.RawSyscall6(
			syscall.SYS_SENDTO, uintptr(descriptor),
			uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)), noSignal, 0, 0)
		if errno == 0 {
			return int(count), nil
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

func splice(from, to, most int) (int, error) {
	const moveNonblock = 1 | 2 // SPLICE_F_MOVE, SPLICE_F_NONBLOCK
	for {
		count, _, errno := syscall.RawSyscall6(
			syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most), moveNonblock)
		if errno == 0 {
			return int(count), nil
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

// poll returns the events that there are, without waiting.
func poll(epoll int, events []syscall.EpollEvent) (int, error) {
	count, _, errno := syscall.RawSyscall6(
		syscall.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)),
		0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(count), nil
}

func yield() { _, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }

func newEvent() (int, error) {
	const nonblockCloexec = syscall.O_NONBLOCK | syscall.O_CLOEXEC
	descriptor, _, errno := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, nonblockCloexec, 0)
	if errno != 0 {
		return 0, os.NewSyscallError("eventfd2", errno)
	}
	return int(descriptor), nil
}
