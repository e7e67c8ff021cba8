package admin

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ownPrefix begins the names of the host's own metrics. The guest can't have such.
const ownPrefix = "cage_host_"

// maxSeries is how many series of a guest are passed on.
const maxSeries = 20_000

var (
	sample = regexp.MustCompile(
		`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\[\\"n])*",?)*\})? ([^ ]+)$`)
	described = regexp.MustCompile(`^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)$`)
)

type family struct {
	help, kind string
	lines      []string
}

// Clean returns of a guest's metrics (Prometheus' text format 0.0.4) what is right, so that whoever reads the whole
// can read the host's: counters, gauges and metrics without a type, each family in one piece, each series once and
// without a time, and none that has a name of the host's.
func Clean(text []byte) []byte {
	families := map[string]*family{}
	var order []string
	find := func(name string) *family {
		if families[name] == nil {
			families[name] = &family{}
			order = append(order, name)
		}
		return families[name]
	}
	seen := map[string]bool{}
	for raw := range bytes.Lines(text) {
		line := strings.TrimSuffix(string(raw), "\n")
		if !utf8.ValidString(line) || strings.ContainsAny(line, "\r\x00") {
			continue
		}
		if words := described.FindStringSubmatch(line); words != nil {
			if strings.HasPrefix(words[2], ownPrefix) || len(order) >= maxSeries {
				continue
			}
			switch found := find(words[2]); {
			case words[1] == "HELP" && validHelp(words[3]):
				found.help = words[3]
			case words[3] == "counter" || words[3] == "gauge":
				found.kind = words[3]
			}
			continue
		}
		words := sample.FindStringSubmatch(line)
		if words == nil || strings.HasPrefix(words[1], ownPrefix) {
			continue
		}
		series := words[1] + words[2]
		if _, err := strconv.ParseFloat(words[3], 64); err != nil || seen[series] || len(seen) >= maxSeries {
			continue
		}
		seen[series] = true
		found := find(words[1])
		found.lines = append(found.lines, line)
	}
	var out bytes.Buffer
	for _, name := range order {
		found := families[name]
		if len(found.lines) == 0 {
			continue
		}
		if found.help != "" {
			fmt.Fprintf(&out, "# HELP %s %s\n", name, found.help)
		}
		if found.kind != "" {
			fmt.Fprintf(&out, "# TYPE %s %s\n", name, found.kind)
		}
		for _, line := range found.lines {
			out.WriteString(line)
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// validHelp reports whether every backslash of a text begins one of the format's two escapes.
func validHelp(text string) bool {
	rest := strings.NewReplacer(`\\`, "", `\n`, "").Replace(text)
	return !strings.Contains(rest, `\`)
}
