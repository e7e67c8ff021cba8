package serve

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cagebuild.dev/runtime/internal/host/client"
	"cagebuild.dev/runtime/internal/host/egress"
	"cagebuild.dev/runtime/internal/host/enclave"
)

const (
	firstDelay = time.Second
	maxDelay   = time.Minute
	wellAfter  = time.Minute // an enclave that answered for so long is as good as one that never failed

	answerEvery = 250 * time.Millisecond
	stopTimeout = 20 * time.Second // the app has ten seconds of it
	followAgain = 5 * time.Second

	stopAttempts = 3
	stopAgain    = 2 * time.Second
)

// RunOptions is what running an enclave needs besides.
type RunOptions struct {
	Driver      enclave.Driver
	BootTimeout time.Duration // until the guest's first answer
	Once        bool          // the end of the enclave is that of the program
	FollowLogs  bool          // pass on the enclave's log, which its settings have to allow
}

// Run starts an enclave, carries its traffic, and starts it again when it ends, until one of the ends.
func Run(ends Ends, options Options, run RunOptions) error {
	if err := run.Driver.Check(ends.Orderly); err != nil {
		return err
	}
	if err := run.Driver.Clean(ends.Orderly); err != nil {
		return err
	}
	s, err := newServer(options)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.listen(); err != nil {
		return err
	}
	delay := time.Duration(0)
	for {
		well, err := s.runOne(ends, run)
		switch {
		case ends.Orderly.Err() != nil && errors.Is(err, errStays):
			return err
		case ends.Orderly.Err() != nil:
			return nil
		case run.Once:
			return fmt.Errorf("the enclave: %w", err)
		}
		delay = nextDelay(delay, well)
		options.Journal.Line("the enclave: %v; next start in %v", err, delay)
		select {
		case <-ends.Orderly.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

func nextDelay(delay, well time.Duration) time.Duration {
	if delay == 0 || well >= wellAfter {
		return firstDelay
	}
	return min(2*delay, maxDelay)
}

// runOne is the life of one enclave. It returns for how long the guest answered, and how the enclave ended.
func (s *server) runOne(ends Ends, run RunOptions) (time.Duration, error) {
	var streams *egress.Listener
	var place enclave.Place
	announce := func(where enclave.Place) (err error) {
		place = where
		streams, err = s.egress.Listen(where.Parent, where.CID)
		return err
	}
	defer func() {
		s.place.Store(nil)
		if streams != nil {
			streams.Close()
		}
	}()
	starting, cancel := context.WithTimeout(ends.Orderly, run.BootTimeout)
	defer cancel()
	begun := time.Now()
	err := run.Driver.Clean(starting) // the one before may have withstood its end
	var running enclave.Enclave
	if err == nil {
		running, err = run.Driver.Start(starting, announce)
	}
	if err != nil {
		s.restarts.Inc("failed")
		return 0, fmt.Errorf("start: %w", err)
	}
	s.restarts.Inc("ok")
	s.options.Journal.Line("heartbeat after %v; guest: %v", time.Since(begun).Round(time.Millisecond), place.Guest)
	s.place.Store(&place)
	guest := client.New(place.Guest)
	if err := answers(starting, guest, running); err != nil {
		return 0, s.end(ends, running, guest, err)
	}
	since := time.Now()
	s.accompany(ends, run, guest, running)
	return time.Since(since), s.end(ends, running, guest, nil)
}

// answers waits until the guest answers anything at all.
func answers(ctx context.Context, guest *client.Client, running enclave.Enclave) error {
	for {
		_, err := guest.Health(ctx)
		if err == nil {
			return nil
		}
		var refused *client.StatusError
		if errors.As(err, &refused) {
			return nil
		}
		select {
		case <-running.Done():
			return running.Err()
		case <-ctx.Done():
			return fmt.Errorf("no answer of the guest: %w", err)
		case <-time.After(answerEvery):
		}
	}
}

// accompany watches a guest until its enclave or the program ends.
func (s *server) accompany(ends Ends, run RunOptions, guest *client.Client, running enclave.Enclave) {
	ctx, cancel := context.WithCancel(ends.Orderly)
	done := make(chan struct{}, 2)
	go func() { s.watch(ctx, guest); done <- struct{}{} }()
	go func() {
		if run.FollowLogs {
			s.follow(ctx, guest)
		}
		done <- struct{}{}
	}()
	select {
	case <-running.Done():
	case <-ends.Orderly.Done():
	}
	cancel()
	<-done
	<-done
}

// follow passes the guest's log on until the context ends.
func (s *server) follow(ctx context.Context, guest *client.Client) {
	for {
		err := guest.Logs(ctx, true, func(line string) error {
			s.options.Journal.Named("log", line)
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.options.Journal.Line("the enclave's log: %v", err)
			if _, refused := errors.AsType[*client.StatusError](err); refused {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(followAgain):
		}
	}
}

// end sees to it that nothing of an enclave is left: in order if the program ends, else at once. It returns why the
// enclave ended.
func (s *server) end(ends Ends, running enclave.Enclave, guest *client.Client, reason error) error {
	if ends.Orderly.Err() != nil {
		s.drain(ends)
		s.place.Store(nil)
		s.ask(ends, running, guest)
	}
	select {
	case <-running.Done():
		if reason == nil {
			reason = running.Err()
		}
	default:
	}
	if err := s.stop(running); err != nil {
		return errors.Join(err, reason)
	}
	<-running.Done()
	s.options.Journal.Line("the enclave is gone")
	return reason
}

// errStays says that an enclave could not be ended.
var errStays = errors.New("the enclave could not be ended")

// stop ends an enclave. Nothing may be left, so this isn't bounded by the ends; drivers bound it themselves.
func (s *server) stop(running enclave.Enclave) error {
	var err error
	for attempt := range stopAttempts {
		if attempt > 0 {
			time.Sleep(stopAgain)
		}
		if err = running.Stop(context.Background()); err == nil {
			return nil
		}
		s.options.Journal.Line("%v: %v", errStays, err)
	}
	return fmt.Errorf("%w: %w", errStays, err)
}

// ask asks the guest to end by itself, and gives it time for that.
func (s *server) ask(ends Ends, running enclave.Enclave, guest *client.Client) {
	ctx, cancel := context.WithTimeout(ends.AtOnce, stopTimeout)
	defer cancel()
	if ctx.Err() != nil {
		return
	}
	if err := guest.Stop(ctx); err != nil {
		s.options.Journal.Line("the guest was not asked to end: %v", err)
		return
	}
	select {
	case <-running.Done():
	case <-ctx.Done():
		s.options.Journal.Line("the guest did not end in time")
	}
}
