package serve

import (
	"context"
	"errors"
	"time"

	"cagebuild.dev/runtime/internal/host/client"
	"cagebuild.dev/runtime/internal/host/enclave"
)

// Fixed carries the traffic of an enclave that somebody else starts, until one of the ends.
func Fixed(ends Ends, options Options, place enclave.Place) error {
	s, err := newServer(options)
	if err != nil {
		return err
	}
	defer s.close()
	streams, err := s.egress.Listen(place.Parent, place.CID)
	if err != nil {
		return errors.Join(errors.New("the guest's streams"), err)
	}
	defer streams.Close()
	options.Journal.Line("guest: %v; its streams: %v", place.Guest, streams.Addr())
	s.place.Store(&place)
	if err := s.listen(); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ends.Orderly)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.watch(watching, client.New(place.Guest))
	}()
	<-ends.Orderly.Done()
	<-done
	s.drain(ends)
	return nil
}

const (
	watchEvery   = 5 * time.Second
	watchTimeout = 10 * time.Second
)

// watch says when the guest's health changes, until the context ends.
func (s *server) watch(ctx context.Context, guest *client.Client) {
	said := ""
	for {
		state := stateOf(ctx, guest)
		if ctx.Err() != nil {
			return
		}
		if state != said {
			s.options.Journal.Line("guest: %s", state)
			said = state
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchEvery):
		}
	}
}

func stateOf(ctx context.Context, guest *client.Client) string {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	health, err := guest.Health(ctx)
	if err != nil {
		return err.Error()
	}
	return health.Line()
}
