package clock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

const (
	samples = 5
	enough  = 3 // that have to come
)

// slowest is how long one answer of the parent may take.
const slowest = 3 * time.Second

// AskParent returns what asks a host's time, several times.
func AskParent(address transport.Address) func(ctx context.Context) (Reading, error) {
	return func(ctx context.Context) (Reading, error) {
		var readings []Reading
		var failed error
		for range samples {
			reading, err := askOnce(ctx, address)
			if err != nil {
				failed = err
				if len(readings) == 0 {
					break // it isn't there: no use to wait for it another four times
				}
				continue
			}
			readings = append(readings, reading)
		}
		if len(readings) < enough {
			return Reading{}, failed
		}
		return median(readings), nil
	}
}

func askOnce(ctx context.Context, address transport.Address) (Reading, error) {
	ctx, cancel := context.WithTimeout(ctx, slowest)
	defer cancel()
	conn, err := address.Dial(ctx)
	if err != nil {
		return Reading{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	before := time.Now()
	if err := wire.WriteHello(conn, wire.Hello{Stream: wire.Time}); err != nil {
		return Reading{}, err
	}
	reply, err := wire.ReadReply(conn)
	if err != nil {
		return Reading{}, err
	}
	after := time.Now()
	if err := reply.Err(); err != nil {
		return Reading{}, err
	}
	if reply.UnixNS <= 0 {
		return Reading{}, fmt.Errorf("its time is %d ns after 1970", reply.UnixNS)
	}
	return compare("parent", time.Unix(0, reply.UnixNS), before, after), nil
}

// AskNSM returns what reads the time off a fresh document, which document gets.
func AskNSM(document func() (time.Time, error)) func() (Reading, error) {
	return func() (Reading, error) {
		before := time.Now()
		theirs, err := document()
		if err != nil {
			return Reading{}, err
		}
		return compare("nsm", theirs, before, time.Now()), nil
	}
}

// kvmClock is the name of the clock that ptp_kvm.ko gives the kernel: the hypervisor's time.
const kvmClock = "KVM virtual PTP"

// FindPTP returns what reads the hypervisor's clock, or nil if the kernel has none. Sysfs is /sys and dev /dev.
func FindPTP(sysfs, dev string) func() (Reading, error) {
	folders, _ := filepath.Glob(filepath.Join(sysfs, "class/ptp/ptp*")) // the pattern is well formed
	for _, folder := range folders {
		name, err := os.ReadFile(filepath.Join(folder, "clock_name"))
		if err == nil && strings.TrimSpace(string(name)) == kvmClock {
			return func() (Reading, error) { return readPTP(filepath.Join(dev, filepath.Base(folder))) }
		}
	}
	return nil
}

func readPTP(device string) (Reading, error) {
	file, err := os.Open(device)
	if err != nil {
		return Reading{}, err
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return Reading{}, err
	}
	var readings []Reading
	var failed error
	err = raw.Control(func(descriptor uintptr) {
		// FD_TO_CLOCKID of the kernel's documentation of PTP clocks.
		id := ^descriptor<<3 | 3
		for range samples {
			var now syscall.Timespec
			before := time.Now()
			_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&now)), 0)
			after := time.Now()
			if errno != 0 {
				failed = os.NewSyscallError("clock_gettime "+device, errno)
				return
			}
			readings = append(readings, compare("ptp", time.Unix(now.Unix()), before, after))
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return Reading{}, err
	}
	return median(readings), nil
}
