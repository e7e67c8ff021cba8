package clock

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

func TestWhatIsDoneAboutAnOffset(t *testing.T) {
	for _, given := range []struct {
		offset  time.Duration
		forward bool
		want    Correction
	}{
		{0, true, Correction{Next: period}},
		{good, true, Correction{Next: period}},
		{-good, false, Correction{Next: period}},
		{good + 1, true, Correction{Run: good + 1, Next: period}},
		{small, true, Correction{Run: small, Next: period}},
		{-small, false, Correction{Run: -small, Next: period}},
		{small + 1, true, Correction{Forward: small + 1, Next: period}},
		{30 * 365 * 24 * time.Hour, true, Correction{Forward: 30 * 365 * 24 * time.Hour, Next: period}},
		// Never set back, and not set forward under an app.
		{-small - 1, true, Correction{Run: -small - 1, Over: period, Next: period}},
		{time.Second, false, Correction{Run: time.Second, Over: period, Next: period}},
		{-time.Hour, true, Correction{Run: -30 * time.Second, Over: period, Next: period}},
		{time.Hour, false, Correction{Run: 30 * time.Second, Over: period, Next: period}},
	} {
		if got := Decide(Reading{Offset: given.offset}, given.forward); got != given.want {
			t.Errorf("%v, forward %v: got %+v, expected %+v", given.offset, given.forward, got, given.want)
		}
	}
}

// Whatever the offset, a clock neither stands still nor goes back, and repeated checks bring it right.
func FuzzDecide(f *testing.F) {
	for _, offset := range []int64{0, 1, -1, 1e8, -1e8, 1e12, -1e12, 1 << 62, -1 << 63} {
		f.Add(offset, true)
		f.Add(offset, false)
	}
	f.Fuzz(func(t *testing.T, ns int64, forward bool) {
		offset := time.Duration(ns)
		got := Decide(Reading{Offset: offset}, forward)
		if got.Forward < 0 || got.Forward > 0 && (!forward || got.Run != 0) {
			t.Fatalf("%v: %+v", offset, got)
		}
		if got.Next <= 0 || got.Next > period {
			t.Fatalf("%v: next check in %v", offset, got.Next)
		}
		tick, once := ticks(got.Run, got.Over)
		if tick < 9000 || tick > 11_000 || once.Abs() > small {
			t.Fatalf("%v: tick %d and %v at once", offset, tick, once)
		}
		// What is left is less, and on the same side.
		left := offset - got.Forward - got.Run
		if offset.Abs() > good && (left.Abs() >= offset.Abs() || (left > 0) != (offset > 0) && left != 0) {
			t.Fatalf("%v: %+v leaves %v", offset, got, left)
		}
	})
}

func TestWhatTheParentMaySay(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	epoch := now.Add(-time.Hour)
	witness := func(offset, margin time.Duration) *Reading { return &Reading{Offset: offset, Margin: margin} }
	for _, given := range []struct {
		offset  time.Duration
		margin  time.Duration
		witness *Reading
		want    string // of the error
	}{
		{0, 0, nil, ""},
		{time.Hour * 1e5, 0, nil, ""},
		{-time.Hour, 0, nil, ""},
		{-time.Hour - 1, 0, nil, "before the cage was built"},
		{tolerance, 0, witness(0, 0), ""},
		{tolerance + 1, 0, witness(0, 0), "from the NSM's"},
		{-tolerance - 1, 0, witness(0, 0), "from the NSM's"},
		{tolerance + 3, 1, witness(0, 2), ""},
		{time.Minute, 0, witness(time.Minute, 0), ""},
		{0, 0, witness(time.Minute, 0), "from the NSM's"},
		{-2 * time.Hour, 0, witness(-2*time.Hour, 0), "before the cage was built"},
	} {
		err := Plausible(Reading{Offset: given.offset, Margin: given.margin}, given.witness, now, epoch)
		if (err == nil) != (given.want == "") || err != nil && !strings.Contains(err.Error(), given.want) {
			t.Errorf("%+v: got %v", given, err)
		}
	}
}

func TestHalfOfTheRoundTripIsTheWayBack(t *testing.T) {
	before := time.Now()
	after := before.Add(40 * time.Millisecond)
	got := compare("parent", before.Round(0).Add(time.Second), before, after)
	if want := (Reading{"parent", 980 * time.Millisecond, 20 * time.Millisecond}); got != want {
		t.Errorf("got %+v, expected %+v", got, want)
	}
}

func TestTheReadingInTheMiddleCounts(t *testing.T) {
	var readings []Reading
	for _, offset := range []time.Duration{time.Hour, 3, 1e6, 2e6, -time.Hour} {
		readings = append(readings, Reading{Offset: offset})
	}
	if got := median(readings).Offset; got != 1e6 {
		t.Errorf("got %v", got)
	}
}

