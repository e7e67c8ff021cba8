package main

import (
	"testing"

	"cagebuild.dev/runtime/internal/boot"
)

func TestFlagsSayWhereStreamsComeFromAndGoTo(t *testing.T) {
	got, err := parse([]string{"--listen", "unix:///a", "--parent=unix:///b", "--nsm", "unix:///c", "--supervised"})
	want := flags{boot.Options{Listen: "unix:///a", Parent: "unix:///b", NSM: "unix:///c"}, true}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := parse(nil); err != nil || got != (flags{}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWordsThatAreNoFlagsAreRefused(t *testing.T) {
	for _, words := range [][]string{{"now"}, {"--listen"}, {"--what"}, {"--help"}, {"--nsm", "/dev/nsm", "x"}} {
		if got, err := parse(words); err == nil {
			t.Errorf("%q: got %+v", words, got)
		}
	}
}
