package metrics

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

func text(t testing.TB, registry *Registry) string {
	t.Helper()
	var written strings.Builder
	if err := registry.WriteText(&written); err != nil {
		t.Fatal(err)
	}
	return written.String()
}

func TestTheTextIsSortedAndHasHelpAndType(t *testing.T) {
	registry := NewRegistry()
	streams := registry.Counter("streams_total", "Streams opened.", "way", "result")
	streams.Inc("ingress", "ok")
	streams.Add(41, "ingress", "ok")
	streams.Inc("egress", "denied")
	registry.Gauge("open", "Streams open.").With().Add(2.5)
	registry.Gauge("never_set", "No series.", "a")
	registry.GaugeFunc("alive", "Whether\nit lives \\ works.", func() float64 { return 1 })
	registry.CounterFunc("moved_total", "Bytes.", func() float64 { return 1 << 40 })
	want := `# HELP alive Whether\nit lives \\ works.
# TYPE alive gauge
alive 1
# HELP moved_total Bytes.
# TYPE moved_total counter
moved_total 1099511627776
# HELP open Streams open.
# TYPE open gauge
open 2.5
# HELP streams_total Streams opened.
# TYPE streams_total counter
streams_total{way="egress",result="denied"} 1
streams_total{way="ingress",result="ok"} 42
`
	if got := text(t, registry); got != want {
		t.Errorf("got\n%s\nexpected\n%s", got, want)
	}
}

func TestNumbersAreWrittenAsPrometheusReadsThem(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", -3: "-3", 0.25: "0.25", 1e300: "1e+300", math.Inf(1): "+Inf", math.Inf(-1): "-Inf", 1.7e9: "1700000000",
	} {
		if got := number(value); got != want {
			t.Errorf("%v: got %s, expected %s", value, got, want)
		}
	}
	if got := number(math.NaN()); got != "NaN" {
		t.Errorf("got %s", got)
	}
}

func TestACounterNeverBecomesLess(t *testing.T) {
	count := NewRegistry().Counter("x_total", "").With()
	count.Add(3)
	count.Add(-2)
	if got := count.Value(); got != 3 {
		t.Errorf("got %v", got)
	}
}

func TestTheSameMetricIsAskedForTwice(t *testing.T) {
	registry := NewRegistry()
	registry.Counter("x_total", "", "a").Inc("1")
	registry.Counter("x_total", "", "a").Inc("1")
	if got := registry.Counter("x_total", "", "a").With("1").Value(); got != 2 {
		t.Errorf("got %v", got)
	}
}

func TestMistakesOfTheProgramPanic(t *testing.T) {
	registry := NewRegistry()
	registry.Counter("x_total", "", "a")
	for what, mistake := range map[string]func(){
		"other kind":     func() { registry.Gauge("x_total", "", "a") },
		"other labels":   func() { registry.Counter("x_total", "", "b") },
		"bad name":       func() { registry.Counter("x-total", "") },
		"bad label":      func() { registry.Counter("y_total", "", "a-b") },
		"reserved label": func() { registry.Counter("y_total", "", "__name") },
		"too few values": func() { registry.Counter("x_total", "", "a").Inc() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			mistake()
		}()
	}
}

func TestSeriesAreBounded(t *testing.T) {
	registry := NewRegistry()
	counter := registry.Counter("x_total", "", "a", "b")
	const events = MaxSeries * 3
	for index := range events {
		counter.Inc(fmt.Sprint(index), strings.Repeat("v", 10_000))
	}
	got := text(t, registry)
	if lines := strings.Count(got, "\nx_total{"); lines != MaxSeries {
		t.Errorf("got %d series", lines)
	}
	last := counter.With(Other, Other).Value()
	if want := float64(events - (MaxSeries - 1)); last != want {
		t.Errorf("the rest counts %v, expected %v", last, want)
	}
	if longest := (maxValue + 64) * MaxSeries; len(got) > longest {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestANilRegistryCounts(t *testing.T) {
	var registry *Registry
	count := registry.Counter("x_total", "", "a").With("1")
	count.Inc()
	registry.Gauge("y", "").Set(1)
	registry.GaugeFunc("z", "", func() float64 { return 1 })
	if count.Value() != 1 || text(t, registry) != "" {
		t.Errorf("got %v and %q", count.Value(), text(t, registry))
	}
}

func TestCountingAtOnceLosesNothing(t *testing.T) {
	registry := NewRegistry()
	counter := registry.Counter("x_total", "", "a")
	const workers, events = 8, 2000
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			for index := range events {
				counter.Inc(fmt.Sprint((worker + index) % 5))
				if index%500 == 0 {
					_ = registry.WriteText(io.Discard)
				}
			}
		})
	}
	group.Wait()
	sum := 0.0
	for value := range 5 {
		sum += counter.With(fmt.Sprint(value)).Value()
	}
	if sum != workers*events {
		t.Errorf("got %v", sum)
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

func TestAWriterThatFailsIsAnError(t *testing.T) {
	registry := NewRegistry()
	registry.Counter("x_total", "").Inc()
	cause := errors.New("broken")
	if err := registry.WriteText(broken{cause}); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

// A label's value stays inside its quotes, whatever it is.
func FuzzLabelValue(f *testing.F) {
	for _, value := range []string{"", "a\"} 1\nx_total 7", `\`, "\xff\n\"", "日本語", strings.Repeat("é", 100)} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		registry := NewRegistry()
		registry.Counter("x_total", "", "a").Inc(value)
		got := text(t, registry)
		if !utf8.ValidString(got) || strings.Count(got, "\n") != 3 {
			t.Fatalf("%q gives %q", value, got)
		}
		line := strings.Split(got, "\n")[2]
		quoted, found := strings.CutPrefix(line, `x_total{a="`)
		quoted, closed := strings.CutSuffix(quoted, `"} 1`)
		if !found || !closed {
			t.Fatalf("%q gives %q", value, line)
		}
		back := strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\"`, `"`).Replace(quoted)
		want := strings.ToValidUTF8(value[:min(len(value), maxValue)], "\uFFFD")
		if back != want {
			t.Fatalf("got %q, expected %q", back, want)
		}
	})
}
