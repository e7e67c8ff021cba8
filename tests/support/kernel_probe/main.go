// Command kernelprobe is the app of an enclave whose kernel is tested: it tries what apps are promised and
// what they must not be able to do, and prints what came of it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// found is printed as one line of JSON after this word, for the kernel writes to the console too.
const word = "kernelprobe "

type found struct {
	Argv     []string          `json:"argv"`
	Env      []string          `json:"env"`
	Release  string            `json:"release"`
	Version  string            `json:"version"`
	Year     int               `json:"year"`
	CPUs     int               `json:"cpus"`
	Mounts   map[string]string `json:"mounts"`   // mount point: type
	Groups   []string          `json:"groups"`   // control groups, version 1
	Devices  []string          `json:"devices"`  // of /dev
	Modules  []string          `json:"lsm"`      // security modules in their order
	Lockdown string            `json:"lockdown"` // the mode in force
	Works    map[string]string `json:"works"`    // what apps are promised: "" or an error
	Calls    map[string]string `json:"calls"`    // what they must not do: the error
	Files    []string          `json:"files"`    // of those that must not be there
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "nothing" {
		return
	}
	result := look()
	text, err := json.Marshal(result)
	if err != nil {
		fmt.Println("kernelprobe failed:", err)
		os.Exit(1)
	}
	fmt.Println(word + string(text))
}

func look() found {
	var name syscall.Utsname
	_ = syscall.Uname(&name)
	result := found{
		Argv: os.Args, Env: os.Environ(), Year: time.Now().Year(), CPUs: runtime.NumCPU(),
		Release: text(name.Release[:]), Version: text(name.Version[:]),
		Mounts: map[string]string{}, Works: map[string]string{}, Calls: map[string]string{}, Files: []string{},
	}
	for _, fields := range table("/proc/self/mounts") {
		result.Mounts[fields[1]] = fields[2]
	}
	for _, fields := range table("/proc/cgroups") {
		if !strings.HasPrefix(fields[0], "#") {
			result.Groups = append(result.Groups, fields[0])
		}
	}
	entries, _ := os.ReadDir("/dev")
	for _, entry := range entries {
		result.Devices = append(result.Devices, entry.Name())
	}
	for _, path := range []string{
		"/dev/mem", "/dev/port", "/dev/kmem", "/proc/kcore", "/proc/modules", "/proc/config.gz",
		"/proc/sysrq-trigger", "/proc/self/pagemap", "/proc/keys", "/sys/kernel/debug", "/proc/vmcore",
	} {
		if _, err := os.Stat(path); err == nil {
			result.Files = append(result.Files, path)
		}
	}
	for name, try := range promised {
		result.Works[name] = say(try())
	}
	for name, number := range refused {
		_, _, errno := syscall.Syscall6(number, 0, 0, 0, 0, 0, 0)
		result.Calls[name] = say(errno)
	}
	const security = "/sys/kernel/security"
	if err := syscall.Mount("securityfs", security, "securityfs", 0, ""); err == nil {
		order, _ := os.ReadFile(security + "/lsm")
		result.Modules = strings.Split(strings.TrimSpace(string(order)), ",")
		modes, _ := os.ReadFile(security + "/lockdown")
		_, rest, _ := strings.Cut(string(modes), "[")
		result.Lockdown, _, _ = strings.Cut(rest, "]")
	}
	return result
}

// promised is in no order: one doesn't need another.
var promised = map[string]func() error{
	"loopback, IPv4":   func() error { return loopback("tcp4", "127.0.0.1:0") },
	"loopback, IPv6":   func() error { return loopback("tcp6", "[::1]:0") },
	"TUN":              tun,
	"overlayfs":        overlay,
	"version 2 groups": func() error { return mount("none", folder("groups"), "cgroup2", "") },
	"user namespaces":  namespaces,
	"attributes":       func() error { return syscall.Setxattr("/tmp", "trusted.probe", []byte("b"), 0) },
	"random numbers":   random,
	"secret memory":    secret,
}

func loopback(network, address string) error {
	descriptor, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(descriptor)
	request := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP | syscall.IFF_RUNNING}
	copy(request.name[:], "lo")
	if err := ioctl(descriptor, syscall.SIOCSIFFLAGS, unsafe.Pointer(&request)); err != nil {
		return err
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	defer listener.Close()
	connection, err := net.Dial(network, listener.Addr().String())
	if err != nil {
		return err
	}
	return connection.Close()
}

func tun() error {
	descriptor, err := syscall.Open("/dev/net/tun", syscall.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(descriptor)
	request := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_TUN | syscall.IFF_NO_PI}
	return ioctl(descriptor, syscall.TUNSETIFF, unsafe.Pointer(&request))
}

func overlay() error {
	upper := folder("upper")
	if err := mount("tmpfs", upper, "tmpfs", ""); err != nil {
		return err
	}
	for _, name := range []string{"data", "work"} {
		if err := os.Mkdir(filepath.Join(upper, name), 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%[2]s/data,workdir=%[2]s/work", folder("lower"), upper)
	return mount("overlay", folder("merged"), "overlay", options)
}

func namespaces() error {
	child := exec.Command("/proc/self/exe", "nothing")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	return child.Run()
}

func random() error {
	file, err := os.Open("/dev/random")
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Read(make([]byte, 32))
	return err
}

func secret() error {
	const memfdSecret = 447
	descriptor, _, errno := syscall.Syscall(memfdSecret, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return syscall.Close(int(descriptor))
}

func mount(source, target, kind, options string) error {
	return syscall.Mount(source, target, kind, 0, options)
}

// folder makes a folder of its own in the image's root, a tmpfs or ramfs.
func folder(name string) string {
	path := "/kernelprobe-" + name
	_ = os.Mkdir(path, 0o755)
	return path
}

func ioctl(descriptor int, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(descriptor), request, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}

func table(path string) [][]string {
	rows := [][]string{}
	content, _ := os.ReadFile(path)
	for line := range strings.Lines(string(content)) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// text is a C string, whose characters are signed on some architectures.
func text[T int8 | uint8](characters []T) string {
	result := []byte{}
	for _, character := range characters {
		if character == 0 {
			break
		}
		result = append(result, byte(character))
	}
	return string(result)
}

func say(err error) string {
	var errno syscall.Errno
	if err == nil || errors.As(err, &errno) && errno == 0 {
		return ""
	}
	return err.Error()
}
