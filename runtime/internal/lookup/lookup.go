// Package lookup finds a program the way execvp does, in a PATH that is given and not the process's own.
package lookup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
)

const executable = 1 // X_OK of access(2)

// Program returns the path to execute for name. A name with a slash is taken as it is; any other is
// looked for in path, a list of folders. Folders that aren't absolute are skipped: the working directory
// of an app is no place to find its program by accident. The error is a fs.PathError whose cause is
// ENOENT, or EACCES when the name was found but may not be executed.
func Program(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	cause := syscall.ENOENT
	if name != "" {
		for folder := range strings.SplitSeq(path, ":") {
			if !filepath.IsAbs(folder) {
				continue
			}
			candidate := filepath.Join(folder, name)
			err := runnable(candidate)
			if err == nil {
				return candidate, nil
			}
			if errors.Is(err, syscall.EACCES) {
				cause = syscall.EACCES
			}
		}
	}
	return "", &fs.PathError{Op: fmt.Sprintf("find in PATH %q", path), Path: name, Err: cause}
}

func runnable(path string) error {
	var status syscall.Stat_t
	if err := syscall.Stat(path, &status); err != nil {
		return err
	}
	if status.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return syscall.EACCES
	}
	return syscall.Access(path, executable)
}
