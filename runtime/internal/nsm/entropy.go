package nsm

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// seedSize is how many bytes the kernel's pool gets. It takes 32 to be ready; the device makes 256 at once.
const seedSize = 256

// Source gives random bytes: a Device does.
type Source interface {
	Random(count int) ([]byte, error)
}

// SeedKernel mixes random bytes of the device into the kernel's pool and counts them as entropy, so that
// getrandom(2) doesn't wait and doesn't rest on the CPU's instructions and the timing of interrupts alone,
// which in a machine that has just started is all there is. It takes root.
func SeedKernel(source Source) error {
	seed, err := source.Random(seedSize)
	if err != nil {
		return fmt.Errorf("entropy: %w", err)
	}
	if err := addEntropy(seed); err != nil {
		return fmt.Errorf("entropy: %w", err)
	}
	return nil
}

// rndAddEntropy is RNDADDENTROPY of linux/random.h: _IOW('R', 0x03, int[2]).
const rndAddEntropy = 1<<30 | 8<<16 | 'R'<<8 | 0x03

// addEntropy hands over struct rand_pool_info: how many bits of entropy there are, how many bytes, the bytes.
func addEntropy(seed []byte) error {
	file, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	info := binary.NativeEndian.AppendUint32(make([]byte, 0, 8+len(seed)), uint32(8*len(seed)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	defer clear(info[:cap(info)])
	var errno syscall.Errno
	if err := raw.Control(func(descriptor uintptr) {
		_, _, errno = syscall.Syscall(
			syscall.SYS_IOCTL, descriptor, rndAddEntropy, uintptr(unsafe.Pointer(&info[0])))
	}); err != nil {
		return err
	}
	if errno != 0 {
		return os.NewSyscallError("ioctl RNDADDENTROPY", errno)
	}
	return nil
}
