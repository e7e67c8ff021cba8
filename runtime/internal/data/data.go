// Package data is the data service of a cage: all that goes in and out of it.
//
// Streams of the host come in at one listener: clients' connections for the app's ports, and requests of the
// parent (package control). What the app opens goes out by package egress. The app itself asks at a port on
// loopback (package api). The app starts when this service is ready, and goes on when it is started again.
package data

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/api"
	"cagebuild.dev/runtime/internal/certificate"
	"cagebuild.dev/runtime/internal/control"
	"cagebuild.dev/runtime/internal/data/ready"
	"cagebuild.dev/runtime/internal/egress"
	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/ingress"
	"cagebuild.dev/runtime/internal/logs"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/rules"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/secrets"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/transport"
)

// Options of the service. What is empty is as it is in an enclave.
type Options struct {
	Listen string // URL at which the host opens streams; default vsock://any:9001
	Parent string // URL at which the host takes streams; default vsock://3:<10000 + own CID>
	NSM    string // path of the device, or the URL of a stand-in

	Settings string // path of cage.json
	Folder   string // for sockets and files of the service; default /run/cage
	Resolver string // where names are resolved; default 127.0.0.1:53
	API      string // where the app asks; default 127.0.0.1:9001
	Stop     func() // begins to end the enclave; nil: it can't be asked for

	// App is the service's folder of the app, with what is known of its restarts; default /cage/service/app.
	App string
}

// drain is how long what is under way may take when the service is to end.
const drain = 6 * time.Second

// Run serves until the context ends, then lets what is under way come to its end, for some seconds.
func Run(ctx context.Context, options Options) error {
	s, err := newService(options)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.prepare(); err != nil {
		return err
	}
	return s.serve(ctx)
}

// service is the parts, in the order in which they come to be. What the cage has no use for is nil.
type service struct {
	options   Options
	settings  *settings.Settings
	addresses addresses
	registry  *metrics.Registry
	rules     *rules.Set
	module    *nsm.Device
	ring      *logs.Ring
	relay     *relay.Relay
	keys      *certificate.Store
	secrets   *secrets.Store
	monitor   *health.Monitor
	egress    *egress.Egress
	ingress   *ingress.Ingress
	control   *control.Server
	api       *api.Server
	loopback  net.Listener // of api
	door      *door

	again bool // it was ready before, and the app may run
	fatal chan error
	group sync.WaitGroup
}

func newService(options Options) (*service, error) {
	options.Settings = cmp.Or(options.Settings, settings.Path)
	options.Folder = cmp.Or(options.Folder, filepath.Dir(ready.File))
	options.API = cmp.Or(options.API, api.Address)
	options.App = cmp.Or(options.App, appFolder)
	s := &service{options: options, registry: metrics.NewRegistry(), fatal: make(chan error, 8)}
	var err error
	if s.settings, err = settings.Load(options.Settings); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	if s.rules, err = rules.Parse(s.settings.Egress); err != nil {
		return nil, fmt.Errorf("settings: egress: %w", err)
	}
	if s.addresses, err = findAddresses(options.Listen, options.Parent); err != nil {
		return nil, err
	}
	return s, nil
}

// path is that of a file in the service's folder.
func (s *service) path(name string) string { return filepath.Join(s.options.Folder, name) }

// prepare makes the parts that don't depend on the time of day.
func (s *service) prepare() error {
	if err := os.MkdirAll(s.options.Folder, 0o755); err != nil {
		return err
	}
	s.again = ready.Was(s.path("ready"))
	if s.settings.Logs {
		s.ring = logs.New(logs.Size)
		say.Also(s.ring.Add)
	}
	raiseFileLimit()
	if err := s.openModule(); err != nil {
		return err
	}
	if s.addresses.listen == nil && s.needsHost() {
		say.Line("data: there is no vsock: nothing comes in or goes out")
	}
	var err error
	if s.relay, err = relay.New(relay.Options{}); err != nil {
		return err
	}
	s.registry.GaugeFunc("cage_pairs_open", "Pairs of connections that bytes move between.",
		func() float64 { return float64(s.relay.Open()) })
	s.registry.CounterFunc("cage_app_restarts_total", "Ends of the app when it was to run.",
		func() float64 { return float64(s.restarts()) })
	if s.secrets, err = secrets.NewStore(s.settings.Secrets.Env, s.settings.Secrets.Files); err != nil {
		return err
	}
	s.monitor = health.New(s.settings.Ingress)
	return nil
}

// needsHost reports whether the cage has a use for anything that the host does. One that hasn't runs as well
// without it, and nothing is said about that.
func (s *service) needsHost() bool {
	return len(s.settings.Ingress)+len(s.settings.Egress)+s.countSecrets() > 0 || s.settings.Logs
}

func (s *service) countSecrets() int {
	return len(s.settings.Secrets.Env) + len(s.settings.Secrets.Files)
}

// terminates reports whether TLS ends here at any port.
func (s *service) terminates() bool {
	for _, port := range s.settings.Ingress {
		if port.TLS == "terminate" {
			return true
		}
	}
	return false
}

