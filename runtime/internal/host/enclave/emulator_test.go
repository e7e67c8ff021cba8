package enclave_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/enclave"
	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/leak"
)

// The test's program stands in for a vsock device when its first argument says so: "device SOCKET VSOCK HEARTBEAT FILE".
func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == "device" {
		device(os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	}
	os.Exit(m.Run())
}

// device makes the socket that QEMU connects to, and sends a guest's heartbeat once QEMU has made a file.
func device(socket, vsock, heartbeat, file string) {
	if heartbeat == "none" {
		os.Exit(3)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		os.Exit(4)
	}
	if heartbeat != "silent" {
		for {
			if _, err := os.Stat(file); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		conn, err := net.Dial("unix", vsock+"_9000")
		if err != nil {
			os.Exit(5)
		}
		_, _ = conn.Write([]byte(heartbeat))
		_, _ = io.ReadAll(conn)
	}
	time.Sleep(time.Hour) // a static program that waits for nothing ends as deadlocked
}

const qemu = `#!/bin/sh
if [ "$2" = help ]; then
	printf 'none  empty machine\n%[1]s  AWS Nitro Enclave\n'
	exit
fi
printf 'cage: starting\033[2J\n'
%[2]s
echo "$*" >"$0.new"
mv "$0.new" "$0.words"
%[3]s
`

func emulator(t *testing.T, machine, before, then, heartbeat string) (*enclave.Emulator, *hosttest.Said) {
	t.Helper()
	leak.Check(t)
	folder := t.TempDir()
	program := filepath.Join(folder, "qemu")
	if err := os.WriteFile(program, fmt.Appendf(nil, qemu, machine, before, then), 0o700); err != nil {
		t.Fatal(err)
	}
	state, err := enclave.OpenState(filepath.Join(folder, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(state.Close)
	text := &hosttest.Said{}
	return &enclave.Emulator{
		Config: enclave.Config{Name: "a,b", EIF: "/x/cage.eif", CPUs: 2, MemoryMiB: 512, CID: 7}, State: state, QEMU: program,
		Vsock: os.Args[0] + " device {device} {vsock} " + heartbeat + " " + program + ".words", Parent: 2, Firmware: "/fw", Accel: "tcg",
		Journal: journal.New(text),
	}, text
}

func nowhere(enclave.Place) error { return nil }

func sockets(t *testing.T, e *enclave.Emulator) []string {
	t.Helper()
	found, err := filepath.Glob(e.State.Path("*.sock*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestAnEmulatedEnclaveStartsAndStops(t *testing.T) {
	e, text := emulator(t, "nitro-enclave", "", "exec sleep 1000", "\xb7")
	if err := e.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	var place enclave.Place
	running, err := e.Start(context.Background(), func(where enclave.Place) error { place = where; return nil })
	if err != nil {
		t.Fatal(err)
	}
	path := e.State.Path("vm.sock")
	if place.CID != 7 || place.Guest.String() != "hybrid://"+path+":9001" || place.Parent.String() != "hybrid://"+path+":10007" {
		t.Errorf("announced %+v", place)
	}
	words, err := os.ReadFile(e.QEMU + ".words")
	want := "-L /fw -M nitro-enclave,vsock=c,id=a,,b -accel tcg -cpu max -smp 2 -m 512M -kernel /x/cage.eif -nographic -nodefaults " +
		"-no-user-config -no-reboot -serial stdio -chardev socket,id=c,path=" + e.State.Path("vhost.sock") +
		" -append cagebuild.parent_cid=2 reboot=t panic=1\n"
	if err != nil || string(words) != want {
		t.Errorf("got %s, %v; expected %s", words, err, want)
	}
	if err := running.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	ended(t, running)
	if left := sockets(t, e); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if !strings.Contains(text.String(), `console: cage: starting\x1b[2J`+"\n") {
		t.Errorf("said %s", text)
	}
}

func TestAnEmulatedEnclaveThatDoesNotStartLeavesNothing(t *testing.T) {
	for name, test := range map[string]struct{ before, then, heartbeat, want string }{
		"QEMU fails":         {"", "exit 1", "silent", "ended before its heartbeat: exit status 1"},
		"QEMU ends":          {"", "exit 0", "silent", "ended before its heartbeat: it shut down"},
		"the device fails":   {"", "exec sleep 1000", "none", "exit status 3"},
		"no heartbeat":       {"", "exec sleep 1000", "silent", "no heartbeat: context deadline exceeded"},
		"another heartbeat":  {"", "exec sleep 1000", "x", "heartbeat: got 0x78, expected 0xb7"},
		"QEMU won't be told": {"trap '' TERM", "while :; do sleep 0.1; done", "x", "heartbeat: got 0x78"},
	} {
		e, _ := emulator(t, "nitro-enclave", test.before, test.then, test.heartbeat)
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		if name != "no heartbeat" {
			ctx, cancel = context.WithTimeout(context.Background(), patience)
		}
		running, err := e.Start(ctx, nowhere)
		cancel()
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, %v; expected %q", name, running, err, test.want)
		}
		if left := sockets(t, e); len(left) > 0 {
			t.Errorf("%s: left: %q", name, left)
		}
	}
}

func TestAQEMUWithoutTheMachineIsSaidToBeOne(t *testing.T) {
	e, _ := emulator(t, "microvm", "", "", "silent")
	if err := e.Check(context.Background()); err == nil || !strings.Contains(err.Error(), "no machine nitro-enclave: it takes QEMU 9.2") {
		t.Errorf("got %v", err)
	}
	e.Vsock = "/nowhere/device {device}"
	if err := e.Check(context.Background()); err == nil || !strings.Contains(err.Error(), "--vsock-device") {
		t.Errorf("got %v", err)
	}
	e.QEMU = "/nowhere/qemu"
	if err := e.Check(context.Background()); err == nil || !strings.Contains(err.Error(), "--qemu") {
		t.Errorf("got %v", err)
	}
}
