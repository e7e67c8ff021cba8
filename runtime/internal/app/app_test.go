package app

import (
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

func TestTheSearchPathIsTheAppsOwn(t *testing.T) {
	for _, given := range []struct {
		env  []string
		want string
	}{
		{nil, dockerPath},
		{[]string{"HOME=/", "PATH=/a:/b"}, "/a:/b"},
		{[]string{"PATH="}, ""},
		{[]string{"XPATH=/x", "PATH=/first", "PATH=/second"}, "/first"},
	} {
		if got := searchPath(given.env); got != given.want {
			t.Errorf("%q: got %q, expected %q", given.env, got, given.want)
		}
	}
}

func TestExitCodesAreThoseOfShells(t *testing.T) {
	for cause, want := range map[syscall.Errno]int{syscall.ENOENT: 127, syscall.EACCES: 126, syscall.ENOEXEC: 126} {
		if got := ExitCode(fmt.Errorf("x: %w", &fs.PathError{Err: cause})); got != want {
			t.Errorf("%v: got %d, expected %d", cause, got, want)
		}
	}
}
