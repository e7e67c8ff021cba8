package child

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is a program that runs a script with the arguments $1 and so on.
func shell(script string, arguments ...string) Spec {
	return Spec{
		Path: "/bin/sh",
		Argv: append([]string{"sh", "-c", script, "sh"}, arguments...),
		Env:  []string{"PATH=/usr/bin:/bin"},
	}
}

// waitFor returns when a file is there.
func waitFor(t *testing.T, path string) {
	t.Helper()
	for range 3000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s never came", path)
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
		status, err := Run(shell(script), nil)
		if err != nil || status.Code() != want.code || status.String() != want.text {
			t.Errorf("%s: got %d, %v, %v", script, status.Code(), status, err)
		}
	}
}

func TestWhatCannotBeStartedIsAnError(t *testing.T) {
	_, err := Run(Spec{Path: "/no/such/program", Argv: []string{"x"}}, nil)
	if !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("got %v", err)
	}
}

func TestTheChildLeadsItsOwnSession(t *testing.T) {
	// Field 6 of /proc/PID/stat is the session.
	status, err := Run(shell(`read -r _ _ _ _ _ session _ </proc/$$/stat; test $session = $$`), nil)
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
	status, err := Run(shell(script), nil)
	if err != nil || status.Code() != 0 {
		t.Errorf("got %v, %v", status, err)
	}
}

func TestSignalsReachTheChild(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	signals := make(chan os.Signal, 1)
	go func() {
		waitFor(t, ready)
		signals <- syscall.SIGTERM
	}()
	status, err := Run(shell(`trap 'exit 7' TERM; : >"$1"; while :; do sleep 0.01; done`, ready), signals)
	if err != nil || status.Code() != 7 {
		t.Errorf("got %v, %v", status, err)
	}
}

func TestAChildThatIgnoresASignalLivesOn(t *testing.T) {
	folder := t.TempDir()
	ready, again := filepath.Join(folder, "ready"), filepath.Join(folder, "again")
	signals := make(chan os.Signal, 1)
	go func() {
		waitFor(t, ready)
		signals <- syscall.SIGTERM
		signals <- syscall.SIGUSR1
		waitFor(t, again)
		signals <- syscall.SIGKILL
	}()
	script := `trap '' TERM; trap ': >"$2"' USR1; : >"$1"; while :; do sleep 0.01; done`
	status, err := Run(shell(script, ready, again), signals)
	if err != nil || status.Code() != 137 {
		t.Errorf("got %v, %v", status, err)
	}
}

func TestSignalsOfOurOwnAreKept(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	signals := make(chan os.Signal, 8)
	go func() {
		waitFor(t, ready)
		for _, number := range []syscall.Signal{syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGURG} {
			signals <- number
		}
		signals <- syscall.SIGTERM
	}()
	script := `trap 'exit 8' PIPE URG TTIN TTOU; trap 'exit 7' TERM; : >"$1"; while :; do sleep 0.01; done`
	status, err := Run(shell(script, ready), signals)
	if err != nil || status.Code() != 7 {
		t.Errorf("got %v, %v", status, err)
	}
}
