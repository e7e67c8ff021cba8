// Package metrics counts what a program does, for Prometheus to read.
//
// A metric has fixed label names and a bounded number of series: label values that others choose can't make
// the program grow. A nil Registry hands out metrics that count and that nobody reads.
package metrics

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// MaxSeries is how many combinations of label values a metric keeps. All further ones count as Other.
	MaxSeries = 1000

	// Other is every label value of the series that counts what is above MaxSeries.
	Other = "other"

	// maxValue is how many bytes of a label's value are kept.
	maxValue = 128
)

var (
	validName  = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	validLabel = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

// Registry holds metrics by name. Its methods, and those of what it hands out, may be called from anywhere.
type Registry struct {
	mutex    sync.Mutex
	families map[string]*family
}

// NewRegistry returns one without metrics.
func NewRegistry() *Registry {
	return &Registry{families: map[string]*family{}}
}

// Counter returns the counter of that name, which by convention ends in "_total"; it is made at the first
// call. The order of the labels is that of the values later. Panics if a name isn't valid, or is that of
// another kind of metric or of one with other labels: no input leads there.
func (r *Registry) Counter(name, help string, labels ...string) *Counter {
	return &Counter{r.family(&family{kind: counter, name: name, help: help, labels: labels})}
}

// Gauge returns the gauge of that name, as Counter does.
func (r *Registry) Gauge(name, help string, labels ...string) *Gauge {
	return &Gauge{r.family(&family{kind: gauge, name: name, help: help, labels: labels})}
}

// GaugeFunc adds a gauge without labels that is asked for whenever the registry is read, and replaces what
// it was before. The function may be called from any goroutine, and must not read the registry.
func (r *Registry) GaugeFunc(name, help string, value func() float64) {
	r.family(&family{kind: gauge, name: name, help: help}).ask.Store(&value)
}

// CounterFunc adds a counter without labels, as GaugeFunc does. What it returns must never become less.
func (r *Registry) CounterFunc(name, help string, value func() float64) {
	r.family(&family{kind: counter, name: name, help: help}).ask.Store(&value)
}

// family returns the family of that name, which is the wanted one if there was none.
func (r *Registry) family(wanted *family) *family {
	if !validName.MatchString(wanted.name) {
		panic(fmt.Sprintf("metrics: %q is no name of a metric", wanted.name))
	}
	for _, label := range wanted.labels {
		if !validLabel.MatchString(label) || strings.HasPrefix(label, "__") {
			panic(fmt.Sprintf("metrics: %q is no name of a label", label))
		}
	}
	wanted.series = map[string]*series{}
	if r == nil {
		return wanted
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	there := r.families[wanted.name]
	if there == nil {
		r.families[wanted.name] = wanted
		return wanted
	}
	if there.kind != wanted.kind || !slices.Equal(there.labels, wanted.labels) {
		panic(fmt.Sprintf("metrics: %s is a %s with labels %q already", there.name, there.kind, there.labels))
	}
	return there
}

type kind string

const (
	counter kind = "counter"
	gauge   kind = "gauge"
)

// family is all series of one name.
type family struct {
	kind   kind
	name   string
	help   string
	labels []string
	ask    atomic.Pointer[func() float64] // what GaugeFunc or CounterFunc was given

	mutex  sync.RWMutex
	series map[string]*series // by their values, joined
}

// series is one number. The bits are those of a float64.
type series struct {
	values []string
	bits   atomic.Uint64
}

func (s *series) add(amount float64) {
	for {
		before := s.bits.Load()
		after := math.Float64bits(math.Float64frombits(before) + amount)
		if s.bits.CompareAndSwap(before, after) {
			return
		}
	}
}

// with returns the series of these label values. Panics if their number isn't that of the labels.
func (f *family) with(values []string) *series {
	if len(values) != len(f.labels) {
		panic(fmt.Sprintf("metrics: %s has labels %q, got the values %q", f.name, f.labels, values))
	}
	kept := make([]string, len(values))
	for index, value := range values {
		kept[index] = strings.ToValidUTF8(value[:min(len(value), maxValue)], "\uFFFD")
	}
	key := strings.Join(kept, "\xff") // which is in no valid UTF-8
	f.mutex.RLock()
	found := f.series[key]
	f.mutex.RUnlock()
	if found != nil {
		return found
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if found := f.series[key]; found != nil {
		return found
	}
	if len(f.series) >= MaxSeries-1 {
		for index := range kept {
			kept[index] = Other
		}
		key = strings.Join(kept, "\xff")
		if found := f.series[key]; found != nil {
			return found
		}
	}
	made := &series{values: kept}
	f.series[key] = made
	return made
}

// Counter counts events, by label values.
type Counter struct{ family *family }

// With returns the count of these label values, one for each label. It is there, as 0, from then on. Panics
// if their number isn't that of the labels.
func (c *Counter) With(values ...string) *Count { return &Count{c.family.with(values)} }

// Inc counts one event with these label values.
func (c *Counter) Inc(values ...string) { c.With(values...).Add(1) }

// Add counts more than one event, or bytes. What is below 0 counts nothing.
func (c *Counter) Add(amount int64, values ...string) { c.With(values...).Add(amount) }

// Count is a number that never becomes less.
type Count struct{ series *series }

// Inc adds 1.
func (c *Count) Inc() { c.series.add(1) }

// Add adds an amount. What is below 0 adds nothing.
func (c *Count) Add(amount int64) {
	if amount > 0 {
		c.series.add(float64(amount))
	}
}

// Value is the sum so far.
func (c *Count) Value() float64 { return math.Float64frombits(c.series.bits.Load()) }

// Gauge is a state, by label values.
type Gauge struct{ family *family }

// With returns the level of these label values, as Counter.With does.
func (g *Gauge) With(values ...string) *Level { return &Level{g.family.with(values)} }

// Set sets the level of these label values.
func (g *Gauge) Set(value float64, values ...string) { g.With(values...).Set(value) }

// Level is a number that goes up and down.
type Level struct{ series *series }

// Set replaces the number.
func (l *Level) Set(value float64) { l.series.bits.Store(math.Float64bits(value)) }

// Add changes the number by an amount.
func (l *Level) Add(amount float64) { l.series.add(amount) }

// Value is the number.
func (l *Level) Value() float64 { return math.Float64frombits(l.series.bits.Load()) }
