package data

import (
	"context"
	"net/netip"
	"time"

	"cagebuild.dev/runtime/internal/api"
	"cagebuild.dev/runtime/internal/clock"
	"cagebuild.dev/runtime/internal/control"
	"cagebuild.dev/runtime/internal/egress"
	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/ingress"
	"cagebuild.dev/runtime/internal/kms"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/secrets"
	runit "cagebuild.dev/runtime/internal/service"
)

// appFolder is the runit service of the app.
const appFolder = runit.Folder + "/" + runit.App

func (s *service) restarts() int { return runit.Restarts(s.options.App) }

func (s *service) report() health.Report { return s.monitor.Report(s.restarts(), s.secrets.Missing()) }

func (s *service) ingressOptions() ingress.Options {
	options := ingress.Options{Ports: s.settings.Ingress, Relay: s.relay, Metrics: s.registry}
	if s.keys != nil {
		options.Certificates = s.keys
	}
	return options
}

func (s *service) egressOptions() egress.Options {
	return egress.Options{
		Rules:    s.rules,
		Name:     s.settings.Name,
		Parent:   s.parent(),
		Relay:    s.relay,
		State:    s.path("egress"),
		Resolver: s.options.Resolver,
		Metrics:  s.registry,
	}
}

func (s *service) controlOptions() control.Options {
	options := control.Options{
		Health:   s.report,
		Metrics:  s.registry,
		Attester: s.attester(),
		Stop:     s.options.Stop,
	}
	if s.ring != nil {
		options.Logs = s.ring
	}
	if s.keys != nil {
		options.Certificates = s.keys
	}
	if s.countSecrets() > 0 {
		options.Secrets = &vault{store: s.secrets, restart: s.restartApp}
		options.SecretTypes = []string{secrets.MediaTypeJSON, secrets.MediaTypeSealed}
		options.MaxSecrets = max(secrets.MaxJSON, secrets.MaxSealed)
	}
	return options
}

func (s *service) restartApp() {
	if err := runit.Tell(s.options.App, 't'); err != nil {
		say.Line("data: start the app again: %v", err)
	}
}

func (s *service) apiOptions() api.Options {
	options := api.Options{Health: s.report, Metrics: s.registry}
	if s.module == nil {
		return options
	}
	options.Module = s.module
	options.Decrypt = kms.Handler(&kms.Decrypter{
		Attester: s.module,
		Allowed:  s.allowed,
		Roots:    kms.Roots(s.settings.Env),
	})
	return options
}

// allowed reports whether egress lets a name or an address through.
func (s *service) allowed(host string, port uint16) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return s.rules.Address(address, port)
	}
	return s.rules.Name(host, port)
}

const (
	// clockPatience is how long the start waits for a clock that can't be checked yet: a host that comes up
	// at the same time, say. The app may start without.
	clockPatience = 5 * time.Second
	clockPause    = 200 * time.Millisecond
)

// setClock checks the clock for the first time, and corrects it, and returns who keeps it right and when to
// look next; nil if there is nobody to ask. Only a machine that is the cage's own has a clock to be changed:
// one with a vsock.
func (s *service) setClock(ctx context.Context) (*clock.Keeper, time.Duration) {
	if s.addresses.parent == nil {
		return nil, 0
	}
	options := clock.Options{
		Parent:  clock.AskParent(*s.addresses.parent),
		Epoch:   time.Unix(s.settings.Epoch, 0),
		Forward: !s.again,
		Metrics: s.registry,
	}
	patience := time.Duration(0)
	if s.addresses.parent.Scheme == "vsock" {
		options.Clock, patience = clock.Kernel{}, clockPatience
		options.PTP = clock.FindPTP("/sys", "/dev")
	}
	if s.module != nil {
		options.NSM = clock.AskNSM(s.moduleTime)
	}
	keeper := clock.New(options)
	deadline := time.Now().Add(patience)
	for {
		next, err := keeper.Check(ctx)
		if err == nil || ctx.Err() != nil {
			return keeper, next
		}
		if !time.Now().Before(deadline) {
			keeper.Complain(err)
			keeper.Started()
			return keeper, next
		}
		select {
		case <-ctx.Done():
		case <-time.After(clockPause):
		}
	}
}

func (s *service) moduleTime() (time.Time, error) {
	document, err := s.module.Attest(nsm.Request{})
	if err != nil {
		return time.Time{}, err
	}
	return nsm.Timestamp(document)
}
