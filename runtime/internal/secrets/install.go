package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

// Folder is where the app finds its files.
const Folder = "/run/secrets"

// Environment returns an environment with the delivered variables, which come in the place of others of the
// same name: what programs do with two of a name differs.
func Environment(base []string, delivered map[string]string) []string {
	var env []string
	for _, variable := range base {
		name, _, _ := strings.Cut(variable, "=")
		if _, replaced := delivered[name]; !replaced {
			env = append(env, variable)
		}
	}
	for _, name := range sorted(delivered) {
		env = append(env, name+"="+delivered[name])
	}
	return env
}

// Install makes a folder that holds these files and no others, for one user: the folder's mode is 0700, the
// files' 0400. It comes into its place whole, also where there is one already, which the user may have filled
// with anything. The folder above has to be the caller's alone to write to.
func Install(folder string, files map[string][]byte, uid, gid uint32) error {
	above, err := os.Lstat(filepath.Dir(folder))
	if err != nil {
		return err
	}
	owner, _ := above.Sys().(*syscall.Stat_t)
	if !above.IsDir() || owner == nil || int(owner.Uid) != os.Geteuid() || above.Mode()&0o022 != 0 {
		return fmt.Errorf("secrets: others may write to %s", filepath.Dir(folder))
	}
	next := filepath.Join(filepath.Dir(folder), "."+filepath.Base(folder)+".new")
	// One that was interrupted left it behind.
	if err := os.RemoveAll(next); err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	err = fill(next, files, uid, gid)
	if err == nil {
		err = exchange(next, folder)
	}
	// By now it is what was there before, if anything.
	if removed := os.RemoveAll(next); err == nil {
		err = removed
	}
	if err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	return nil
}

// fill makes the folder, which is the user's only when nothing more is written to it.
func fill(folder string, files map[string][]byte, uid, gid uint32) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	// Whatever the umask.
	if err := os.Chmod(folder, 0o700); err != nil {
		return err
	}
	for _, name := range sorted(files) {
		if err := checkFile(name); err != nil {
			return err
		}
		if err := write(filepath.Join(folder, name), files[name], uid, gid); err != nil {
			return err
		}
	}
	return os.Lchown(folder, int(uid), int(gid))
}

func write(path string, content []byte, uid, gid uint32) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o400)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Chmod(0o400), file.Chown(int(uid), int(gid)), file.Close())
}

// exchange puts one path in the place of another, in one step, and that one, if there is one, in its own.
func exchange(from, to string) error {
	const flag = 2 // RENAME_EXCHANGE (renameat2(2))
	if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(from, to)
	}
	fromText, err := syscall.BytePtrFromString(from)
	if err != nil {
		return err
	}
	toText, err := syscall.BytePtrFromString(to)
	if err != nil {
		return err
	}
	here := -100 // AT_FDCWD; the paths are absolute or meant from here
	_, _, errno := syscall.Syscall6(sysRenameat2, uintptr(here), uintptr(unsafe.Pointer(fromText)),
		uintptr(here), uintptr(unsafe.Pointer(toText)), flag, 0)
	if errno != 0 {
		return &os.LinkError{Op: "exchange", Old: from, New: to, Err: errno}
	}
	return nil
}
