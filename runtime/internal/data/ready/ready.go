// Package ready is how the app's start waits for the data service: for a file that says that names resolve,
// the clock is right and the ports are served; then for the secrets that the operator delivers.
package ready

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/secrets"
)

// File is there once the data service has been ready. It stays when that is started again: the app goes on.
const File = "/run/cage/ready"

const (
	often  = 10 * time.Millisecond
	seldom = 200 * time.Millisecond
	soon   = 2 * time.Second // after it, it is looked seldom

	first = 10 * time.Second // before the first word about waiting for the data service
	again = 5 * time.Minute  // before each further word
)

// Mark says that the data service is ready.
func Mark(path string) error { return os.WriteFile(path, nil, 0o644) }

// Was reports whether it has been ready before.
func Was(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Await returns when the file is there. Until then it says now and then what it waits for.
func Await(ctx context.Context, path string) error {
	waits := newWait(first)
	for {
		_, err := os.Stat(path)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := waits.on(ctx, "app: waiting for the data service"); err != nil {
			return err
		}
	}
}

// Secrets returns what the operator has delivered, once that is all.
func Secrets(ctx context.Context, socket string) (secrets.Bundle, error) {
	waits := newWait(0)
	var last []string
	for {
		delivered, missing, err := secrets.Fetch(socket)
		if err == nil && len(missing) == 0 {
			return delivered, nil
		}
		text := "app: waiting for secrets: the data service doesn't answer"
		if err == nil {
			text = "app: waiting for secrets: " + list(missing)
			if !slices.Equal(missing, last) {
				waits.word = time.Now()
			}
			last = missing
		} else if waits.start.Equal(waits.word) {
			waits.word = waits.start.Add(first)
		}
		if err := waits.on(ctx, text); err != nil {
			return secrets.Bundle{}, err
		}
	}
}

// most is how many names are listed.
const most = 20

func list(names []string) string {
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// wait is one that may take long.
type wait struct {
	start time.Time
	word  time.Time // when the next word is due
}

func newWait(quiet time.Duration) *wait {
	now := time.Now()
	return &wait{start: now, word: now.Add(quiet)}
}

// on says a word if one is due and returns a little later, or with the error of a context that has ended.
func (w *wait) on(ctx context.Context, text string) error {
	now := time.Now()
	if !now.Before(w.word) {
		say.Line("%s", text)
		w.word = now.Add(again)
	}
	pause := often
	if now.Sub(w.start) > soon {
		pause = seldom
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}
