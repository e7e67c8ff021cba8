// Package egress is the way out of an enclave, for its app. Whatever no rule allows has none.
//
// A resolver answers for allowed names alone, with a loopback address of its own for each. There this package
// listens on the allowed ports, and asks the parent for a stream to that name and port for each connection.
// Addresses and networks that a rule allows are made local, so that connections to them end here, too. The
// app needs to know nothing of all this.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/dns"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/relay"
	"cagebuild.dev/runtime/internal/rules"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/transport"
)

// Options of an Egress. What has a default may be left out.
type Options struct {
	Rules    *rules.Set        // what is allowed
	Name     string            // the enclave's host name, which is 127.0.0.1
	Parent   transport.Address // where streams are opened
	Relay    *relay.Relay      // moves the bytes; it stays the caller's
	State    string            // the file that keeps names' addresses, absolute; "": they last as long as the process
	Resolver string            // where the resolver listens; default 127.0.0.1:53
	Metrics  *metrics.Registry // nil: nobody reads them

	MaxConns    int           // connections at once; default 16384
	MaxOpenings int           // of them, those that the parent hasn't opened yet; default 2048
	MaxNames    int           // names with an address; default and most 65536
	OpenTimeout time.Duration // for the parent to open a stream; default 30 s
}

const (
	defaultResolver    = "127.0.0.1:53"
	defaultMaxConns    = 16384
	defaultMaxOpenings = 2048
	defaultOpenTimeout = 30 * time.Second
	maxNames           = 1 << 16
	maxListeners       = 1 << 16
)

// Egress is the way out.
type Egress struct {
	options   Options
	counts    counts
	notes     *notes
	names     *names
	resolver  *dns.Server
	acceptor  *acceptor
	anyPorts  map[netip.AddrPort]bool // ports that are listened on at all addresses of a family
	listening map[netip.AddrPort]bool // exactly bound
	binding   sync.Mutex              // guards listening

	context context.Context // ends the openings
	cancel  context.CancelFunc
	flow    *flow
}

// New checks the options and reads the state. Nothing is listened on before Start.
func New(options Options) (*Egress, error) {
	if options.Rules == nil || options.Relay == nil {
		return nil, errors.New("egress needs rules and a relay")
	}
	setDefault(&options.Resolver, defaultResolver)
	setDefault(&options.MaxConns, defaultMaxConns)
	setDefault(&options.MaxOpenings, defaultMaxOpenings)
	setDefault(&options.MaxNames, maxNames)
	setDefault(&options.OpenTimeout, defaultOpenTimeout)
	if options.MaxNames > maxNames {
		return nil, fmt.Errorf("egress: %d names, at most %d", options.MaxNames, maxNames)
	}
	e := &Egress{
		options:   options,
		notes:     newNotes(time.Now, say.Line),
		anyPorts:  map[netip.AddrPort]bool{},
		listening: map[netip.AddrPort]bool{},
	}
	e.flow = newFlow(options.MaxConns, options.MaxOpenings)
	e.counts = newCounts(options.Metrics, e.flow)
	e.context, e.cancel = context.WithCancel(context.Background())
	if options.Rules.Empty() {
		return e, nil
	}
	var err error
	if e.names, err = openNames(options.State, options.MaxNames, options.Rules); err != nil {
		e.cancel()
		return nil, fmt.Errorf("egress: %w", err)
	}
	return e, nil
}

func setDefault[T comparable](value *T, standard T) {
	var zero T
	if *value == zero {
		*value = standard
	}
}

// Start binds all that is to be listened on: when it has returned, the app can be started. Without rules that
// is nothing. A rule that can't be served (its port is taken, the kernel has no IPv6) costs a line in the log
// and nothing else; a resolver or a state that doesn't work is an error.
func (e *Egress) Start() error {
	if e.options.Rules.Empty() {
		return nil
	}
	if err := e.start(); err != nil {
		e.stop()
		return fmt.Errorf("egress: %w", err)
	}
	return nil
}

func (e *Egress) start() (err error) {
	if e.acceptor, err = newAcceptor(listenerLimit(), e.accepted, e.notes); err != nil {
		return err
	}
	e.resolver, err = dns.Listen(e.options.Resolver, dns.Options{
		Handler:  e.resolve,
		Answered: func(code dns.Code) { e.counts.queries.Inc(code.String()) },
	})
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	if e.options.Rules.HasNames() {
		e.configure()
	}
	e.serveNetworks()
	return e.serveNames()
}

// listenerLimit leaves half of the descriptors that this process may have to connections.
func listenerLimit() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur/2 > maxListeners {
		return maxListeners
	}
	return int(limit.Cur / 2)
}

// serveNames gives every name that is allowed by itself its address, in the order of the alphabet and so the
// same in every enclave of this image, and listens there, and for what the state has.
func (e *Egress) serveNames() error {
	for _, name := range e.options.Rules.Names() {
		if isOwn(name, e.options.Name) {
			e.notes.say("own", "egress: the rules for %s are of no use: this is the enclave's own name", name)
			continue
		}
		switch _, err := e.names.add(name); {
		case errors.Is(err, errFull):
			e.notes.say("full", "egress: %s: %v", name, err)
		case err != nil:
			return err
		}
	}
	for name, address := range e.names.all() {
		if _, err := e.serveName(name, address); err != nil {
			e.notes.say("failed "+name, "egress: %s: %v", name, err)
		}
	}
	return nil
}

// Run serves until the context ends, then accepts nothing more and returns nil: what is open goes on. Start
// has to be called before.
func (e *Egress) Run(ctx context.Context) error {
	if e.acceptor == nil {
		<-ctx.Done()
		return nil
	}
	failure := make(chan error, 2)
	go func() { failure <- e.resolver.Serve() }()
	go func() { failure <- e.acceptor.run() }()
	var err error
	rest := 2
	select {
	case <-ctx.Done():
	case err = <-failure:
		rest--
	}
	e.stop()
	for range rest {
		err = errors.Join(err, <-failure)
	}
	if err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	return nil
}

// stop ends the listeners.
func (e *Egress) stop() {
	if e.resolver != nil {
		_ = e.resolver.Close()
	}
	if e.acceptor != nil {
		e.acceptor.close()
	}
	if e.names != nil {
		e.names.close()
	}
}

// Drain accepts nothing more and returns when no connection is left. When the context ends first, openings are
// given up, and it returns the context's error; those connections that the relay has are left to its own Drain.
func (e *Egress) Drain(ctx context.Context) error {
	defer e.cancel()
	e.stop()
	active, opening := e.flow.whenIdle()
	select {
	case <-active:
		return nil
	case <-ctx.Done():
		e.cancel()
		<-opening
		return ctx.Err()
	}
}
