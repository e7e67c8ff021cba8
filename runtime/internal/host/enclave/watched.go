package enclave

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"cagebuild.dev/runtime/internal/say"
)

// watched is an enclave that nitro-cli runs.
type watched struct {
	driver *Nitro
	id     string
	done   chan struct{}
	err    error
	stop   chan chan error

	shown   *process
	reading sync.WaitGroup
}

func (w *watched) Done() <-chan struct{} { return w.done }
func (w *watched) Err() error            { return w.err }

// Stop implements Enclave.
func (w *watched) Stop(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case w.stop <- answer:
		return <-answer
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch asks for the enclave's state until it has ended.
func (w *watched) watch() {
	defer close(w.done)
	defer w.end()
	every := w.driver.Poll
	if every == 0 {
		every = pollEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	unknown := 0
	for {
		select {
		case answer := <-w.stop:
			err := w.driver.terminate(context.Background(), w.id)
			if state, unknown := w.state(); err != nil && unknown == nil && state == gone {
				err = nil // it was faster
			}
			answer <- err
			if err == nil {
				w.err = errors.New("it was terminated")
				return
			}
		case <-ticker.C:
			state, err := w.state()
			switch {
			case err != nil:
				unknown++
				if unknown == 1 || unknown == maxUnknown {
					w.driver.Journal.Line("enclave %s: its state is unknown: %v", w.id, err)
				}
				if unknown == maxUnknown {
					w.err = errors.Join(errors.New("nobody knows its state"), w.driver.terminate(context.Background(), w.id))
					return
				}
			case state == gone:
				w.err = errors.New("it ended")
				return
			case state != "RUNNING":
				// What is listed still has memory and processors, which the next one may need.
				w.err = errors.Join(fmt.Errorf("it is %s", strings.ToLower(state)),
					w.driver.terminate(context.Background(), w.id))
				return
			default:
				unknown = 0
			}
		}
	}
}

// gone is the state of an enclave that nitro-cli doesn't know any more. Its own are RUNNING and TERMINATING.
const gone = "GONE"

// state is the enclave's.
func (w *watched) state() (string, error) {
	list, err := w.driver.describe(context.Background())
	if err != nil {
		return "", err
	}
	for _, found := range list {
		if found.EnclaveID == w.id {
			return found.State, nil
		}
	}
	return gone, nil
}

// console passes on what the enclave's console shows, which it does in debug mode alone.
func (w *watched) console() {
	command := exec.Command(w.driver.CLI, "console", "--enclave-id", w.id)
	reader, writer, err := os.Pipe()
	if err != nil {
		w.driver.Journal.Line("console: %v", err)
		return
	}
	command.Stdout, command.Stderr = writer, writer
	shown, err := start(command)
	_ = writer.Close()
	if err != nil {
		_ = reader.Close()
		w.driver.Journal.Line("console: %v", err)
		return
	}
	w.shown = shown
	w.reading.Go(func() {
		_ = say.Relay(reader, w.driver.Journal, "console", quiet)
		_ = reader.Close()
	})
}

func (w *watched) end() {
	if w.shown != nil {
		w.shown.stop(context.Background())
		w.reading.Wait()
	}
	if err := w.driver.forget(w.id); err != nil {
		w.driver.Journal.Line("%v", err)
	}
}
