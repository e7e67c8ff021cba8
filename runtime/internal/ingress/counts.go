package ingress

import (
	"strconv"

	"cagebuild.dev/runtime/internal/metrics"
)

// counts are the metrics of all ports.
type counts struct {
	connections, refused, bytes, handshakes *metrics.Counter
	open                                    *metrics.Gauge
}

// portCounts are those of one.
type portCounts struct {
	connections    *metrics.Count
	received, sent *metrics.Count
	handshakes     *metrics.Count
	refused        *metrics.Counter
	open           *metrics.Level
}

func newCounts(registry *metrics.Registry) counts {
	return counts{
		connections: registry.Counter("cage_ingress_connections_total", "Connections of clients that were taken.", "port"),
		open:        registry.Gauge("cage_ingress_connections", "Connections of clients that are open.", "port"),
		refused: registry.Counter("cage_ingress_refused_total",
			"Connections of clients that were not taken, or not passed on to the app, by reason.", "port", "reason"),
		bytes: registry.Counter("cage_ingress_bytes_total",
			"Bytes from clients (in) and to them (out), as they are on the wire. Without TLS: those of ended connections.",
			"port", "direction"),
		handshakes: registry.Counter("cage_ingress_handshake_failures_total", "TLS handshakes that failed.", "port"),
	}
}

func (c counts) of(port uint16) portCounts {
	name := strconv.Itoa(int(port))
	return portCounts{
		connections: c.connections.With(name),
		open:        c.open.With(name),
		received:    c.bytes.With(name, "in"),
		sent:        c.bytes.With(name, "out"),
		handshakes:  c.handshakes.With(name),
		refused:     c.refused,
	}
}
