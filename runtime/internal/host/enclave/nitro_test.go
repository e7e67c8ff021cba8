package enclave_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/enclave"
	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/leak"
)

// patience is after how long a test hangs.
const patience = 20 * time.Second

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

type rig struct {
	*hosttest.NitroCLI
	driver *enclave.Nitro
	said   *hosttest.Said
	places []enclave.Place
}

func nitro(t *testing.T, change func(*enclave.Config)) *rig {
	t.Helper()
	leak.Check(t)
	r := &rig{NitroCLI: hosttest.NewNitroCLI(t), said: &hosttest.Said{}}
	state, err := enclave.OpenState(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(state.Close)
	config := enclave.Config{Name: "pay", EIF: "/x/pay image.eif", CPUs: 2, MemoryMiB: 512}
	if change != nil {
		change(&config)
	}
	r.driver = &enclave.Nitro{
		Config: config, State: state, CLI: r.Path, Poll: 10 * time.Millisecond, Journal: journal.New(r.said),
	}
	return r
}

func (r *rig) announce(place enclave.Place) error {
	r.places = append(r.places, place)
	return nil
}

func (r *rig) start(t *testing.T) enclave.Enclave {
	t.Helper()
	running, err := r.driver.Start(context.Background(), r.announce)
	if err != nil {
		t.Fatal(err)
	}
	return running
}

func ended(t testing.TB, running enclave.Enclave) {
	t.Helper()
	select {
	case <-running.Done():
	case <-time.After(patience):
		t.Fatal("the enclave has not ended")
	}
}

func TestAnEnclaveIsStartedWatchedAndTerminated(t *testing.T) {
	r := nitro(t, nil)
	if err := r.driver.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.driver.Clean(context.Background()); err != nil {
		t.Fatal(err)
	}
	running := r.start(t)
	want := "run-enclave --enclave-name pay --eif-path /x/pay image.eif --cpu-count 2 --memory 512"
	if calls := r.Calls(t); !slices.Contains(calls, want) {
		t.Errorf("called %q", calls)
	}
	place := r.places[0]
	if len(r.places) != 1 || place.CID != 16 || place.Guest.String() != "vsock://16:9001" ||
		place.Parent.String() != "vsock://any:10016" {
		t.Errorf("announced %+v", r.places)
	}
	eventually(t, "its state is asked for", func() bool {
		return strings.Count(strings.Join(r.Calls(t), "\n"), "describe-enclaves") > 3
	})
	if err := running.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	ended(t, running)
	if list := r.Running(t); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
	if err := running.Stop(context.Background()); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
}

func TestACIDAndDebugModeAreHandedOn(t *testing.T) {
	r := nitro(t, func(c *enclave.Config) { c.CID, c.Debug = 77, true })
	running := r.start(t)
	if calls := r.Calls(t); !strings.HasSuffix(calls[0], "--enclave-cid 77 --debug-mode") {
		t.Errorf("called %q", calls)
	}
	if len(r.places) != 1 || r.places[0].Parent.String() != "vsock://any:10077" {
		t.Errorf("announced %+v", r.places)
	}
	eventually(t, "the console is shown", func() bool {
		return strings.Contains(r.said.String(), "console: app: hello\\x1b[2J\n")
	})
	if err := running.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	ended(t, running)
}

func TestTheEndOfAnEnclaveIsNoticed(t *testing.T) {
	for _, state := range []string{"", "TERMINATING"} {
		r := nitro(t, nil)
		running := r.start(t)
		r.End(t, state)
		ended(t, running)
		if running.Err() == nil || len(r.Running(t)) > 0 {
			t.Errorf("%q: got %v, left %q", state, running.Err(), r.Running(t))
		}
	}
}

func TestAPassingFailureOfNitroCLIDoesNotEndAnEnclave(t *testing.T) {
	r := nitro(t, nil)
	running := r.start(t)
	r.Fail(t, "describe-enclaves", "socket is busy")
	eventually(t, "it is said", func() bool { return strings.Contains(r.said.String(), "its state is unknown") })
	r.Fail(t, "describe-enclaves", "")
	select {
	case <-running.Done():
		t.Error("ended")
	case <-time.After(50 * time.Millisecond):
	}
	if err := running.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestAStartThatFailsLeavesNothing(t *testing.T) {
	r := nitro(t, nil)
	r.Fail(t, "run-enclave", "[ E22 ] Insufficient CPUs available\nfor details see https://…")
	_, err := r.driver.Start(context.Background(), r.announce)
	if err == nil || !strings.Contains(err.Error(), "E22") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	r.Fail(t, "run-enclave", "")
	refused := errors.New("port is taken")
	if _, err := r.driver.Start(context.Background(), func(enclave.Place) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if list := r.Running(t); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
}

func TestAStartThatIsCutOffLeavesNothing(t *testing.T) {
	r := nitro(t, nil)
	r.Hang(t)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for len(r.Running(t)) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := r.driver.Start(ctx, r.announce); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if list := r.Running(t); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
}

func TestAnswersThatAreNoneAreErrors(t *testing.T) {
	for _, answer := range []string{"", "{", "[]", "{}", `{"EnclaveID":"i-1","EnclaveCID":3}`, `{"EnclaveID":"","EnclaveCID":16}`,
		`{"EnclaveID":"i-1","EnclaveCID":-1}`, "null"} {
		r := nitro(t, nil)
		r.Answer(t, "run-enclave", answer)
		if running, err := r.driver.Start(context.Background(), r.announce); err == nil {
			t.Errorf("%q: started %v", answer, running)
		}
	}
}

func TestWhatAnEarlierRunHasLeftIsEnded(t *testing.T) {
	r := nitro(t, nil)
	first := r.start(t)
	// As if this program had been killed: what it has noted is still there, and so is the enclave.
	again := *r.driver
	if err := again.Clean(context.Background()); err != nil {
		t.Fatal(err)
	}
	if list := r.Running(t); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
	if !strings.Contains(r.said.String(), "was left by an earlier run: terminating it") {
		t.Errorf("said %s", r.said)
	}
	second := r.start(t)
	ended(t, first)
	if err := again.Clean(context.Background()); err != nil || len(r.Running(t)) > 0 {
		t.Errorf("the end of the first has taken the note of the second: left %q, %v", r.Running(t), err)
	}
	ended(t, second)
}

func TestAnEnclaveThatEndsWhileItIsStoppedHasEnded(t *testing.T) {
	r := nitro(t, nil)
	running := r.start(t)
	r.Fail(t, "terminate-enclave", "[ E11 ] Socket error")
	if err := running.Stop(context.Background()); err == nil || !strings.Contains(err.Error(), "E11") {
		t.Errorf("got %v", err)
	}
	r.End(t, "")
	if err := running.Stop(context.Background()); err != nil {
		t.Errorf("got %v", err)
	}
	ended(t, running)
}

func TestAnEnclaveOfTheSameNameIsSomebodyElses(t *testing.T) {
	r := nitro(t, nil)
	r.Foreign(t, "pay")
	err := r.driver.Clean(context.Background())
	if err == nil || !strings.Contains(err.Error(), "--replace") || len(r.Running(t)) != 1 {
		t.Errorf("got %v", err)
	}
	r.driver.Replace = true
	if err := r.driver.Clean(context.Background()); err != nil || len(r.Running(t)) != 0 {
		t.Errorf("got %v, left %q", err, r.Running(t))
	}
	r.Foreign(t, "other")
	if err := r.driver.Clean(context.Background()); err != nil || len(r.Running(t)) != 1 {
		t.Errorf("got %v, left %q", err, r.Running(t))
	}
}

func TestWithoutNitroCLIItIsSaidHowToGetIt(t *testing.T) {
	driver := &enclave.Nitro{CLI: "/nowhere/nitro-cli"}
	if err := driver.Check(context.Background()); err == nil || !strings.Contains(err.Error(), "aws-nitro-enclaves-cli") {
		t.Errorf("got %v", err)
	}
}

func TestAStateFolderHasOneUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	state, err := enclave.OpenState(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enclave.OpenState(path); err == nil || !strings.Contains(err.Error(), "another cage-host") {
		t.Errorf("got %v", err)
	}
	state.Close()
	if state, err = enclave.OpenState(path); err != nil {
		t.Fatal(err)
	}
	state.Close()
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := enclave.OpenState(path); err == nil {
		t.Error("a folder that everybody writes to is taken")
	}
}
