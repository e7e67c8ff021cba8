package ready

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/secrets"
)

// words returns the runtime's lines so far.
func words(t *testing.T) func() []string {
	t.Helper()
	var mutex sync.Mutex
	var lines []string
	say.Also(func(line []byte) {
		mutex.Lock()
		defer mutex.Unlock()
		lines = append(lines, strings.TrimSpace(string(line)))
	})
	t.Cleanup(func() { say.Also(func([]byte) {}) })
	return func() []string {
		mutex.Lock()
		defer mutex.Unlock()
		return slices.Clone(lines)
	}
}

func TestTheFileEndsTheWait(t *testing.T) {
	leak.Check(t)
	path := filepath.Join(t.TempDir(), "ready")
	ended := make(chan error)
	go func() { ended <- Await(t.Context(), path) }()
	if Was(path) {
		t.Error("it was ready before")
	}
	if err := Mark(path); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || !Was(path) {
		t.Error(err)
	}
}

func TestAWaitCanBeGivenUp(t *testing.T) {
	leak.Check(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "none")
	if err := Await(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := Secrets(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := Await(t.Context(), path+"\x00"); err == nil {
		t.Error("a path that cannot be looked at: no error")
	}
}

func TestTheWaitForSecretsEndsWithTheLastAndSaysWhichAreMissing(t *testing.T) {
	leak.Check(t)
	said := words(t)
	socket := filepath.Join(t.TempDir(), "s")
	type result struct {
		bundle secrets.Bundle
		err    error
	}
	ended := make(chan result)
	go func() {
		bundle, err := Secrets(t.Context(), socket) // nothing answers yet
		ended <- result{bundle, err}
	}()
	store, err := secrets.NewStore([]string{"KEY"}, []string{"cert.pem"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- store.Serve(ctx, socket) }()
	for _, step := range []struct {
		missing string
		next    secrets.Bundle
	}{
		{"KEY, cert.pem", secrets.Bundle{Env: map[string]string{"KEY": "k"}}},
		{"cert.pem", secrets.Bundle{Files: map[string][]byte{"cert.pem": []byte("c")}}},
	} {
		for !slices.Contains(said(), "cage: app: waiting for secrets: "+step.missing) {
			select {
			case got := <-ended:
				t.Fatalf("got %+v too early", got)
			default:
			}
		}
		if _, err := store.Deliver(step.next); err != nil {
			t.Fatal(err)
		}
	}
	got := <-ended
	if got.err != nil || got.bundle.Env["KEY"] != "k" || string(got.bundle.Files["cert.pem"]) != "c" {
		t.Errorf("got %+v", got)
	}
	if lines := said(); len(lines) != 2 {
		t.Errorf("got %q", lines)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestAListIsBounded(t *testing.T) {
	var names []string
	for number := range most {
		names = append(names, fmt.Sprint("S", number))
	}
	if got := list(names); strings.Contains(got, "more") {
		t.Errorf("got %q", got)
	}
	if got := list(append(names, "A", "B")); !strings.HasSuffix(got, "S19 and 2 more") {
		t.Errorf("got %q", got)
	}
}
