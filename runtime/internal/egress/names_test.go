package egress

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/netlink/isolate"
)

func TestAddressesOfThePoolAreDistinct(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for index := range maxNames {
		address := nth(index)
		if seen[address] || !isInPool(address) {
			t.Fatalf("%d is %s", index, address)
		}
		seen[address] = true
	}
	for index, want := range map[int]string{
		0: "127.64.0.1", 253: "127.64.0.254", 254: "127.64.1.1", 254 * 256: "127.65.0.1",
	} {
		if got := nth(index).String(); got != want {
			t.Errorf("%d is %s, expected %s", index, got, want)
		}
	}
	for _, outside := range []string{"127.63.0.1", "127.128.0.1", "127.64.0.0", "127.64.1.255", "::ffff:127.64.0.1"} {
		if isInPool(netip.MustParseAddr(outside)) {
			t.Errorf("%s is in the pool", outside)
		}
	}
}

func open(t *testing.T, path string, limit int, lines ...string) *names {
	t.Helper()
	n, err := openNames(path, limit, allow(t, lines...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

func add(t *testing.T, n *names, name string) string {
	t.Helper()
	address, err := n.add(name)
	if err != nil {
		t.Fatal(err)
	}
	if back, ok := n.name(address); !ok || back != name {
		t.Errorf("%s is %q's, expected %q", address, back, name)
	}
	return address.String()
}

func TestAddressesOutliveTheProcess(t *testing.T) {
	leak.Check(t)
	path := filepath.Join(t.TempDir(), "cage", "names")
	n := open(t, path, maxNames, "*.x.com 443")
	got := map[string]string{}
	for _, name := range []string{"c.x.com", "a.x.com", "b.x.com"} {
		got[name] = add(t, n, name)
	}
	if again := add(t, n, "a.x.com"); again != got["a.x.com"] {
		t.Errorf("got %s and %s", got["a.x.com"], again)
	}
	n.close()
	if status, err := os.Stat(path); err != nil || status.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", status.Mode(), err)
	}
	n = open(t, path, maxNames, "*.x.com 443")
	if fresh := add(t, n, "d.x.com"); fresh != "127.64.0.4" {
		t.Errorf("a new name got %s", fresh)
	}
	for name, address := range got {
		if again := add(t, n, name); again != address {
			t.Errorf("%s got %s, then %s", name, address, again)
		}
	}
}

func TestLinesOfTheStateAreChecked(t *testing.T) {
	leak.Check(t)
	path := filepath.Join(t.TempDir(), "names")
	content := strings.Join([]string{
		"127.64.0.9 a.x.com",
		"127.64.0.9 b.x.com", // an address twice
		"127.64.0.8 a.x.com", // a name twice
		"127.64.0.7 denied.example",
		"127.0.0.1 c.x.com",
		"127.64.0.0 c.x.com",
		"127.128.0.1 c.x.com",
		"::ffff:127.64.0.1 c.x.com",
		"10.0.0.1 c.x.com",
		"127.64.0.6 C.x.com",
		"127.64.0.6 c.x.com.",
		"127.64.0.6  c.x.com",
		"127.64.0.6",
		"",
		"garbage\x00\xff",
		"127.64.0.5 e.x.com",
		"127.64.0.4 f.x.co", // not whole: no line feed
	}, "\n")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	n := open(t, path, maxNames, "*.x.com 443", "*.x.co 443")
	if len(n.byName) != 2 || add(t, n, "a.x.com") != "127.64.0.9" || add(t, n, "e.x.com") != "127.64.0.5" {
		t.Errorf("got %v", n.byName)
	}
	if fresh := add(t, n, "f.x.co"); fresh != "127.64.0.1" {
		t.Errorf("got %s", fresh)
	}
	n.close()
	want := "127.64.0.9 a.x.com\n127.64.0.5 e.x.com\n127.64.0.1 f.x.co\n"
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestStatesThatCannotBeUsed(t *testing.T) {
	leak.Check(t)
	folder := t.TempDir()
	long := filepath.Join(folder, "long")
	file, err := os.Create(long)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(file.Truncate(int64(maxState)+1), file.Close()); err != nil {
		t.Fatal(err)
	}
	link, pipe := filepath.Join(folder, "link"), filepath.Join(folder, "pipe")
	if err := errors.Join(os.Symlink(long, link), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{long, link, pipe, folder, filepath.Join(long, "names")} {
		if n, err := openNames(path, maxNames, allow(t, "*.x.com 443")); err == nil {
			n.close()
			t.Errorf("%s was read", path)
		}
	}
}

func TestNamesAreBounded(t *testing.T) {
	n := open(t, "", 2, "*.x.com 443")
	add(t, n, "a.x.com")
	add(t, n, "b.x.com")
	if _, err := n.add("c.x.com"); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	add(t, n, "a.x.com")
}

func TestAllNamesThatThereMayBe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	n := open(t, path, maxNames, "*.x.com 443")
	last := ""
	for index := range maxNames {
		last = add(t, n, fmt.Sprintf("n%d.x.com", index))
	}
	if _, err := n.add("more.x.com"); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	n.close()
	n = open(t, path, maxNames, "*.x.com 443")
	if again := add(t, n, fmt.Sprintf("n%d.x.com", maxNames-1)); again != last || len(n.byName) != maxNames {
		t.Errorf("got %s of %d names, expected %s", again, len(n.byName), last)
	}
}

func TestNamesAskedForAtOnceGetOneAddress(t *testing.T) {
	n := open(t, filepath.Join(t.TempDir(), "names"), maxNames, "*.x.com 443")
	var group sync.WaitGroup
	got := [8][100]netip.Addr{}
	for worker := range got {
		group.Go(func() {
			for index := range got[worker] {
				got[worker][index], _ = n.add(fmt.Sprintf("n%d.x.com", index))
			}
		})
	}
	group.Wait()
	for worker := range got {
		if got[worker] != got[0] {
			t.Errorf("got %v and %v", got[0], got[worker])
		}
	}
}

// A name whose address can't be kept gets none: after a restart it might have another one.
func TestAStateThatCannotBeWritten(t *testing.T) {
	isolate.Need(t)
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=8k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(folder, syscall.MNT_DETACH) })
	path := filepath.Join(folder, "names")
	n := open(t, path, maxNames, "*.x.com 443")
	given := map[string]string{}
	var failure error
	for index := 0; failure == nil; index++ {
		name := fmt.Sprintf("%s%d.x.com", strings.Repeat("a", 50), index)
		address, err := n.add(name)
		if failure = err; err == nil {
			given[name] = address.String()
		}
	}
	if !errors.Is(failure, syscall.ENOSPC) || len(given) == 0 {
		t.Errorf("got %v after %d names", failure, len(given))
	}
	content, err := os.ReadFile(path)
	if err != nil || !bytes.HasSuffix(content, []byte("\n")) || bytes.Count(content, []byte("\n")) != len(given) {
		t.Errorf("the file ends in %.80q, %v", content[max(0, len(content)-80):], err)
	}
	for name, address := range given {
		if got := add(t, n, name); got != address {
			t.Errorf("%s got %s, then %s", name, address, got)
		}
	}
}

// An app that has cached an address finds its destination after a restart of the data plane.
func TestConnectionsAfterARestart(t *testing.T) {
	set := allow(t, "api.example.com 443", "*.x.com 443")
	options := Options{Rules: set, Name: "cage", State: filepath.Join(t.TempDir(), "run", "names")}
	c := run(t, options)
	reach(t, "b.x.com:443", "b.x.com 443")
	reach(t, "a.x.com:443", "a.x.com 443")
	conn, err := dial(t, "a.x.com:443")
	if err != nil {
		t.Fatal(err)
	}
	address := conn.RemoteAddr().String()
	_ = conn.Close()
	c.end()
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	fails(t, address, syscall.ECONNREFUSED)
	runWith(t, c.parent, options)
	reach(t, address, "a.x.com 443")
	reach(t, "b.x.com:443", "b.x.com 443")
	reach(t, "api.example.com:443", "api.example.com 443")
}

func TestNotesAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	lines := []string{}
	n := newNotes(func() time.Time { return now }, func(format string, arguments ...any) {
		lines = append(lines, fmt.Sprintf(format, arguments...))
	})
	n.say("a", "first %d", 1)
	n.say("a", "again")
	n.say("b", "other")
	now = now.Add(sameAfter)
	n.say("a", "later")
	want := []string{"first 1", "other (left out before: 1)", "later"}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", lines)
	}
	lines = nil
	now = now.Add(time.Hour)
	for index := range 100000 {
		n.say(fmt.Sprint(index), "%d", index)
	}
	if len(lines) != maxTokens || len(n.last) > maxKinds {
		t.Errorf("%d lines, %d kinds", len(lines), len(n.last))
	}
	now = now.Add(10 * time.Second)
	lines = nil
	for index := range 100000 {
		n.say(fmt.Sprint("x", index), "%d", index)
	}
	if len(lines) != 10*perSecond || !strings.Contains(lines[0], fmt.Sprintf("before: %d)", 100000-maxTokens)) {
		t.Errorf("%d lines, %q first", len(lines), lines[0])
	}
	now = now.Add(time.Hour)
	for index := range 10 * maxKinds {
		now = now.Add(time.Second)
		n.say(fmt.Sprint("y", index), "%d", index)
	}
	if len(n.last) > maxKinds {
		t.Errorf("%d kinds", len(n.last))
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte("127.64.0.1 a.x.com\n127.64.0.2 b.x.com\n"))
	f.Add([]byte("127.64.0.1 a.x.com\n127.64.0.1 a.x.com\n10.0.0.1 c.x.com\n127.64.0.3 d.x.com"))
	set := allow(f, "*.x.com 443")
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "names")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		stderr := os.Stderr
		os.Stderr = null // what is left out is said there
		n, err := openNames(path, 1000, set)
		os.Stderr = stderr
		_ = null.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer n.close()
		if len(n.byName) != len(n.byAddress) {
			t.Errorf("%d names, %d addresses", len(n.byName), len(n.byAddress))
		}
		for name, address := range n.byName {
			if !set.Name(name, 443) || !isInPool(address) || n.byAddress[address] != name {
				t.Errorf("%q has %s", name, address)
			}
		}
		again, err := openNames(path, 1000, set)
		if err != nil {
			t.Fatal(err)
		}
		defer again.close()
		if fmt.Sprint(again.byName) != fmt.Sprint(n.byName) {
			t.Errorf("got %v, then %v", n.byName, again.byName)
		}
	})
}
