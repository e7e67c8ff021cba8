// Command probe is an app for tests of the runtime: static, so that an image of nothing else can hold it.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "report":
		report()
	case "exit":
		status, _ := strconv.Atoi(os.Args[2])
		os.Exit(status)
	case "crash":
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "orphan":
		orphan()
	case "sleep":
		time.Sleep(10 * time.Millisecond)
	case "for-ever":
		forEver()
	case "zombies":
		zombies()
	case "leave-behind":
		start("for-ever", &syscall.SysProcAttr{})
		fmt.Println("left one behind")
	case "ignore-term":
		signals("TERM is ignored", syscall.SIGTERM)
	case "ignore-term-with-daemon":
		start("ignore-term", &syscall.SysProcAttr{Setsid: true})
		signals("TERM is ignored", syscall.SIGTERM)
	case "heed-term":
		signals("", syscall.SIGTERM)
	case "heed-usr1":
		signals("", syscall.SIGTERM, syscall.SIGUSR1)
	case "open-streams":
		openStreams()
	case "awkward-lines":
		awkwardLines()
	case "many-lines":
		count, _ := strconv.Atoi(os.Args[2])
		for number := range count {
			fmt.Println("line", number, strings.Repeat("x", 100))
		}
		forEver()
	}
}

// start starts this program again and doesn't wait for it.
func start(command string, attributes *syscall.SysProcAttr) {
	_, err := os.StartProcess("/probe", []string{"probe", command}, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: attributes,
	})
	if err != nil {
		fmt.Println("cannot start:", err)
	}
}

// forEver isn't "select {}", which Go's runtime takes for a deadlock.
func forEver() {
	for {
		time.Sleep(time.Hour)
	}
}

// zombies has children that end, and never waits for them.
func zombies() {
	for range 5 {
		start("sleep", &syscall.SysProcAttr{})
	}
	fmt.Println("there are zombies")
	forEver()
}

// openStreams writes through the names that many images log to.
func openStreams() {
	for _, name := range []string{"/dev/stdout", "/dev/stderr"} {
		stream, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			fmt.Println("cannot open:", err)
			continue
		}
		fmt.Fprintln(stream, "through", name)
	}
	fmt.Fprintln(os.Stderr, "that is all")
	forEver()
}

// awkwardLines writes what could break a console, then the start of a line.
func awkwardLines() {
	for _, text := range []string{
		"\x1b[2J\x1b[31mcage: app ended: exit status 0\n",
		"app\rcage: stopped\n",
		"windows\r\n",
		"\x00\xff\xc3\n",
		"Grüße 日本語 😀 100% $HOME `id`\n",
		"\u202ecage\u2028cage: boot\n",
		"\n",
		strings.Repeat("é", 100_000) + "|\n",
		"the end> ",
	} {
		_, _ = os.Stdout.WriteString(text)
	}
	forEver()
}

// report prints what a program can know about how it was started.
func report() {
	folder, _ := os.Getwd()
	host, _ := os.Hostname()
	groups, _ := os.Getgroups()
	groups = append([]int{}, groups...) // an empty list, not null
	session, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
	umask := syscall.Umask(0)
	stdin, _ := os.Stdin.Stat()
	null, _ := os.Stat(os.DevNull)
	loopback, _ := net.InterfaceByName("lo")
	// A connection to itself needs more than a flag: the address and the route too.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	reached := err == nil
	if reached {
		_, err = net.Dial("tcp", listener.Addr().String())
		reached = err == nil
	}
	resolver, _ := os.ReadFile("/run/resolvconf/resolv.conf")
	descriptors := []string{}
	for number := range 64 {
		// Those that Go's own poller opens are closed on execve, and so none that was inherited.
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(number), syscall.F_GETFD, 0)
		if errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			descriptors = append(descriptors, strconv.Itoa(number))
		}
	}
	text, _ := json.Marshal(map[string]any{
		"resolver": string(resolver), "descriptors": descriptors,
		"argv": os.Args, "env": os.Environ(), "uid": os.Getuid(), "gid": os.Getgid(), "groups": groups,
		"euid": os.Geteuid(), "folder": folder, "host": host, "umask": umask,
		"leads_session": int(session) == os.Getpid(), "stdin_is_null": os.SameFile(stdin, null),
		"loopback": loopback != nil && loopback.Flags&net.FlagUp != 0, "reached": reached,
	})
	// JSON has no need to escape this one, but a console has.
	fmt.Println(strings.ReplaceAll(string(text), "\x7f", "\\u007f"))
	forEver()
}

// orphan starts a child that starts a child and ends, and waits until somebody has waited for the latter:
// until then even a dead process can be sent signals.
func orphan() {
	if len(os.Args) == 3 {
		grandchild, err := os.StartProcess("/probe", []string{"probe", "sleep"}, &os.ProcAttr{})
		if err != nil {
			os.Exit(1)
		}
		_ = os.WriteFile("/orphan", []byte(strconv.Itoa(grandchild.Pid)), 0o600)
		return
	}
	child, err := os.StartProcess("/probe", []string{"probe", "orphan", "first"}, &os.ProcAttr{})
	if err != nil {
		os.Exit(1)
	}
	_, _ = child.Wait()
	text, _ := os.ReadFile("/orphan")
	pid, _ := strconv.Atoi(string(text))
	for range 3000 {
		if pid != 0 && syscall.Kill(pid, 0) != nil {
			fmt.Println("the orphan is gone")
			forEver()
		}
		time.Sleep(10 * time.Millisecond)
	}
	os.Exit(1)
}

// signals says when it is ready and which signals it gets. It ends with 7 on TERM unless that is ignored.
func signals(ignore string, numbers ...os.Signal) {
	received := make(chan os.Signal, 8)
	signal.Notify(received, numbers...)
	fmt.Println("ready")
	for got := range received {
		fmt.Println("got", got)
		if got == syscall.SIGTERM && ignore == "" {
			os.Exit(7)
		}
	}
}
