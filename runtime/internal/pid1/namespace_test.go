package pid1

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// The whole of init runs here as process 1 of its own namespaces, in a folder laid out as a ramdisk. Only
// the vsock, the console's device and the kernel's command line are not its own. This program plays three
// parts: the test, init, and the app that init starts.
const (
	part = "PID1_TEST_PART"
	root = "PID1_TEST_ROOT"
)

func TestMain(m *testing.M) {
	switch os.Getenv(part) {
	case "init":
		playInit()
	case "app":
		playApp()
	default:
		os.Exit(m.Run())
	}
}

// playInit makes the folder the root of the namespace, as the kernel has the ramdisk, and boots.
func playInit() {
	if err := enter(os.Getenv(root)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	err := machine{
		console: "/console.log",
		dial: func(cid, port uint32) (io.ReadWriteCloser, error) {
			fmt.Fprintf(os.Stderr, "dialled %d:%d\n", cid, port)
			return &peer{Reader: strings.NewReader("\xB7")}, nil
		},
		restart: func() error { return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART) },
	}.run()
	fmt.Fprintln(os.Stderr, "init:", err)
	os.Exit(98)
}

// report is what the app found.
type report struct {
	Argv, Env []string
	Folder    string
	Session   bool
	Parent    int
	Mounts    map[string]string // mount point: options and type
	Root      []string
	Stdin     string
}

func playApp() {
	found := report{Argv: os.Args, Env: os.Environ(), Parent: os.Getppid(), Mounts: map[string]string{}}
	found.Folder, _ = os.Getwd()
	session, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
	found.Session = int(session) == os.Getpid()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		found.Mounts[fields[1]] = fields[3] + " " + fields[2]
	}
	entries, _ := os.ReadDir("/")
	for _, entry := range entries {
		found.Root = append(found.Root, entry.Name())
	}
	found.Stdin, _ = os.Readlink("/proc/self/fd/0")
	text, _ := json.Marshal(found)
	_ = os.WriteFile("/report.json", text, 0o600)
	fmt.Println("the app was here")
	os.Exit(3)
}

// ramdisk lays out what the kernel would have unpacked.
func ramdisk(t *testing.T, cmd string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces and mounts: sudo go test")
	}
	if !isStatic(t, self) {
		t.Skip("needs a static test program: CGO_ENABLED=0 go test, without -race")
	}
	folder := t.TempDir()
	for _, name := range []string{"dev", "proc", "run", "sys", "tmp", "bin"} {
		if err := os.MkdirAll(filepath.Join(folder, "rootfs", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"dev/":           nil,
		"cmd":            []byte(cmd),
		"env":            []byte(part + "=app\nNAME=two words\n"),
		"console.log":    nil,
		"rootfs/bin/app": program,
	} {
		path := filepath.Join(folder, name)
		if strings.HasSuffix(name, "/") {
			err = os.Mkdir(path, 0o755)
		} else {
			err = os.WriteFile(path, content, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func isStatic(t *testing.T, path string) bool {
	t.Helper()
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

// bootIn runs init in the folder and returns how it ended and what the console has.
func bootIn(t *testing.T, folder string) (*os.ProcessState, string) {
	t.Helper()
	init := exec.Command("/proc/self/exe")
	init.Env = []string{part + "=init", root + "=" + folder}
	early := &bytes.Buffer{}
	init.Stderr = early
	init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Unshareflags: syscall.CLONE_NEWNS,
	}
	if err := init.Run(); init.ProcessState == nil {
		t.Fatal(err)
	}
	console, err := os.ReadFile(filepath.Join(folder, "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	return init.ProcessState, early.String() + string(console)
}

func TestInitBootsTheImage(t *testing.T) {
	folder := ramdisk(t, "app\nan argument\n\n100% $HOME\n")
	ended, console := bootIn(t, folder)
	// This is how the restart of a machine looks from outside of a process namespace.
	if status, ok := ended.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGHUP {
		t.Errorf("init ended with %v", ended)
	}
	for _, want := range []string{
		"dialled 3:9000\n", "the app was here\n", "cage: init: the first process ended: exit status 3\n",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q:\n%s", want, console)
		}
	}
	text, err := os.ReadFile(filepath.Join(folder, "rootfs", "report.json"))
	if err != nil {
		t.Fatalf("%v; console:\n%s", err, console)
	}
	found := report{}
	if err := json.Unmarshal(text, &found); err != nil {
		t.Fatal(err)
	}
	checkReport(t, found)
	left, _ := os.ReadDir(folder)
	names := []string{}
	for _, entry := range left {
		names = append(names, entry.Name())
	}
	if want := []string{"console.log", "dev", "rootfs"}; !reflect.DeepEqual(names, want) {
		t.Errorf("left in the ramdisk: %q, expected %q", names, want)
	}
}

func checkReport(t *testing.T, found report) {
	t.Helper()
	for what, pair := range map[string][2]any{
		"argv":    {found.Argv, []string{"app", "an argument", "", "100% $HOME"}},
		"env":     {found.Env, []string{part + "=app", "NAME=two words"}},
		"folder":  {found.Folder, "/"},
		"parent":  {found.Parent, 1},
		"session": {found.Session, true},
		"root":    {found.Root, []string{"bin", "dev", "proc", "run", "sys", "tmp"}},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: got %v, expected %v", what, pair[0], pair[1])
		}
	}
	for point, want := range map[string]string{
		"/dev":     "nosuid,noexec devtmpfs",
		"/dev/pts": "nosuid,noexec devpts",
		"/dev/shm": "nosuid,nodev,noexec tmpfs",
		"/proc":    "nosuid,nodev,noexec proc",
		"/run":     "nosuid,nodev,noexec tmpfs",
		"/sys":     "nosuid,nodev,noexec sysfs",
		"/tmp":     "nosuid,nodev,noexec tmpfs",
	} {
		got := found.Mounts[point]
		for option := range strings.FieldsFuncSeq(want, func(r rune) bool { return r == ',' || r == ' ' }) {
			if !strings.Contains(","+strings.ReplaceAll(got, " ", ",")+",", ","+option+",") {
				t.Errorf("%s: got %q, expected %q", point, got, want)
			}
		}
	}
}

func TestFailuresReachTheConsole(t *testing.T) {
	for cmd, want := range map[string]string{
		"":               "/cmd is empty",
		"no-such-app\n":  `find in PATH "/sbin:/usr/sbin:/bin:/usr/bin" no-such-app: no such file or directory`,
		"/bin/missing\n": "start /bin/missing: no such file or directory",
		"/tmp\n":         "start /tmp: permission denied",
	} {
		ended, console := bootIn(t, ramdisk(t, cmd))
		if ended.ExitCode() != 98 || !strings.Contains(console, want) {
			t.Errorf("%q: ended with %v, console:\n%s", cmd, ended, console)
		}
	}
}
