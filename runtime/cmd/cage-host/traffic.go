package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/host/eif"
	"cagebuild.dev/runtime/internal/host/enclave"
	"cagebuild.dev/runtime/internal/host/ingress"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/host/serve"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/vsock"
)

// traffic is the flags that run and serve share.
type traffic struct {
	eif                     *string
	publish                 list
	acceptProxy             *bool
	admin                   *string
	connections, streams    *int
	egressTimeout, draining *time.Duration
}

func (f *flags) traffic() *traffic {
	t := &traffic{
		eif: f.String("eif", "", "the image, a `FILE` that \"invoke build\" has made: it says what goes in and out. Required"),
		acceptProxy: f.Bool("accept-proxy-protocol", false,
			"every client's connection begins with a PROXY protocol header, version 2: for a load balancer\n"+
				"in front that sends one. Whoever else reaches the port could claim any address"),
		admin: f.String("admin", "127.0.0.1:9100",
			"`ADDRESS:PORT` or unix:// URL of the HTTP server with /health, /ready and /metrics; \"none\" for none"),
		connections: f.number("max-connections", 16384, 1, 1<<20, "how many clients may be connected at once; `N` above 0"),
		streams: f.number("max-egress-connections", 16384, 1, 1<<20,
			"how many streams the guest may have open at once; `N` above 0"),
		egressTimeout: f.Duration("egress-timeout", 10*time.Second,
			"how long resolving a destination's name and connecting to it may take together"),
		draining: f.Duration("drain-timeout", 30*time.Second, "how long clients have at the end before they are cut off"),
	}
	f.Var(&t.publish, "publish",
		"`[WHERE]=PORT`: where clients come for a port of the cage: ADDRESS:PORT, or a URL of tcp, unix or vsock;\n"+
			"may be given several times. Without, every port is published as the same port of all addresses")
	return t
}

func (t *traffic) options(cage *eif.Cage) (serve.Options, error) {
	publications, err := ingress.Publications(t.publish.values, cage.Ingress)
	if err != nil {
		return serve.Options{}, usagef("--publish: %w", err)
	}
	options := serve.Options{
		Cage: cage, Publications: publications, AcceptProxy: *t.acceptProxy,
		MaxConnections: *t.connections, MaxEgressConnections: *t.streams,
		EgressTimeout: *t.egressTimeout, DrainTimeout: *t.draining,
		Journal: journal.Standard,
	}
	if *t.egressTimeout <= 0 || *t.draining < 0 {
		return serve.Options{}, usagef("--egress-timeout has to be above 0, --drain-timeout not below")
	}
	if *t.admin != "none" {
		address, err := ingress.ParseWhere(*t.admin)
		if err != nil {
			return serve.Options{}, usagef("--admin: %w", err)
		}
		options.Admin = &address
	}
	return options, nil
}

func (t *traffic) load() (*eif.Cage, error) {
	if *t.eif == "" {
		return nil, usagef("which image? --eif FILE")
	}
	return eif.Load(*t.eif)
}

// ends makes contexts of signals: the first ends the program in order, the second at once.
func ends() (serve.Ends, func()) {
	orderly, end := context.WithCancel(context.Background())
	atOnce, endNow := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	// Lines that nobody reads any more must not end the program, for with it the traffic would end.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		for count := 0; ; count++ {
			select {
			case received := <-signals:
				if count == 0 {
					journal.Standard.Line("%v: ending in order; once more ends at once", received)
					end()
				} else {
					journal.Standard.Line("%v: ending at once", received)
					endNow()
				}
			case <-done:
				return
			}
		}
	}()
	return serve.Ends{Orderly: orderly, AtOnce: atOnce}, func() { close(done); end(); endNow() }
}

func serveFixed(arguments []string) error {
	f := newFlags("serve", "", "Carries the traffic of an enclave that was started elsewhere, until SIGTERM. Either --cid, or --guest and --listen.")
	t, at := f.traffic(), f.target()
	listen := f.String("listen", "",
		"`URL` at which the guest's own streams arrive. With vsock 10000 and the guest's CID is the port that it dials,\n"+
			"and the default")
	if _, err := f.parse(arguments, 0, 0); err != nil {
		return err
	}
	place, err := at.place(*listen)
	if err != nil {
		return err
	}
	cage, err := t.load()
	if err != nil {
		return err
	}
	options, err := t.options(cage)
	if err != nil {
		return err
	}
	until, release := ends()
	defer release()
	return serve.Fixed(until, options, place)
}

// place is where the streams of an enclave go that was started elsewhere.
func (t target) place(listen string) (enclave.Place, error) {
	guest, err := t.address()
	if err != nil {
		return enclave.Place{}, err
	}
	place := enclave.Place{Guest: guest}
	if guest.Scheme == "vsock" {
		if guest.CID == vsock.Any || guest.CID < enclave.MinCID || guest.CID > maxCID {
			return enclave.Place{}, usagef("--guest: %v is no guest's CID", guest)
		}
		place = enclave.OnVsock(guest.CID)
		place.Guest = guest
	}
	if listen == "" {
		if guest.Scheme != "vsock" {
			return enclave.Place{}, usagef("--guest %v: where do the guest's own streams arrive? --listen URL", guest)
		}
		return place, nil
	}
	if place.Parent, err = transport.Parse(listen); err != nil {
		return enclave.Place{}, usagef("--listen: %w", err)
	}
	if place.Parent.Scheme == "vsock" && place.CID == 0 {
		return enclave.Place{}, usagef("--listen: on vsock only the guest's own CID is let in, and --guest %v has none", guest)
	}
	return place, nil
}
