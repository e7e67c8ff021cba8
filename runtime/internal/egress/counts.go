package egress

import (
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/wire"
)

// counts are the metrics. Label values are of fixed sets, whatever the parent or the app say.
type counts struct {
	opened  *metrics.Counter
	out, in *metrics.Count
	refused *metrics.Counter
	queries *metrics.Counter
	denied  *metrics.Counter
}

func newCounts(registry *metrics.Registry, flow *flow) counts {
	bytes := registry.Counter("cage_egress_bytes_total", "Bytes of ended connections, by direction.", "direction")
	counts := counts{
		opened: registry.Counter("cage_egress_connections_total", "Connections of the app that the parent opened."),
		out:    bytes.With("out"),
		in:     bytes.With("in"),
		refused: registry.Counter(
			"cage_egress_refused_total", "Connections of the app that were reset unopened, by reason.", "reason"),
		queries: registry.Counter("cage_dns_queries_total", "DNS queries, by response code.", "result"),
		denied:  registry.Counter("cage_egress_names_denied_total", "DNS queries for names that no rule allows."),
	}
	registry.GaugeFunc("cage_egress_connections", "Connections of the app that are open, or being opened.",
		func() float64 { return float64(flow.activeNow()) })
	return counts
}

// noParent is the reason for a refusal when the parent can't be reached or doesn't speak the protocol.
const noParent wire.Code = "no-parent"

// reason makes one of a fixed set of what the parent said.
func reason(code wire.Code) wire.Code {
	switch code {
	case wire.Denied, wire.NotFound, wire.Refused, wire.Unreachable, wire.TimedOut, wire.Busy, noParent:
		return code
	default:
		return wire.Failed
	}
}
