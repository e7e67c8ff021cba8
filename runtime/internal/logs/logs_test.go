package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
)

const hang = 20 * time.Second

func none() error { return nil }

func all(t testing.TB, ring *Ring) string {
	t.Helper()
	var text strings.Builder
	if err := ring.CopyTo(context.Background(), &text, false, none); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestTheLastLinesAreKept(t *testing.T) {
	ring := New(10 * (overhead + len("line 1000\n")))
	for number := range 1000 {
		ring.Add(fmt.Appendf(nil, "line %d\n", 1000+number))
	}
	want := ""
	for number := 1990; number < 2000; number++ {
		want += fmt.Sprintf("line %d\n", number)
	}
	if got := all(t, ring); got != want {
		t.Errorf("got %q", got)
	}
	if ring.used > ring.size || len(ring.lines) != 10 || cap(ring.lines) > 1000 {
		t.Errorf("%d bytes, %d lines of %d", ring.used, len(ring.lines), cap(ring.lines))
	}
}

func TestEmptyLinesAreBoundedToo(t *testing.T) {
	ring := New(100 * overhead)
	for range 10_000 {
		ring.Add(nil)
	}
	if got := len(ring.lines); got > 100 {
		t.Errorf("%d lines", got)
	}
}

func TestALineIsCutAndHasOneEnd(t *testing.T) {
	ring := New(Size)
	ring.Add([]byte("a"))
	ring.Add([]byte("b\n"))
	ring.Add(bytes.Repeat([]byte("x"), 2*MaxLine))
	if got, want := all(t, ring), "a\nb\n"+strings.Repeat("x", MaxLine-1)+"\n"; got != want {
		t.Errorf("got %d bytes", len(got))
	}
	small := New(10)
	small.Add([]byte("longer than the ring"))
	if got := all(t, small); got != "longer than the ring\n" {
		t.Errorf("got %q", got)
	}
}

// gate lets a reader go on step by step.
type gate struct {
	writes chan string
	fail   error
}

func (g *gate) Write(data []byte) (int, error) {
	g.writes <- string(data)
	return len(data), g.fail
}

func TestWhoFollowsGetsWhatComesAndIsToldWhatIsMissing(t *testing.T) {
	leak.Check(t)
	ring := New(3 * (overhead + 2))
	ring.Add([]byte("a"))
	reader := &gate{writes: make(chan string)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- ring.CopyTo(ctx, reader, true, none) }()
	if got := <-reader.writes; got != "a\n" {
		t.Errorf("got %q", got)
	}
	ring.Add([]byte("b"))
	if got := <-reader.writes; got != "b\n" {
		t.Errorf("got %q", got)
	}
	for _, line := range []string{"c", "d"} {
		ring.Add([]byte(line))
	}
	// It may hold c already, and stands still while more comes than fits.
	if got := <-reader.writes; got != "c\n" {
		t.Errorf("got %q", got)
	}
	for _, line := range []string{"e", "f", "g", "h", "i"} {
		ring.Add([]byte(line))
	}
	var got []string
	for len(got) == 0 || got[len(got)-1] != "i\n" {
		got = append(got, <-reader.writes)
	}
	if text := strings.Join(got, ""); !strings.Contains(text, " lines are missing here\ng\nh\ni\n") {
		t.Errorf("got %q", text)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAReaderThatIsGoneEndsTheCopy(t *testing.T) {
	gone := errors.New("gone")
	ring := New(Size)
	ring.Add([]byte("a"))
	reader := &gate{writes: make(chan string, 1), fail: gone}
	if err := ring.CopyTo(t.Context(), reader, true, none); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if err := ring.CopyTo(t.Context(), &bytes.Buffer{}, true, func() error { return gone }); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestLinesComeOverTheSocket(t *testing.T) {
	leak.Check(t)
	path := filepath.Join(t.TempDir(), "log.sock")
	ring := New(Size)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	receive := func() { ended <- ring.Receive(ctx, path) }
	if err := os.WriteFile(path, nil, 0o644); err != nil { // left over
		t.Fatal(err)
	}
	go receive()
	var console bytes.Buffer
	sender := NewSender(path, "app")
	defer sender.close()
	tee := sender.Tee(&console)
	// What is sent before the socket is there is nobody's.
	for deadline := time.Now().Add(hang); all(t, ring) == ""; time.Sleep(time.Millisecond) {
		if _, err := tee.Write([]byte("app: hello\n")); err != nil || time.Now().After(deadline) {
			t.Fatalf("nothing came: %v", err)
		}
	}
	if status, err := os.Stat(path); err != nil || status.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", status, err)
	}
	if got := all(t, ring); !strings.HasPrefix(got, "app: hello\n") || strings.Contains(got, "missing") {
		t.Errorf("got %q", got)
	}
	if got := console.String(); !strings.HasPrefix(got, "app: hello\n") {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// It is gone, and nobody minds.
	before := console.Len()
	if _, err := tee.Write([]byte("app: alone\n")); err != nil || console.Len() == before {
		t.Errorf("got %v", err)
	}
}

func TestASocketThatNobodyReadsStopsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.sock")
	descriptor := bind(t, path)
	sender := NewSender(path, "app")
	defer sender.close()
	const count = 10_000 // more than a socket holds
	for number := range count {
		sender.Send(fmt.Appendf(nil, "app: line %d\n", number))
	}
	if sender.lost == 0 {
		t.Fatal("nothing was lost")
	}
	missing := sender.lost
	taken := drain(t, descriptor)
	if taken+missing != count {
		t.Errorf("%d came and %d were lost of %d", taken, missing, count)
	}
	sender.Send([]byte("app: the next\n"))
	want := []string{fmt.Sprintf("cage: %d lines of app are missing here\n", missing), "app: the next\n"}
	for _, line := range want {
		if got := receive(t, descriptor); got != line {
			t.Errorf("got %q, expected %q", got, line)
		}
	}
}
