package metrics

import (
	"bufio"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ContentType is that of WriteText's format.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeValue = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// WriteText writes all metrics in Prometheus' text format 0.0.4, sorted by name, then by label values.
// https://prometheus.io/docs/instrumenting/exposition_formats/
func (r *Registry) WriteText(to io.Writer) error {
	text := bufio.NewWriter(to)
	for _, family := range r.sorted() {
		family.write(text)
	}
	return text.Flush()
}

func (r *Registry) sorted() []*family {
	if r == nil {
		return nil
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	found := make([]*family, 0, len(r.families))
	for _, family := range r.families {
		found = append(found, family)
	}
	slices.SortFunc(found, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	return found
}

// write writes one family, or nothing if it has no series. Errors stay with the buffer until it is flushed.
func (f *family) write(text *bufio.Writer) {
	ask := f.ask.Load()
	all := f.all()
	if ask == nil && len(all) == 0 {
		return
	}
	_, _ = text.WriteString("# HELP " + f.name + " " + escapeHelp.Replace(f.help) + "\n")
	_, _ = text.WriteString("# TYPE " + f.name + " " + string(f.kind) + "\n")
	if ask != nil {
		_, _ = text.WriteString(f.name + " " + number((*ask)()) + "\n")
		return
	}
	for _, series := range all {
		_, _ = text.WriteString(f.name)
		for index, label := range f.labels {
			before := ","
			if index == 0 {
				before = "{"
			}
			_, _ = text.WriteString(before + label + `="` + escapeValue.Replace(series.values[index]) + `"`)
		}
		if len(f.labels) > 0 {
			_ = text.WriteByte('}')
		}
		_, _ = text.WriteString(" " + number(math.Float64frombits(series.bits.Load())) + "\n")
	}
}

func (f *family) all() []*series {
	f.mutex.RLock()
	defer f.mutex.RUnlock()
	found := make([]*series, 0, len(f.series))
	for _, series := range f.series {
		found = append(found, series)
	}
	slices.SortFunc(found, func(a, b *series) int { return slices.Compare(a.values, b.values) })
	return found
}

func number(value float64) string {
	switch {
	case math.IsInf(value, 1):
		return "+Inf"
	case math.IsInf(value, -1):
		return "-Inf"
	case value == math.Trunc(value) && math.Abs(value) < 1<<53:
		return strconv.FormatInt(int64(value), 10)
	}
	return strconv.FormatFloat(value, 'g', -1, 64)
}
