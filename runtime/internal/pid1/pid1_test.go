package pid1

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// folderWith makes a folder with files.
func folderWith(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestStartIsReadAndRemoved(t *testing.T) {
	for _, given := range []struct {
		cmd, env string
		want     start
	}{
		{"/cage/bin/cage-guest\nboot\n", "A=b\nC=d e\n", start{[]string{"/cage/bin/cage-guest", "boot"}, []string{"A=b", "C=d e"}}},
		{"sh\n-c\n\necho \"$A\" 100%\\n", "A=", start{[]string{"sh", "-c", "", `echo "$A" 100%\n`}, []string{"A="}}},
		{"/Grüße\r\n", "", start{[]string{"/Grüße\r"}, []string{"PATH=" + searchPath}}},
		{"\xff\n", "\n", start{[]string{"\xff"}, []string{""}}},
	} {
		folder := folderWith(t, map[string]string{"cmd": given.cmd, "env": given.env})
		got, err := takeStart(folder)
		if err != nil || !reflect.DeepEqual(got, given.want) {
			t.Errorf("got %q, %v, expected %q", got, err, given.want)
		}
		if left, _ := os.ReadDir(folder); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestAMissingEnvironmentIsAnEmptyOne(t *testing.T) {
	got, err := takeStart(folderWith(t, map[string]string{"cmd": "/app\n"}))
	if err != nil || !reflect.DeepEqual(got.env, []string{"PATH=" + searchPath}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestABadStartIsRefused(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no such file": {"env": ""},
		"is empty":     {"cmd": "", "env": ""},
		"NUL":          {"cmd": "/app\na\x00b\n", "env": ""},
		"env: holds":   {"cmd": "/app\n", "env": "A=\x00\n"},
		"larger than":  {"cmd": "/app\n", "env": strings.Repeat("A=b\n", maxStart/4+1)},
	} {
		if got, err := takeStart(folderWith(t, files)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("/app\n\na\n"))
	f.Add([]byte("no end"))
	f.Fuzz(func(t *testing.T, data []byte) {
		items, err := lines(data)
		if err != nil {
			return
		}
		joined := strings.Join(items, "\n")
		if joined != strings.TrimSuffix(string(data), "\n") || strings.ContainsRune(joined, 0) {
			t.Fatalf("%q became %q", data, items)
		}
	})
}

func TestOnlyTheParentComesFromTheCommandLine(t *testing.T) {
	for line, want := range map[string]uint32{
		"":                            3,
		"reboot=k panic=30 pci=off\n": 3,
		"a cagebuild.parent_cid=2\n":  2,
		"cagebuild.parent_cid=2 b\n":  2,
		"xcagebuild.parent_cid=2":     3,
		"cagebuild.parent_cid":        3,
		"cagebuild.parent=2":          3,
		parentWord + "2 " + parentWord + "4294967294": math.MaxUint32 - 1,
	} {
		if got, err := parentFrom(line); err != nil || got != want {
			t.Errorf("%q: got %d, %v, expected %d", line, got, err, want)
		}
	}
}

func TestABadParentIsAnError(t *testing.T) {
	for _, digits := range []string{"", "x", "-1", "+2", "0x2", "2,3", "4294967295", "4294967296", "2_0"} {
		if got, err := parentFrom(parentWord + digits); err == nil {
			t.Errorf("%q: got %d", digits, got)
		}
	}
}

// peer is the parent's end of a stream: it has an answer ready and remembers what it was sent.
type peer struct {
	io.Reader
	sent   bytes.Buffer
	closed bool
}

func (p *peer) Write(data []byte) (int, error) { return p.sent.Write(data) }
func (p *peer) Close() error                   { p.closed = true; return nil }

func TestTheHeartbeatIsOneByteBothWays(t *testing.T) {
	for answer, problem := range map[string]string{
		"\xB7":     "",
		"\xB7more": "",
		"":         "no answer from the parent",
		"\x00":     "the parent answered 0x00, expected 0xb7",
	} {
		parent := &peer{Reader: strings.NewReader(answer)}
		m := machine{dial: func(cid, port uint32) (io.ReadWriteCloser, error) {
			if cid != 7 || port != 9000 {
				t.Errorf("dialled %d:%d", cid, port)
			}
			return parent, nil
		}}
		err := m.heartbeat(7)
		if (err == nil) != (problem == "") || (err != nil && !strings.Contains(err.Error(), problem)) {
			t.Errorf("%q: got %v", answer, err)
		}
		if parent.sent.String() != "\xB7" || !parent.closed {
			t.Errorf("%q: sent %q, closed %v", answer, parent.sent.String(), parent.closed)
		}
	}
}

func TestAParentThatCannotBeReachedIsAnError(t *testing.T) {
	refused := errors.New("refused")
	m := machine{dial: func(uint32, uint32) (io.ReadWriteCloser, error) { return nil, refused }}
	if err := m.heartbeat(3); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}

func TestNoModuleIsNoError(t *testing.T) {
	if err := loadModule(filepath.Join(t.TempDir(), "nsm.ko"), "/no/device"); err != nil {
		t.Error(err)
	}
}

func TestAModuleThatCannotBeLoadedIsAnErrorAndStays(t *testing.T) {
	path := filepath.Join(folderWith(t, map[string]string{"nsm.ko": "no module"}), "nsm.ko")
	if err := loadModule(path, "/no/device"); err == nil || !strings.Contains(err.Error(), "load module "+path) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestAModuleIsNotLoadedWhereTheDeviceIsThereAlready(t *testing.T) {
	path := filepath.Join(folderWith(t, map[string]string{"nsm.ko": "no module"}), "nsm.ko")
	if err := loadModule(path, os.DevNull); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}

func TestWithoutAConsoleTheKernelsLogIsTold(t *testing.T) {
	path := filepath.Join(folderWith(t, map[string]string{"kmsg": ""}), "kmsg")
	logToKernel(path, errNoConsole)
	if got, _ := os.ReadFile(path); string(got) != "cage: init: no console\n" {
		t.Errorf("got %q", got)
	}
	logToKernel("/no/such/file", errNoConsole)
}

func TestControllersAreReadFromTheKernelsTable(t *testing.T) {
	table := "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\nmemory\t0\t1\t0\npids\t4\t2\t1\n"
	got, err := enabledControllers(table)
	if err != nil || !reflect.DeepEqual(got, []string{"cpuset", "pids"}) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"cpu 0 1\n", "../x 0 1 1\n", "a b c d e\n"} {
		if got, err := enabledControllers(bad); err == nil {
			t.Errorf("%q: got %q", bad, got)
		}
	}
}
