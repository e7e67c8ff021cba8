package serve

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"cagebuild.dev/runtime/internal/host/admin"
	"cagebuild.dev/runtime/internal/host/egress"
	"cagebuild.dev/runtime/internal/host/enclave"
	"cagebuild.dev/runtime/internal/host/ingress"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/rules"
	"cagebuild.dev/runtime/internal/transport"
)

// server is everything that carries traffic. The guest that it carries it to may change.
type server struct {
	options  Options
	registry *metrics.Registry
	inward   *relay.Relay // clients' connections
	outward  *relay.Relay // the guest's
	ingress  *ingress.Server
	egress   *egress.Server
	admin    *admin.Server
	place    atomic.Pointer[enclave.Place]
	restarts *metrics.Counter
}

func newServer(options Options) (*server, error) {
	options.fitFiles()
	allowed, err := rules.Parse(options.Cage.Egress)
	if err != nil {
		return nil, fmt.Errorf("egress of the image: %w", err)
	}
	s := &server{options: options, registry: metrics.NewRegistry()}
	if s.inward, err = relay.New(relay.Options{}); err != nil {
		return nil, err
	}
	if s.outward, err = relay.New(relay.Options{}); err != nil {
		s.inward.Close()
		return nil, err
	}
	s.ingress = ingress.New(ingress.Options{
		Guest: s.guest, Relay: s.inward, MaxConnections: options.MaxConnections, AcceptProxy: options.AcceptProxy,
		Journal: options.Journal, Metrics: s.registry,
	})
	s.egress = egress.New(egress.Options{
		Rules: allowed, Relay: s.outward, MaxConnections: options.MaxEgressConnections, Timeout: options.EgressTimeout,
		Journal: options.Journal, Metrics: s.registry,
	})
	s.admin = admin.New(admin.Options{Guest: s.guest, Journal: options.Journal, Metrics: s.registry})
	s.describe()
	return s, nil
}

// describe registers what is not counted by the parts.
func (s *server) describe() {
	s.restarts = s.registry.Counter("cage_host_enclave_starts_total", "Enclaves started, by how that ended.", "result")
	started := float64(time.Now().Unix())
	s.registry.GaugeFunc("cage_host_start_time_seconds", "When this program started.", func() float64 { return started })
	s.registry.GaugeFunc("cage_host_enclave_running", "Whether there is an enclave.", func() float64 {
		if s.place.Load() == nil {
			return 0
		}
		return 1
	})
	version := "unknown"
	if build, known := debug.ReadBuildInfo(); known {
		version = build.GoVersion
	}
	s.registry.Gauge("cage_host_info", "What runs here.", "cage", "go").Set(1, s.options.Cage.Name, version)
}

func (s *server) guest() (transport.Address, bool) {
	place := s.place.Load()
	if place == nil {
		return transport.Address{}, false
	}
	return place.Guest, true
}

// listen opens what is there for as long as the server is: clients come to the same address, whatever the enclave does.
func (s *server) listen() error {
	var words []string
	for _, publication := range s.options.Publications {
		where, err := s.ingress.Listen(publication)
		if err != nil {
			return fmt.Errorf("publish %v: %w", publication, err)
		}
		words = append(words, fmt.Sprintf("%v -> %d", where, publication.Port))
	}
	if len(words) > 0 {
		s.options.Journal.Line("clients: %s", strings.Join(words, ", "))
	} else {
		s.options.Journal.Line("clients: none, for the cage has no ingress")
	}
	if s.options.Admin != nil {
		where, err := s.admin.Listen(*s.options.Admin)
		if err != nil {
			return fmt.Errorf("admin at %v: %w", s.options.Admin, err)
		}
		s.options.Journal.Line("admin: %v", where)
	}
	return nil
}

// drain takes no more clients and waits for those that are there.
func (s *server) drain(ends Ends) {
	s.admin.Drain()
	s.ingress.Close()
	open := s.inward.Open()
	s.options.Journal.Line("ending: %d connections of clients have %v left", open, s.options.DrainTimeout)
	ctx, cancel := context.WithTimeout(ends.AtOnce, s.options.DrainTimeout)
	defer cancel()
	if err := s.ingress.Drain(ctx); err != nil {
		s.options.Journal.Line("connections of clients were cut off: %v", err)
	}
}

// close ends everything. The egress listeners have to be closed before.
func (s *server) close() {
	s.ingress.Close()
	s.ingress.Abort()
	s.egress.Close()
	s.inward.Close()
	s.outward.Close()
	s.admin.Close()
}
