package secrets

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// user is whom tests install for: another than the own one, where that is root.
func user() (uid, gid uint32) {
	if os.Geteuid() == 0 {
		return 4321, 1234
	}
	return uint32(os.Geteuid()), uint32(os.Getegid())
}

func TestEnvironment(t *testing.T) {
	base := []string{"PATH=/bin", "TOKEN=default", "HOME=/", "TOKEN=again", "TOKENS=x"}
	got := Environment(base, map[string]string{"TOKEN": "a=b", "DSN": ""})
	want := []string{"PATH=/bin", "HOME=/", "TOKENS=x", "DSN=", "TOKEN=a=b"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, expected %q", got, want)
	}
	if got := Environment(base, nil); !reflect.DeepEqual(got, base) {
		t.Errorf("nothing delivered: got %q", got)
	}
}

// check says what is in a folder, and fails if anything belongs to another or is open to others.
func check(t *testing.T, folder string, uid, gid uint32) map[string]string {
	t.Helper()
	found := map[string]string{}
	names, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	owned := func(path string, mode os.FileMode) {
		status, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		owner := status.Sys().(*syscall.Stat_t)
		if status.Mode() != mode || owner.Uid != uid || owner.Gid != gid {
			t.Errorf("%s: %v, owner %d:%d; expected %v, %d:%d", path, status.Mode(), owner.Uid, owner.Gid, mode, uid, gid)
		}
	}
	owned(folder, os.ModeDir|0o700)
	for _, name := range names {
		path := filepath.Join(folder, name.Name())
		owned(path, 0o400)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found[name.Name()] = string(content)
	}
	return found
}

func TestInstall(t *testing.T) {
	above := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(above, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(above, 0o755); err != nil {
		t.Fatal(err)
	}
	// An umask that takes everything must not matter.
	defer syscall.Umask(syscall.Umask(0o777))
	uid, gid := user()
	folder := filepath.Join(above, "secrets")
	for _, files := range []map[string]string{
		{"a": "1", "b.pem": "2", ".hidden": "3"},
		{"a": "new", "c": ""},
		{},
	} {
		given := map[string][]byte{}
		for name, content := range files {
			given[name] = []byte(content)
		}
		if err := Install(folder, given, uid, gid); err != nil {
			t.Fatal(err)
		}
		if got := check(t, folder, uid, gid); !reflect.DeepEqual(got, files) {
			t.Errorf("got %v, expected %v", got, files)
		}
		if left, err := os.ReadDir(above); err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestWhatTheUserPutThereLeadsNowhere(t *testing.T) {
	uid, gid := user()
	for name, prepare := range map[string]func(folder, outside string) error{
		"a link for the folder": func(folder, outside string) error { return os.Symlink(outside, folder) },
		"a link to a folder":    func(folder, outside string) error { return os.Symlink(filepath.Dir(outside), folder) },
		"a file for the folder": func(folder, _ string) error { return os.WriteFile(folder, nil, 0o600) },
		"links for files": func(folder, outside string) error {
			if err := os.Mkdir(folder, 0o700); err != nil {
				return err
			}
			return os.Symlink(outside, filepath.Join(folder, "a"))
		},
		"a folder for a file": func(folder, _ string) error { return os.MkdirAll(filepath.Join(folder, "a", "b"), 0o700) },
		"an interrupted one": func(folder, outside string) error {
			next := filepath.Join(filepath.Dir(folder), ".secrets.new")
			if err := os.Mkdir(next, 0o700); err != nil {
				return err
			}
			return os.Symlink(outside, filepath.Join(next, "a"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			above := t.TempDir()
			outside, folder := filepath.Join(t.TempDir(), "outside"), filepath.Join(above, "secrets")
			if err := os.WriteFile(outside, []byte("untouched"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := prepare(folder, outside); err != nil {
				t.Fatal(err)
			}
			if err := Install(folder, map[string][]byte{"a": []byte("secret")}, uid, gid); err != nil {
				t.Fatal(err)
			}
			if got := check(t, folder, uid, gid); !reflect.DeepEqual(got, map[string]string{"a": "secret"}) {
				t.Errorf("got %v", got)
			}
			status, err := os.Stat(outside)
			content, _ := os.ReadFile(outside)
			if err != nil || string(content) != "untouched" || status.Mode() != 0o644 {
				t.Errorf("outside: %v %q, %v", status, content, err)
			}
			if left, err := os.ReadDir(above); err != nil || len(left) != 1 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestInstallRefuses(t *testing.T) {
	uid, gid := user()
	open := t.TempDir()
	if err := os.Chmod(open, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := Install(filepath.Join(open, "secrets"), nil, uid, gid); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("a folder that is everybody's: got %v", err)
	}
	above := t.TempDir()
	if err := Install(filepath.Join(above, "secrets"), map[string][]byte{"a": nil, "../b": nil}, uid, gid); err == nil {
		t.Error("a name with a slash: got none, expected an error")
	}
	if left, err := os.ReadDir(above); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
