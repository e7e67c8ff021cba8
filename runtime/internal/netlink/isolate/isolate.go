// Package isolate is for tests: it runs a package's tests in network and mount namespaces of their own, where
// loopback is all there is and every port and address is free.
package isolate

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"
)

const mark = "CAGEBUILD_TEST_ISOLATED"

// Main is for TestMain: it runs the tests in a child of this program that has the namespaces, and exits with
// its status. Where the kernel grants none, they run as they are, and Need skips.
func Main(m *testing.M) {
	if os.Getenv(mark) == "" {
		if status, ok := again(); ok {
			os.Exit(status)
		}
		os.Exit(m.Run())
	}
	if err := prepare(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// Need skips a test that isn't isolated.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(mark) == "" {
		t.Skip("needs root or user namespaces, for a network of its own: sudo go test")
	}
}

// again runs this program in new namespaces. It reports false if there are none to be had.
func again() (status int, ok bool) {
	self, err := os.Executable()
	if err != nil {
		return 0, false
	}
	// The child is to end with this thread, so with this program.
	runtime.LockOSThread()
	child := exec.Command(self, os.Args[1:]...)
	child.Env = append(os.Environ(), mark+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	if id := os.Geteuid(); id != 0 {
		child.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	err = child.Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return failed.ExitCode(), true
	}
	return 0, err == nil
}

func prepare() error {
	// What is mounted from here on is nobody else's.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount /", err)
	}
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(socket)
	request := struct { // struct ifreq
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		rest  [22]byte
	}{name: [syscall.IFNAMSIZ]byte{'l', 'o'}, flags: syscall.IFF_UP | syscall.IFF_RUNNING}
	if _, _, errno := syscall.Syscall(
		syscall.SYS_IOCTL, uintptr(socket), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return os.NewSyscallError("ioctl SIOCSIFFLAGS", errno)
	}
	return nil
}

// Replace has programs of this test see other content in a file of the system, such as /etc/resolv.conf.
func Replace(t testing.TB, path, content string) {
	t.Helper()
	Need(t)
	replacement := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(replacement, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(replacement, path, "", syscall.MS_BIND, ""); err != nil {
		t.Fatalf("mount over %s: %v", path, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
