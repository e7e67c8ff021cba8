package app

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"cagebuild.dev/runtime/internal/secrets"
	"cagebuild.dev/runtime/internal/settings"
)

// This program plays the test, the process that becomes the app, and the app.
const part = "APP_TEST_PART"

const uid, gid = 4321, 1234

// found is what the app sees.
type found struct {
	Env      []string
	UID, GID int
	Files    map[string]string
	Modes    map[string]string // of the folder ("") and the files: mode and owner
}

func TestMain(m *testing.M) {
	switch os.Getenv(part) {
	case "becomes the app":
		fmt.Println(becomeApp())
		os.Exit(9)
	case "is the app":
		if err := json.NewEncoder(os.Stdout).Encode(look()); err != nil {
			os.Exit(8)
		}
	default:
		os.Exit(m.Run())
	}
}

// becomeApp has a /run of its own, as the enclave's first process makes it.
func becomeApp() error {
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	// What an app that ran before may have left.
	if err := os.Symlink("/etc", secrets.Folder); err != nil {
		return err
	}
	return Exec(&settings.Settings{
		Argv:    []string{os.Args[1]},
		UID:     uid,
		GID:     gid,
		Env:     []string{"PATH=/bin", part + "=is the app", "TOKEN=default"},
		Workdir: "/",
	}, secrets.Bundle{
		Env:   map[string]string{"TOKEN": "hunter2", "DSN": "a=b\nc"},
		Files: map[string][]byte{"tls.key": {0, 1, 2}},
	})
}

func look() found {
	seen := found{Env: os.Environ(), UID: os.Getuid(), GID: os.Getgid(), Files: map[string]string{}, Modes: map[string]string{}}
	entries, _ := os.ReadDir(secrets.Folder)
	names := []string{""}
	for _, entry := range entries {
		content, _ := os.ReadFile(filepath.Join(secrets.Folder, entry.Name()))
		seen.Files[entry.Name()] = string(content)
		names = append(names, entry.Name())
	}
	for _, name := range names {
		if status, err := os.Lstat(filepath.Join(secrets.Folder, name)); err == nil {
			owner := status.Sys().(*syscall.Stat_t)
			seen.Modes[name] = fmt.Sprintf("%v %d:%d", status.Mode(), owner.Uid, owner.Gid)
		}
	}
	return seen
}

func TestSecretsReachTheApp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another user and a /run of its own take root: run the tests as root, say in a container")
	}
	folder := t.TempDir()
	for path := folder; path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(folder, "app")
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, program)
	command.Env = []string{part + "=becomes the app"}
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	command.Stderr = os.Stderr
	said, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	var got found
	if err := json.Unmarshal(said, &got); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	want := found{
		Env:   []string{"PATH=/bin", part + "=is the app", "DSN=a=b\nc", "TOKEN=hunter2"},
		UID:   uid,
		GID:   gid,
		Files: map[string]string{"tls.key": "\x00\x01\x02"},
		Modes: map[string]string{"": "drwx------ 4321:1234", "tls.key": "-r-------- 4321:1234"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, expected\n%+v", got, want)
	}
	if outside, err := os.ReadFile("/etc/tls.key"); err == nil {
		t.Errorf("written through a link: %q", strings.ToValidUTF8(string(outside), "?"))
	}
}
