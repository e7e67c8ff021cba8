package lookup

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// program puts a file into a folder and returns the file's path.
func program(t *testing.T, folder, name string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, nil, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheFirstProgramOfThePathIsTaken(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	want := program(t, first, "app", 0o755)
	program(t, second, "app", 0o755)
	got, err := Program("app", "/nowhere:"+first+":"+second)
	if err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestWhatCannotBeExecutedIsPassedOver(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	program(t, first, "app", 0o644)
	want := program(t, second, "app", 0o755)
	got, err := Program("app", first+":"+second)
	if err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestANameWithASlashIsTakenAsItIs(t *testing.T) {
	for _, name := range []string{"/no/such", "./app", "bin/app"} {
		if got, err := Program(name, "/bin"); err != nil || got != name {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestTheWorkingFolderIsNoPartOfThePath(t *testing.T) {
	folder := t.TempDir()
	program(t, folder, "app", 0o755)
	t.Chdir(folder)
	for _, path := range []string{"", ":", ".", ":/nowhere", "/nowhere:.:"} {
		if got, err := Program("app", path); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("PATH %q: got %q, %v", path, got, err)
		}
	}
}

func TestTheErrorTellsMissingFromForbidden(t *testing.T) {
	folder := t.TempDir()
	program(t, folder, "text", 0o644)
	if err := os.Mkdir(filepath.Join(folder, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"": syscall.ENOENT, "none": syscall.ENOENT, "text": syscall.EACCES, "folder": syscall.EACCES,
	} {
		if _, err := Program(name, folder); !errors.Is(err, want) {
			t.Errorf("%q: got %v, expected %v", name, err, want)
		}
	}
}
