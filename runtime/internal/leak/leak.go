// Package leak is for tests: it finds goroutines and descriptors that a test left behind.
package leak

import (
	"os"
	"runtime"
	"testing"
	"time"
)

// patience is how long what a test has ended may take to be gone.
const patience = 10 * time.Second

// Check fails the test if, at its end, there are more goroutines or open files than now.
func Check(t testing.TB) {
	t.Helper()
	// The runtime's poller has descriptors of its own from the first file on that it watches.
	if reader, writer, err := os.Pipe(); err == nil {
		_ = reader.Close()
		_ = writer.Close()
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	t.Cleanup(func() {
		deadline := time.Now().Add(patience)
		for runtime.NumGoroutine() > goroutines || openFiles(t) > files {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Errorf("%d goroutines and %d files, there were %d and %d:\n%s",
					runtime.NumGoroutine(), openFiles(t), goroutines, files, stacks)
				return
			}
			// Pipes that package net keeps for its next splice are closed when they are collected.
			runtime.GC()
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
