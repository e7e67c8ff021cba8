package pid1

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"cagebuild.dev/runtime/internal/say"
)

const (
	noSetuidNoExec = syscall.MS_NOSUID | syscall.MS_NOEXEC
	hardened       = syscall.MS_NODEV | noSetuidNoExec
)

const controlGroups = "/sys/fs/cgroup"

// operation is one thing to make, in this order of preference: a mount, a symlink, a folder.
type operation struct {
	path   string
	kind   string // type of a file system to mount
	source string
	flags  uintptr
	data   string
	target string // of a symlink
}

// devices is done twice: before the image's root is entered, for the console, and in it.
var devices = []operation{
	{path: "/dev", kind: "devtmpfs", source: "dev", flags: noSetuidNoExec},
}

// filesystems are AWS's, in its order; the image's own folders are their mount points.
var filesystems = []operation{
	{path: "/proc", kind: "proc", source: "proc", flags: hardened},
	{path: "/dev/fd", target: "/proc/self/fd"},
	{path: "/dev/stdin", target: "/proc/self/fd/0"},
	{path: "/dev/stdout", target: "/proc/self/fd/1"},
	{path: "/dev/stderr", target: "/proc/self/fd/2"},
	{path: "/run", kind: "tmpfs", source: "tmpfs", flags: hardened, data: "mode=0755"},
	{path: "/tmp", kind: "tmpfs", source: "tmpfs", flags: hardened},
	{path: "/dev/shm"},
	{path: "/dev/shm", kind: "tmpfs", source: "shm", flags: hardened},
	{path: "/dev/pts"},
	{path: "/dev/pts", kind: "devpts", source: "devpts", flags: noSetuidNoExec},
	{path: "/sys", kind: "sysfs", source: "sysfs", flags: hardened},
}

func perform(operations []operation) error {
	for _, do := range operations {
		var err error
		switch {
		case do.kind != "":
			err = mount(do.source, do.path, do.kind, do.flags, do.data)
			if do.kind == "devtmpfs" && errors.Is(err, syscall.EBUSY) {
				err = nil // a kernel with CONFIG_DEVTMPFS_MOUNT was first
			}
		case do.target != "":
			err = os.Symlink(do.target, do.path)
		default:
			err = os.Mkdir(do.path, 0o755)
		}
		// devtmpfs is one file system however often it is mounted: its entries may be there already.
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		return &os.PathError{Op: strings.TrimSpace("mount " + kind), Path: target, Err: err}
	}
	return nil
}

// enter makes a folder the root of the mount namespace. It is moved over the old root, not only chrooted
// into, for the kernel refuses user namespaces to a process in a plain chroot.
func enter(folder string) error {
	if err := mount(folder, folder, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	if err := os.Chdir(folder); err != nil {
		return err
	}
	if err := mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return err
	}
	if err := syscall.Chroot("."); err != nil {
		return &os.PathError{Op: "chroot", Path: folder, Err: err}
	}
	return os.Chdir("/")
}

// mountControlGroups mounts every controller that the kernel offers in a version 1 hierarchy of its own.
// What a kernel lacks is a warning: an app that needs it says so itself.
func mountControlGroups() error {
	table, err := os.ReadFile("/proc/cgroups")
	if errors.Is(err, os.ErrNotExist) {
		say.Line("init: warning: the kernel has no control groups")
		return nil
	} else if err != nil {
		return err
	}
	controllers, err := enabledControllers(string(table))
	if err != nil {
		return err
	}
	if err := mount("cgroup_root", controlGroups, "tmpfs", hardened, "mode=0755"); err != nil {
		return err
	}
	for _, name := range controllers {
		folder := controlGroups + "/" + name
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
		// Newer kernels list controllers that only version 2 has.
		if err := mount(name, folder, "cgroup", hardened, name); err != nil {
			say.Line("init: warning: %v", err)
			if err := os.Remove(folder); err != nil {
				return err
			}
		}
	}
	return nil
}

// enabledControllers reads /proc/cgroups: a heading, then lines of name, hierarchy, number, enabled.
func enabledControllers(table string) ([]string, error) {
	names := []string{}
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if len(fields) != 4 || strings.Contains(fields[0], "/") {
			return nil, fmt.Errorf("/proc/cgroups: cannot read %q", line)
		}
		if fields[3] != "0" {
			names = append(names, fields[0])
		}
	}
	return names, nil
}
