package enclave

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// State is a folder with what one cage-host keeps about its enclave: sockets of an emulated one, the id of a real
// one. It is locked as long as the process lives, so there is one cage-host for each folder, and what is found there
// belongs to one that is gone.
type State struct {
	path string
	lock *os.File
}

// OpenState makes the folder, if it isn't there, and locks it.
func OpenState(path string) (*State, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	status, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	owner, isKnown := status.Sys().(*syscall.Stat_t)
	if !isKnown || int(owner.Uid) != os.Geteuid() || status.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s: has to be this user's, and nobody else may write there", path)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: another cage-host uses it: end that one, or choose another --name or --state", path)
		}
		return nil, err
	}
	return &State{path: path, lock: lock}, nil
}

// Path is a file's path in the folder.
func (s *State) Path(name string) string { return filepath.Join(s.path, name) }

// Close gives the folder free.
func (s *State) Close() { _ = s.lock.Close() }
