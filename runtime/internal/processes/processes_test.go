package processes

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestALineOfStatIsReadWhateverTheProgramIsCalled(t *testing.T) {
	want := Process{PID: 12, State: 'S', Parent: 3, Session: 5}
	for _, name := range []string{"sh", "a b", "(", ")", ") R 1 1 1 (", "x\n) Z 9"} {
		got, err := parse([]byte("12 (" + name + ") S 3 4 5 0 -1\n"))
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v", name, got, err)
		}
	}
	for _, line := range []string{"", "12 (sh", "12 (sh) S", "12 (sh) S x 4 5", "x (sh) S 3 4 5", "12 (sh) SS 3 4 5"} {
		if got, err := parse([]byte(line)); err == nil {
			t.Errorf("%q: got %v", line, got)
		}
	}
}

func TestASessionIsKilledWhole(t *testing.T) {
	// A shell that leads a session, with two children, one of which ignores TERM.
	shell := exec.Command("/bin/sh", "-c", `(trap "" TERM; sleep 3600; sleep 3600) & sleep 3600 & echo; wait`)
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	output, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := output.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	children, err := Children()
	if err != nil || len(children) != 1 || children[0].PID != shell.Process.Pid {
		t.Errorf("children: got %v, %v", children, err)
	}
	count, err := KillSession(shell.Process.Pid)
	if err != nil || count < 3 {
		t.Errorf("got %d, %v", count, err)
	}
	// The pipe's end says that nobody has it any more.
	if _, err := output.Read(make([]byte, 1)); err == nil {
		t.Error("somebody still writes")
	}
	_ = shell.Wait()
	// A process that was killed is still there for a moment.
	left := []Process{}
	for range 3000 {
		if left, err = InSession(shell.Process.Pid); err != nil || len(left) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestThisProcessIsThere(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range all {
		if process.PID == os.Getpid() && process.Parent == os.Getppid() {
			return
		}
	}
	t.Errorf("not in %v", all)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("12 (a) b) S 3 4 5 0 -1\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if got, err := parse(line); err != nil && got != (Process{}) {
			t.Fatalf("got %v with %v", got, err)
		}
	})
}
