package child

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// shell is a program that runs a script with the arguments $1 and so on.
func shell(script string, arguments ...string) Spec {
	return Spec{
		Path: "/bin/sh",
		Argv: append([]string{"sh", "-c", script, "sh"}, arguments...),
		Env:  []string{"PATH=/usr/bin:/bin"},
	}
}

func TestTheStatusIsPassedOn(t *testing.T) {
	for script, want := range map[string]struct {
		code int
		text string
	}{
		"exit 0":        {0, "exit status 0"},
		"exit 41":       {41, "exit status 41"},
		"kill -KILL $$": {137, "killed by signal 9 (killed)"},
		"kill -SEGV $$": {139, "killed by signal 11 (segmentation fault)"},
	} {
		status, err := Run(shell(script))
		if err != nil || status.Code() != want.code || status.String() != want.text {
			t.Errorf("%s: got %d, %v, %v", script, status.Code(), status, err)
		}
	}
}

func TestWhatCannotBeStartedIsAnError(t *testing.T) {
	_, err := Run(Spec{Path: "/no/such/program", Argv: []string{"x"}})
	if !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("got %v", err)
	}
}

func TestTheChildLeadsItsOwnSession(t *testing.T) {
	// Field 6 of /proc/PID/stat is the session.
	status, err := Run(shell(`read -r _ _ _ _ _ session _ </proc/$$/stat; test $session = $$`))
	if err != nil || status.Code() != 0 {
		t.Errorf("got %v, %v", status, err)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	if err := Adopt(); err != nil {
		t.Fatal(err)
	}
	// kill -0 still finds a zombie: it fails only once somebody has waited for the orphan.
	script := `orphan=$(sleep 0 >/dev/null & echo $!)
	for turn in $(seq 3000); do kill -0 $orphan 2>/dev/null || exit 0; sleep 0.01; done
	exit 1`
	status, err := Run(shell(script))
	if err != nil || status.Code() != 0 {
		t.Errorf("got %v, %v", status, err)
	}
}

func TestReapNamesEveryChildThatEndedAndSaysIfOthersAreLeft(t *testing.T) {
	ends := Ends()
	want, found := map[int]int{}, map[int]int{}
	for script, code := range map[string]int{"exit 3": 3, "kill -KILL $$": 137} {
		pid, err := Start(shell(script))
		if err != nil {
			t.Fatal(err)
		}
		want[pid] = code
	}
	for others := true; others; {
		<-ends
		ended, left, err := Reap()
		if err != nil {
			t.Fatal(err)
		}
		for pid, status := range ended {
			found[pid] = status.Code()
		}
		others = left
	}
	if !reflect.DeepEqual(found, want) {
		t.Errorf("got %v, expected %v", found, want)
	}
}

func TestSignalsDoNotEndTheProcess(t *testing.T) {
	received := Signals()
	for _, number := range []syscall.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGPIPE, syscall.SIGPWR,
	} {
		if err := syscall.Kill(os.Getpid(), number); err != nil {
			t.Fatal(err)
		}
		for got := range received {
			if got == number { // and not what the Go runtime sends itself
				break
			}
		}
	}
}
