// Package pid1 is the first program of an enclave: from the kernel's start to the image's command.
//
// It keeps the contract of AWS's init (aws/aws-nitro-enclaves-sdk-bootstrap, init/init.c), so that either
// may stand in ramdisk 0. It differs in what it says when something fails, in refusing an empty command
// instead of starting a shell, and in going on without the cgroup hierarchies that the kernel lacks.
//
// The kernel opens the standard streams from the /dev/console of its built-in archive. Without them the Go
// runtime would end before main.
package pid1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/child"
	"cagebuild.dev/runtime/internal/lookup"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/vsock"
)

// searchPath is where the command is looked for, and its whole environment where /env is empty.
const searchPath = "/sbin:/usr/sbin:/bin:/usr/bin"

const heartbeatTimeout = 60 * time.Second

// Main boots, runs the image's command to its end and restarts the machine, which ends the enclave. On a
// failure it says what failed and exits: the kernel then panics and restarts after the time that its command
// line gives, which leaves the message on the console for that long.
func Main() {
	m := machine{
		console: "/dev/console",
		dial: func(cid, port uint32) (io.ReadWriteCloser, error) {
			return vsock.Dial(cid, port, heartbeatTimeout)
		},
		restart: func() error { return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART) },
	}
	if err := m.run(); err != nil {
		say.Line("init: %v", err)
		if errors.Is(err, errNoConsole) {
			logToKernel("/dev/kmsg", err)
		}
		drain()
		os.Exit(1)
	}
}

var errNoConsole = errors.New("no console")

// logToKernel writes to the kernel's log, which goes to whatever console the kernel has.
func logToKernel(path string, cause error) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return // nobody can be told
	}
	_, _ = fmt.Fprintf(file, "cage: init: %v\n", cause)
	_ = file.Close()
}

// machine is what a test can't have in a namespace of its own.
type machine struct {
	console string
	dial    func(cid, port uint32) (io.ReadWriteCloser, error)
	restart func() error
}

func (m machine) run() error {
	child.Signals() // from here on no signal ends the first process
	if err := perform(devices); err != nil {
		return err
	}
	if err := openConsole(m.console); err != nil {
		return fmt.Errorf("%w: %w", errNoConsole, err)
	}
	if err := loadModule("/nsm.ko", "/dev/nsm"); err != nil {
		return err
	}
	parent, err := readParent()
	if err != nil {
		return err
	}
	if err := m.heartbeat(parent); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	start, err := takeStart("/")
	if err != nil {
		return err
	}
	if err := enter("/rootfs"); err != nil {
		return err
	}
	if err := perform(devices); err != nil {
		return err
	}
	if err := perform(filesystems); err != nil {
		return err
	}
	if err := mountControlGroups(); err != nil {
		return err
	}
	status, err := start.run()
	if err != nil {
		return err
	}
	say.Line("init: the first process ended: %v", status)
	drain()
	return os.NewSyscallError("reboot", m.restart())
}

func (s start) run() (child.Status, error) {
	program, err := lookup.Program(s.argv[0], searchPath)
	if err != nil {
		return child.Status{}, err
	}
	return child.Run(child.Spec{Path: program, Argv: s.argv, Env: s.env})
}

// openConsole makes the console the standard streams of this process and of all that it starts.
func openConsole(path string) error {
	console, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	for descriptor := 0; descriptor <= 2; descriptor++ {
		if err := syscall.Dup3(int(console.Fd()), descriptor, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return console.Close()
}

// loadModule loads a kernel module and removes its file. A kernel with the driver built in needs none, and
// may be unable to load any: nitro-cli's ramdisks have the file with every kernel.
func loadModule(path, device string) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer file.Close()
	if _, err := os.Stat(device); err != nil {
		parameters := [1]byte{}
		if err := finitModule(int(file.Fd()), &parameters[0]); err != nil && !errors.Is(err, syscall.EEXIST) {
			return &os.PathError{Op: "load module", Path: path, Err: err}
		}
	}
	// AWS's init doesn't fail for this either: the file is out of reach once the image's root is entered.
	if err := os.Remove(path); err != nil {
		say.Line("init: warning: %v", err)
	}
	return nil
}

// drain waits until the console has sent everything, for a restart doesn't, but not for ever.
func drain() {
	const tcsbrk, wait = 0x5409, 1 // tcdrain(3)
	done := make(chan struct{})
	go func() {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, 2, tcsbrk, wait)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}
