package pid1

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The whole of init runs here as process 1 of its own namespaces, in a folder laid out as a ramdisk. Only
// the vsock, the console's device and the kernel's command line are not its own. This program plays three
// parts: the test, init, and the app that init starts.
const (
	part   = "PID1_TEST_PART"
	root   = "PID1_TEST_ROOT"
	parent = "PID1_TEST_PARENT" // how the parent takes the heartbeat
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
			return answer(os.Getenv(parent))
		},
		restart: func() error { return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART) },
	}.run()
	fmt.Fprintln(os.Stderr, "init:", err)
	os.Exit(98)
}

// answer is a parent that is well, or isn't.
func answer(how string) (io.ReadWriteCloser, error) {
	switch how {
	case "refuses":
		return nil, syscall.ECONNREFUSED
	case "is silent":
		// As package vsock does it: a socket whose reads time out.
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			return nil, err
		}
		limit := syscall.Timeval{Usec: 1000}
		err = syscall.SetsockoptTimeval(pair[0], syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit)
		return os.NewFile(uintptr(pair[0]), "vsock"), err
	case "hangs up":
		return &peer{Reader: strings.NewReader("")}, nil
	case "answers wrongly":
		return &peer{Reader: strings.NewReader("\x00")}, nil
	}
	return &peer{Reader: strings.NewReader("\xB7")}, nil
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
	switch os.Args[len(os.Args)-1] {
	case "signal-init":
		signalInit()
	case "die":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "orphan":
		_, _ = syscall.ForkExec("/bin/app", []string{"app", "exit"}, &syscall.ProcAttr{Env: os.Environ()})
		os.Exit(0)
	case "exit":
		os.Exit(0)
	case "zombies":
		zombies()
	}
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

// signalInit sends all that could end a program to process 1, and lives to tell.
func signalInit() {
	for number := syscall.Signal(1); number <= 64; number++ {
		if number == syscall.SIGKILL || number == syscall.SIGSTOP || number == syscall.SIGCHLD {
			continue // the kernel keeps the first two from it
		}
		if err := syscall.Kill(1, number); err != nil {
			fmt.Println("signal", number, err)
		}
	}
	// Signals are taken in any order; the end of this process is noticed by one, too.
	fmt.Println("init got all signals")
	os.Exit(0)
}

// zombies has children that leave orphans, and waits until process 1 has reaped those.
func zombies() {
	for range 3 {
		child, err := os.StartProcess("/bin/app", []string{"app", "orphan"}, &os.ProcAttr{})
		if err != nil {
			fmt.Println(err)
			continue
		}
		_, _ = child.Wait()
	}
	for range 3000 {
		entries, _ := filepath.Glob("/proc/[0-9]*")
		if len(entries) == 2 {
			fmt.Println("the orphans are gone")
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	os.Exit(0)
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
func bootIn(t *testing.T, folder string, env ...string) (*os.ProcessState, string) {
	t.Helper()
	init := exec.Command("/proc/self/exe")
	init.Env = append([]string{part + "=init", root + "=" + folder}, env...)
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
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return init.ProcessState, early.String() + string(console)
}

// hasRestarted reports whether the machine was restarted, as that looks from outside of a process namespace.
func hasRestarted(ended *os.ProcessState) bool {
	status, ok := ended.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGHUP
}

func TestInitBootsTheImage(t *testing.T) {
	folder := ramdisk(t, "app\nan argument\n\n100% $HOME\n")
	ended, console := bootIn(t, folder)
	if !hasRestarted(ended) {
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

func TestHowTheFirstProcessEndedIsOnTheConsole(t *testing.T) {
	for command, want := range map[string][]string{
		"exit":        {"init: the first process ended: exit status 0\n"},
		"die":         {"init: the first process ended: killed by signal 9 (killed)\n"},
		"signal-init": {"init got all signals\n", "ended: exit status 0\n"},
		"zombies":     {"the orphans are gone\n", "ended: exit status 0\n"},
	} {
		ended, console := bootIn(t, ramdisk(t, "app\n"+command+"\n"))
		if !hasRestarted(ended) {
			t.Errorf("%s: init ended with %v", command, ended)
		}
		for _, line := range want {
			if !strings.Contains(console, line) {
				t.Errorf("%s: the console lacks %q:\n%s", command, line, console)
			}
		}
	}
}

func TestFailuresReachTheConsole(t *testing.T) {
	for name, given := range map[string]struct {
		cmd    string
		change func(folder string) error
		env    string
		want   string
	}{
		"an empty cmd":    {want: "/cmd is empty"},
		"no such program": {cmd: "no-such-app\n", want: `find in PATH "/sbin:/usr/sbin:/bin:/usr/bin" no-such-app: no such file or directory`},
		"no such file":    {cmd: "/bin/missing\n", want: "start /bin/missing: no such file or directory"},
		"a folder":        {cmd: "/tmp\n", want: "start /tmp: permission denied"},
		"no cmd":          {change: removed("cmd"), want: "open /cmd: no such file or directory"},
		"an env that cannot be read": {
			cmd: "app\n", change: replaced("env", true), want: "read /env: is a directory",
		},
		"no console":     {cmd: "app\n", change: removed("console.log"), want: "no console: open /console.log: no such file"},
		"no /dev":        {cmd: "app\n", change: removed("dev"), want: "mount devtmpfs /dev: no such file or directory"},
		"no rootfs":      {cmd: "app\n", change: removed("rootfs"), want: "/rootfs: no such file or directory"},
		"no /proc":       {cmd: "app\n", change: removed("rootfs/proc"), want: "mount proc /proc: no such file or directory"},
		"a /run in use":  {cmd: "app\n", change: replaced("rootfs/run", false), want: "mount tmpfs /run: not a directory"},
		"no /sys":        {cmd: "app\n", change: removed("rootfs/sys"), want: "mount sysfs /sys: no such file or directory"},
		"no module":      {cmd: "app\n", change: replaced("nsm.ko", false), want: "load module /nsm.ko: "},
		"no parent":      {cmd: "app\n", env: "refuses", want: "heartbeat: connection refused"},
		"a deaf parent":  {cmd: "app\n", env: "is silent", want: "heartbeat: no answer from the parent in time"},
		"a short parent": {cmd: "app\n", env: "hangs up", want: "heartbeat: no answer from the parent: EOF"},
		"a wrong parent": {cmd: "app\n", env: "answers wrongly", want: "heartbeat: the parent answered 0x00, expected 0xb7"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := ramdisk(t, given.cmd)
			if given.change != nil {
				if err := given.change(folder); err != nil {
					t.Fatal(err)
				}
			}
			ended, console := bootIn(t, folder, parent+"="+given.env)
			if ended.ExitCode() != 98 || !strings.Contains(console, given.want) {
				t.Errorf("ended with %v, expected %q on the console:\n%s", ended, given.want, console)
			}
			if strings.Contains(console, "the app was here") {
				t.Errorf("the app was started all the same:\n%s", console)
			}
		})
	}
}

func removed(name string) func(string) error {
	return func(folder string) error { return os.RemoveAll(filepath.Join(folder, name)) }
}

func replaced(name string, byFolder bool) func(string) error {
	return func(folder string) error {
		path := filepath.Join(folder, name)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if byFolder {
			return os.Mkdir(path, 0o755)
		}
		return os.WriteFile(path, []byte("no module"), 0o600)
	}
}
