package service

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTheDelayGrowsAndIsForgottenAfterAGoodRun(t *testing.T) {
	r := restarts{}
	for _, want := range []int{1, 2, 4, 8, 16, 30, 30} {
		r.started = time.Second
		r.delay = r.next(2 * time.Second)
		if r.delay != time.Duration(want)*time.Second {
			t.Errorf("got %v, expected %d s", r.delay, want)
		}
	}
	if got := r.next(r.started + wellAfter); got != firstDelay {
		t.Errorf("after a good run: got %v", got)
	}
	r.started = 0 // it never came to run
	if got := r.next(time.Hour); got != maxDelay {
		t.Errorf("without a run: got %v", got)
	}
}

func TestWhatIsSavedIsLoaded(t *testing.T) {
	t.Chdir(t.TempDir())
	want := restarts{pid: 7, started: 1, delay: maxDelay, due: 1 << 60, count: 3}
	if err := want.save(); err != nil {
		t.Fatal(err)
	}
	if got := load(); got != want {
		t.Errorf("got %+v", got)
	}
}

func TestAFileThatIsNotAsSavedIsNone(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, text := range []string{
		"", "1", "1 2 3 4", "1 2 3 4 end\n", "1 2 3 4 5 en", "x 2 3 4 5 end\n", "-1 2 3 4 5 end\n",
		"1 -2 3 4 5 end\n", "1 2 30000000001 4 5 end\n", "1 2 99999999999999999999 4 5 end\n", "1 2 3 4 -5 end\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := load(); got != (restarts{}) {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

// finish writes what ./run left and what runsv says, and returns what ./finish leaves.
func finish(t *testing.T, before restarts, stat string) restarts {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.Mkdir("supervise", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("supervise/stat", []byte(stat), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := before.save(); err != nil {
		t.Fatal(err)
	}
	if err := Finish("app", "1", "0"); err != nil {
		t.Fatal(err)
	}
	return load()
}

// nobody is no process's session: the kernel gives no such number.
const nobody = 1 << 30

func TestFinishDelaysTheNextStart(t *testing.T) {
	now := clock()
	got := finish(t, restarts{pid: nobody, started: now, delay: 4 * time.Second}, "finish\n")
	if got.pid != 0 || got.started != 0 || got.delay != 8*time.Second || got.due < now+got.delay {
		t.Errorf("got %+v, at %v", got, now)
	}
}

func TestAServiceThatWasToGoDownStartsAtOnceNextTime(t *testing.T) {
	for _, stat := range []string{"finish, want down\n", "finish, got TERM, want exit\n"} {
		got := finish(t, restarts{pid: nobody, started: 1, delay: 4 * time.Second, due: 5}, stat)
		if got != (restarts{}) {
			t.Errorf("%q: got %+v", stat, got)
		}
	}
}

func TestAnEndDuringTheWaitChangesNoDelay(t *testing.T) {
	before := restarts{pid: nobody, delay: 4 * time.Second, due: 9}
	want := before
	want.pid = 0
	if got := finish(t, before, "finish\n"); got != want {
		t.Errorf("got %+v, expected %+v", got, want)
	}
}

func TestStartSaysThatItRuns(t *testing.T) {
	t.Chdir(t.TempDir())
	before := restarts{delay: 2 * time.Second, due: clock()}
	if err := before.save(); err != nil {
		t.Fatal(err)
	}
	if err := Start("app", nil); err != nil {
		t.Fatal(err)
	}
	got := load()
	if got.pid != os.Getpid() || got.started < before.due || got.started > clock() || got.delay != before.delay {
		t.Errorf("got %+v", got)
	}
}

func TestHowItEndedIsSaid(t *testing.T) {
	for arguments, want := range map[string]string{
		"0 0":   "exit status 0",
		"111 0": "exit status 111",
		"-1 9":  "killed by signal 9 (killed)",
		"-1 64": "killed by signal 64 (signal 64)",
		"-1 x":  "killed by signal x",
	} {
		code, signal, _ := strings.Cut(arguments, " ")
		if got := describe(code, signal); got != want {
			t.Errorf("%s: got %q, expected %q", arguments, got, want)
		}
	}
}

func TestEndsAreCounted(t *testing.T) {
	before := restarts{pid: nobody, started: 1, count: 4}
	for stat, want := range map[string]int{"finish\n": 5, "finish, want down\n": 4} {
		if got := finish(t, before, stat).count; got != want {
			t.Errorf("%q: got %d, expected %d", stat, got, want)
		}
		if got := Restarts("."); got != want {
			t.Errorf("%q: got %d, expected %d", stat, got, want)
		}
	}
	// Its runsv was killed, and it with that.
	if err := before.save(); err != nil {
		t.Fatal(err)
	}
	if err := Start("app", nil); err != nil {
		t.Fatal(err)
	}
	if got := Restarts("."); got != 5 {
		t.Errorf("got %d", got)
	}
	if got := Restarts("nowhere"); got != 0 {
		t.Errorf("got %d", got)
	}
}

func TestAServiceThatNeverBecomesReadyWasNotStarted(t *testing.T) {
	t.Chdir(t.TempDir())
	broken := errors.New("not ready")
	if err := Start("app", func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if got := load(); got.pid != os.Getpid() || got.started != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestARunsvIsTold(t *testing.T) {
	folder := t.TempDir()
	if err := Tell(folder, 'd'); err != nil {
		t.Errorf("without one: %v", err)
	}
	control := filepath.Join(folder, "supervise/control")
	if err := os.Mkdir(filepath.Dir(control), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(control, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Tell(folder, 'd'); err != nil {
		t.Errorf("a killed one: %v", err)
	}
	runsv, err := os.OpenFile(control, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer runsv.Close()
	if err := Tell(folder, 't'); err != nil {
		t.Error(err)
	}
	var got [2]byte
	if size, err := runsv.Read(got[:]); err != nil || size != 1 || got[0] != 't' {
		t.Errorf("got %q, %v", got[:size], err)
	}
}