func TestATickIsLongerOrShorterByTheShare(t *testing.T) {
	for _, given := range []struct {
		amount, over time.Duration
		tick         int64
		once         time.Duration
	}{
		{0, 0, 10_000, 0},
		{5 * time.Millisecond, 0, 10_000, 5 * time.Millisecond},
		{time.Second, 100 * time.Second, 10_100, 0},
		{-30 * time.Second, 5 * time.Minute, 9000, 0},
	} {
		if tick, once := ticks(given.amount, given.over); tick != given.tick || once != given.once {
			t.Errorf("%+v: got %d and %v", given, tick, once)
		}
	}
}

// notebook is a clock that remembers what it was told: the machine's own isn't a test's to change.
type notebook struct {
	lines []string
	fail  error
}

func (n *notebook) Forward(amount time.Duration) error {
	n.lines = append(n.lines, "forward "+amount.String())
	return n.fail
}

func (n *notebook) Run(amount, over time.Duration) error {
	n.lines = append(n.lines, "run "+amount.String()+" over "+over.String())
	return n.fail
}

func source(name string, offset time.Duration, err error) func() (Reading, error) {
	return func() (Reading, error) { return Reading{Source: name, Offset: offset}, err }
}

func parent(offset time.Duration, err error) func(context.Context) (Reading, error) {
	return func(context.Context) (Reading, error) { return source("parent", offset, err)() }
}

func TestTheSourceThatIsTrustedMostCounts(t *testing.T) {
	gone := errors.New("gone")
	for name, given := range map[string]struct {
		options Options
		want    string
		failed  string
	}{
		"ptp":                    {Options{PTP: source("ptp", time.Second, nil), NSM: source("nsm", 0, gone)}, "forward 1s", ""},
		"parent":                 {Options{Parent: parent(2*time.Second, nil)}, "forward 2s", ""},
		"parent, NSM agrees":     {Options{Parent: parent(2*time.Second, nil), NSM: source("nsm", 3*time.Second, nil)}, "forward 2s", ""},
		"parent lies":            {Options{Parent: parent(time.Hour, nil), NSM: source("nsm", 3*time.Second, nil)}, "forward 3s", ""},
		"parent is gone":         {Options{Parent: parent(0, gone), NSM: source("nsm", 3*time.Second, nil)}, "forward 3s", ""},
		"ptp fails":              {Options{PTP: source("ptp", 0, gone), Parent: parent(2*time.Second, nil)}, "forward 2s", ""},
		"NSM fails":              {Options{Parent: parent(2*time.Second, nil), NSM: source("nsm", 0, gone)}, "", "nsm: gone"},
		"nobody knows":           {Options{Parent: parent(0, gone)}, "", "parent: gone"},
		"before the build":       {Options{Parent: parent(-time.Hour*24*365*50, nil)}, "", "before the cage was built"},
		"all before the build":   {Options{Parent: parent(-time.Hour*24*365*50, nil), NSM: source("nsm", -time.Hour*24*365*50, nil)}, "", "before the cage was built"},
		"ptp before the build":   {Options{PTP: source("ptp", -time.Hour*24*365*50, nil), Parent: parent(time.Second, nil)}, "forward 1s", ""},
		"parent early, NSM late": {Options{Parent: parent(-time.Minute, nil), NSM: source("nsm", time.Minute, nil)}, "forward 1m0s", ""},
	} {
		book := &notebook{}
		given.options.Clock, given.options.Forward = book, true
		given.options.Epoch = time.Now().Add(-time.Hour)
		_, err := New(given.options).Check(t.Context())
		if given.failed != "" {
			if err == nil || !strings.Contains(err.Error(), given.failed) || len(book.lines) > 0 {
				t.Errorf("%s: got %v and %q", name, err, book.lines)
			}
			continue
		}
		if err != nil || len(book.lines) == 0 || book.lines[0] != given.want {
			t.Errorf("%s: got %v and %q, expected %q", name, err, book.lines, given.want)
		}
	}
}

func TestOnlyTheFirstCorrectionSetsTheClock(t *testing.T) {
	registry := metrics.NewRegistry()
	book := &notebook{}
	offsets := []time.Duration{time.Second, time.Second, -time.Second, 0, 0}
	keeper := New(Options{
		Clock: book, Forward: true, Metrics: registry,
		Parent: func(context.Context) (Reading, error) {
			offset := offsets[0]
			offsets = offsets[1:]
			return Reading{Source: "parent", Offset: offset}, nil
		},
	})
	for range 5 {
		if _, err := keeper.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"forward 1s", "run 0s over 0s", "run 1s over 5m0s", "run -1s over 5m0s", "run 0s over 0s"}
	if !slices.Equal(book.lines, want) {
		t.Errorf("got %q", book.lines)
	}
	var text strings.Builder
	if err := registry.WriteText(&text); err != nil || !strings.Contains(text.String(), `cage_clock_checks_total{source="parent"} 5`) {
		t.Errorf("got %v and %s", err, text.String())
	}
}