func (s *service) openModule() error {
	module, err := nsm.Open(cmp.Or(s.options.NSM, nsm.Path))
	if errors.Is(err, os.ErrNotExist) {
		if s.terminates() || s.countSecrets() > 0 {
			say.Line("data: there is no NSM: nothing is attested")
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("NSM: %w", err)
	}
	s.module = module
	return nil
}

// attester is the NSM as those want it who go on without: nil, and not a nil pointer in an interface.
func (s *service) attester() nsm.Attester {
	if s.module == nil {
		return nil
	}
	return s.module
}

// serve sets the clock, starts everything, says that it is ready, and waits for the end.
func (s *service) serve(ctx context.Context) error {
	running, cancel := context.WithCancel(context.Background())
	defer s.group.Wait()
	defer cancel()
	keeper, next := s.setClock(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err := s.listen(); err != nil {
		return err
	}
	s.start(running)
	if keeper != nil {
		s.group.Go(func() { keeper.Keep(running, next) })
	}
	if err := ready.Mark(s.path("ready")); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		s.drain()
		return nil
	case err := <-s.fatal:
		return err
	}
}

// listen makes the parts that need the time of day, and binds all that is listened at.
func (s *service) listen() (err error) {
	if s.terminates() {
		if s.keys, err = certificate.New(certificate.Options{Name: s.settings.Name, Attester: s.attester()}); err != nil {
			return err
		}
	}
	if s.ingress, err = ingress.New(s.ingressOptions()); err != nil {
		return err
	}
	if s.egress, err = egress.New(s.egressOptions()); err != nil {
		return err
	}
	if err = s.egress.Start(); err != nil {
		return err
	}
	if s.loopback, err = net.Listen("tcp", s.options.API); err != nil {
		return fmt.Errorf("local API: %w", err)
	}
	s.api = api.New(s.apiOptions())
	s.control = control.New(s.controlOptions())
	if s.addresses.listen == nil {
		return nil
	}
	listener, err := s.addresses.listen.Listen()
	if err != nil {
		return err
	}
	s.door = newDoor(listener, s.addresses.ownCID, s.registry)
	s.door.ingress, s.door.control = s.ingress.Handle, s.control.Serve
	return nil
}

// start has all parts run until the context ends, or until drain has ended them. One that fails ends the
// service, and runit starts it anew.
func (s *service) start(ctx context.Context) {
	s.run("egress", func() error { return s.egress.Run(ctx) })
	s.run("local API", func() error { return s.api.Serve(s.loopback) })
	s.run("health", func() error { s.monitor.Run(ctx); return nil })
	if s.countSecrets() > 0 {
		s.run("secrets", func() error { return s.secrets.Serve(ctx, s.path(filepath.Base(secrets.Socket))) })
	}
	if s.ring != nil {
		s.run("log", func() error { return s.ring.Receive(ctx, s.path(filepath.Base(logs.Socket))) })
	}
	if s.keys != nil {
		s.run("certificate", func() error { s.keys.Run(ctx); return nil })
	}
	if s.door != nil {
		s.run("streams", s.door.serve)
	}
}

func (s *service) run(name string, part func() error) {
	s.group.Go(func() {
		if err := part(); err != nil {
			select {
			case s.fatal <- fmt.Errorf("%s: %w", name, err):
			default: // one failure is enough to end it all
			}
		}
	})
}

// drain takes nothing more and waits, for some seconds, until what is under way has come to its end.
func (s *service) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if s.door != nil {
		s.door.close()
	}
	var group sync.WaitGroup
	for _, part := range []func(context.Context) error{
		s.ingress.Drain, s.egress.Drain, s.control.Shutdown, s.api.Shutdown,
	} {
		group.Go(func() { _ = part(ctx) }) // what it was late for it has reset
	}
	group.Wait()
	_ = s.relay.Drain(ctx)
}

// close ends what is left of all parts that there are.
func (s *service) close() {
	ended, cancel := context.WithCancel(context.Background())
	cancel() // no more patience
	if s.door != nil {
		s.door.close()
	}
	if s.control != nil {
		_ = s.control.Shutdown(ended)
	}
	if s.api != nil {
		_ = s.api.Shutdown(ended)
	}
	if s.loopback != nil {
		_ = s.loopback.Close()
	}
	if s.egress != nil {
		_ = s.egress.Drain(ended)
	}
	if s.ingress != nil {
		s.ingress.Close()
	}
	if s.relay != nil {
		s.relay.Close()
	}
	if s.door != nil {
		s.door.wait()
	}
	if s.module != nil {
		_ = s.module.Close()
	}
}

// manyFiles is how many descriptors the service may have: each connection takes two to four.
const manyFiles = 1 << 17

// raiseFileLimit lifts a limit that the kernel sets at 4096 for the first process. Without the right to it
// stays as it is, and so do the rest.
func raiseFileLimit() {
	limit := syscall.Rlimit{Cur: manyFiles, Max: manyFiles}
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err == nil && now.Cur < manyFiles {
		limit.Max = max(limit.Max, now.Max)
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

// parent is where streams go; without a vsock to a port where nobody answers.
func (s *service) parent() transport.Address {
	if s.addresses.parent != nil {
		return *s.addresses.parent
	}
	return transport.Address{Scheme: "vsock", CID: parentCID, Port: parentBase}
}
