package secrets

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
)

// part says that this program is to ask the socket, as another user.
const part = "SECRETS_TEST_SOCKET"

func TestMain(m *testing.M) {
	if socket := os.Getenv(part); socket != "" {
		delivered, missing, err := Fetch(socket)
		_, _ = io.WriteString(os.Stdout, strings.Join(missing, " ")+delivered.Env["TOKEN"])
		if err != nil {
			_, _ = io.WriteString(os.Stdout, "error: "+err.Error())
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve serves a store until the test ends.
func serve(t *testing.T, store *Store) string {
	t.Helper()
	leak.Check(t)
	folder, err := os.MkdirTemp("", "secrets") // t.TempDir is too long a path for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	socket := filepath.Join(folder, "cage", "secrets.sock")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- store.Serve(ctx, socket) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(socket); !os.IsNotExist(err) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	for {
		if _, err := os.Lstat(socket); err == nil {
			if conn, err := net.Dial("unix", socket); err == nil {
				_ = conn.Close()
				return socket
			}
		}
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestFetch(t *testing.T) {
	store := newStore(t)
	socket := serve(t, store)
	if _, err := store.Deliver(Bundle{Env: map[string]string{"TOKEN": "early"}}); err != nil {
		t.Fatal(err)
	}
	delivered, missing, err := Fetch(socket)
	if err != nil || !reflect.DeepEqual(missing, []string{"DSN", "tls.key"}) || !reflect.DeepEqual(delivered, Bundle{}) {
		t.Errorf("got %v, %q, %v", delivered, missing, err)
	}
	whole := Bundle{
		Env:   map[string]string{"TOKEN": strings.Repeat("\x01", MaxValue), "DSN": "é\n"},
		Files: map[string][]byte{"tls.key": {0, 0xff}},
	}
	if _, err := store.Deliver(whole); err != nil {
		t.Fatal(err)
	}
	if delivered, missing, err := Fetch(socket); err != nil || missing != nil || !reflect.DeepEqual(delivered, whole) {
		t.Errorf("got %v, %q, %v", delivered, missing, err)
	}
}

func TestACageWithoutSecretsIsAnswered(t *testing.T) {
	store, err := NewStore(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	delivered, missing, err := Fetch(serve(t, store))
	if err != nil || missing != nil || len(delivered.Env)+len(delivered.Files) > 0 {
		t.Errorf("got %v, %q, %v", delivered, missing, err)
	}
}

func TestAllThatMayBeKeptFitsIntoAnAnswer(t *testing.T) {
	var names []string
	kept := Bundle{Env: map[string]string{}}
	for number := range maxNames {
		name := strings.Repeat("\x01", maxName-2) + string([]byte{byte('@' + number%32), byte('@' + number/32)})
		names = append(names, name)
		kept.Env[name] = strings.Repeat("\x01", MaxTotal/maxNames)
	}
	store, err := NewStore(names, nil)
	if err != nil {
		t.Fatal(err)
	}
	socket := serve(t, store)
	if _, missing, err := Fetch(socket); err != nil || len(missing) != maxNames {
		t.Errorf("got %d missing, %v", len(missing), err)
	}
	if _, err := store.Deliver(kept); err != nil {
		t.Fatal(err)
	}
	if delivered, _, err := Fetch(socket); err != nil || !reflect.DeepEqual(delivered.Env, kept.Env) {
		t.Errorf("got %d variables, %v", len(delivered.Env), err)
	}
}

func TestTheSocketIsItsOwnersAlone(t *testing.T) {
	socket := serve(t, newStore(t))
	for path, mode := range map[string]os.FileMode{socket: os.ModeSocket | 0o600, filepath.Dir(socket): os.ModeDir | 0o700} {
		if status, err := os.Lstat(path); err != nil || status.Mode() != mode {
			t.Errorf("%s: got %v, %v; expected %v", path, status.Mode(), err, mode)
		}
	}
}

// Even where modes would let another user in, the kernel's word on who it is doesn't.
func TestAnotherUserGetsNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user takes root: run the tests as root, say in a container")
	}
	store := newStore(t)
	socket := serve(t, store)
	if _, err := store.Deliver(Bundle{
		Env: map[string]string{"TOKEN": "hunter2", "DSN": ""}, Files: map[string][]byte{"tls.key": nil},
	}); err != nil {
		t.Fatal(err)
	}
	program := copyOf(t, filepath.Dir(filepath.Dir(socket)))
	for _, path := range []string{filepath.Dir(filepath.Dir(socket)), filepath.Dir(socket), socket} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for uid, want := range map[uint32]string{0: "hunter2", 4321: "error: secrets from " + socket + ": EOF"} {
		command := exec.Command(program)
		command.Env = []string{part + "=" + socket}
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		said, err := command.Output()
		if err != nil || string(said) != want {
			t.Errorf("user %d: got %q, %v; expected %q", uid, said, err, want)
		}
	}
}

// copyOf puts this program where every user can execute it.
func copyOf(t *testing.T, folder string) string {
	t.Helper()
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "program")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFramesThatAreWrong(t *testing.T) {
	for want, text := range map[string]string{
		"EOF":                           "",
		"unexpected EOF":                "\x00\x00\x00\x05{}",
		"a frame of 4294967295 bytes":   "\xff\xff\xff\xff",
		"not JSON":                      "\x00\x00\x00\x02{]",
		"a frame of 4194305 bytes, exp": "\x00\x40\x00\x01",
	} {
		if said, err := readFrame(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v", text, said, err)
		}
	}
}

func TestNobodyAtTheSocket(t *testing.T) {
	if _, _, err := Fetch(filepath.Join(t.TempDir(), "none.sock")); err == nil {
		t.Error("got none, expected an error")
	}
}

func FuzzFrame(f *testing.F) {
	add := func(text string) { f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)) }
	add(`{"missing":["A"],"env":{"B":"Yw=="},"files":{}}`)
	add(`{}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = readFrame(strings.NewReader(string(data)))
	})
}