func TestAClockThatCannotBeSetIsAnErrorAndAskedAgain(t *testing.T) {
	book := &notebook{fail: errors.New("no right to")}
	keeper := New(Options{Clock: book, Forward: true, Parent: parent(time.Second, nil)})
	for range 2 {
		next, err := keeper.Check(t.Context())
		if err == nil || next != retry || book.lines[len(book.lines)-1] != "forward 1s" {
			t.Errorf("got %v, %v and %q", next, err, book.lines)
		}
	}
}

func TestAClockThatIsSomebodyElsesIsOnlyCompared(t *testing.T) {
	registry := metrics.NewRegistry()
	next, err := New(Options{Forward: true, Metrics: registry, Parent: parent(time.Hour, nil)}).Check(t.Context())
	var text strings.Builder
	if failed := registry.WriteText(&text); failed != nil || err != nil || next != period ||
		!strings.Contains(text.String(), "\ncage_clock_offset_seconds 3600\n") {
		t.Errorf("got %v, %v and %s", next, err, text.String())
	}
}

func TestAnAppThatHasStartedSeesNoLeap(t *testing.T) {
	book := &notebook{}
	keeper := New(Options{Clock: book, Forward: true, Parent: parent(time.Second, nil)})
	keeper.Started()
	if _, err := keeper.Check(t.Context()); err != nil || !slices.Equal(book.lines, []string{"run 1s over 5m0s"}) {
		t.Errorf("got %v and %q", err, book.lines)
	}
}

func TestKeepEndsWithItsContext(t *testing.T) {
	leak.Check(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	keeper := New(Options{Clock: &notebook{}, Parent: func(context.Context) (Reading, error) {
		close(asked)
		return Reading{Source: "parent"}, nil
	}})
	ended := make(chan struct{})
	go func() {
		keeper.Keep(ctx, 0)
		close(ended)
	}()
	<-asked
	cancel()
	<-ended
}

// host answers time streams at a unix socket.
func host(t *testing.T, answer func(number int, to io.Writer)) transport.Address {
	t.Helper()
	address, err := transport.Parse("unix://" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := address.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for number := 0; ; number++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if hello, err := wire.ReadHello(conn); err != nil || hello.Stream != wire.Time {
				t.Errorf("got %+v, %v", hello, err)
			}
			answer(number, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return address
}

func TestTheParentIsAskedOverAStream(t *testing.T) {
	leak.Check(t)
	address := host(t, func(number int, to io.Writer) {
		offset := time.Hour
		if number == 1 {
			offset = 5 * time.Hour
		}
		_ = wire.WriteReply(to, wire.Reply{UnixNS: time.Now().Add(offset).UnixNano()})
	})
	got, err := AskParent(address)(t.Context())
	if err != nil || (got.Offset-time.Hour).Abs() > time.Minute || got.Source != "parent" || got.Margin <= 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAParentThatAnswersGarbageIsAnError(t *testing.T) {
	leak.Check(t)
	for want, answer := range map[string]func(int, io.Writer){
		"EOF":            func(int, io.Writer) {},
		"at most":        func(_ int, to io.Writer) { _, _ = io.WriteString(to, "\xff\xff") },
		"after 1970":     func(_ int, to io.Writer) { _ = wire.WriteReply(to, wire.Reply{}) },
		"-5 ns":          func(_ int, to io.Writer) { _ = wire.WriteReply(to, wire.Reply{UnixNS: -5}) },
		"denied: not me": func(_ int, to io.Writer) { _ = wire.WriteReply(to, wire.Reply{Code: wire.Denied, Message: "not me"}) },
		"once":           func(number int, to io.Writer) { answerOnce(number, to) },
	} {
		_, err := AskParent(host(t, answer))(t.Context())
		if err == nil || want != "once" && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func answerOnce(number int, to io.Writer) {
	if number == 0 {
		_ = wire.WriteReply(to, wire.Reply{UnixNS: 1})
	}
}

func TestAParentThatIsSilentIsGivenUp(t *testing.T) {
	leak.Check(t)
	ctx, cancel := context.WithCancel(t.Context())
	address := host(t, func(int, io.Writer) {
		cancel()
		<-t.Context().Done()
	})
	if _, err := AskParent(address)(ctx); err == nil {
		t.Error("no error")
	}
}

func TestThePTPClockIsKnownByItsName(t *testing.T) {
	sysfs := t.TempDir()
	for number, name := range []string{"ena", "KVM virtual PTP"} {
		folder := filepath.Join(sysfs, "class/ptp", "ptp"+string(rune('0'+number)))
		if FindPTP(sysfs, "/dev") != nil {
			t.Errorf("found one before %q is there", name)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "clock_name"), []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := FindPTP(sysfs, t.TempDir())
	if read == nil {
		t.Fatal("found none")
	}
	if _, err := read(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "ptp1") {
		t.Errorf("got %v", err)
	}
}

func TestADeviceThatIsNoClockIsAnError(t *testing.T) {
	if _, err := readPTP(os.DevNull); err == nil {
		t.Error("no error")
	}
}
