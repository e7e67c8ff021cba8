// Package app turns the calling process into the app: its user, its folder, its environment, its program.
package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"cagebuild.dev/runtime/internal/lookup"
	"cagebuild.dev/runtime/internal/settings"
)

// dockerPath is where Docker looks for the program of an image whose environment has no PATH.
const dockerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exec becomes the app. It returns only when that fails.
func Exec(s *settings.Settings) error {
	if err := giveStandardStreams(s.UID); err != nil {
		return err
	}
	syscall.Umask(0o022)
	// As container runtimes do it: with the rights of root first, so that a folder which the app's user
	// can't enter by itself still is its working directory; then as the user.
	entered := syscall.Chdir(s.Workdir)
	if err := become(s); err != nil {
		return err
	}
	if entered != nil {
		if err := syscall.Chdir(s.Workdir); err != nil {
			return &fs.PathError{Op: "enter working directory", Path: s.Workdir, Err: err}
		}
	}
	program, err := lookup.Program(s.Argv[0], searchPath(s.Env))
	if err != nil {
		return err
	}
	return &fs.PathError{Op: "execute", Path: program, Err: syscall.Exec(program, s.Argv, s.Env)}
}

// ExitCode is what shells and container runtimes exit with when a program can't be started.
func ExitCode(err error) int {
	if errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}

// giveStandardStreams makes the app's user the owner of standard output and error. Many images log to
// /dev/stdout, and opening that needs rights to what is behind it.
func giveStandardStreams(uid uint32) error {
	for descriptor := 1; descriptor <= 2; descriptor++ {
		var status syscall.Stat_t
		if err := syscall.Fstat(descriptor, &status); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if status.Uid == uid || status.Mode&syscall.S_IFMT == syscall.S_IFREG || isNull(&status) {
			continue
		}
		err := syscall.Fchown(descriptor, int(uid), int(status.Gid))
		// Sockets and some file systems have no owner to change; the app may still write.
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EPERM) &&
			!errors.Is(err, syscall.EROFS) {
			return os.NewSyscallError("fchown", err)
		}
	}
	return nil
}

// isNull knows /dev/null (device 1:3), which everybody shares.
func isNull(status *syscall.Stat_t) bool {
	return status.Mode&syscall.S_IFMT == syscall.S_IFCHR && status.Rdev == 1<<8|3
}

// become drops to the app's user: groups first, for afterwards there is no right to.
func become(s *settings.Settings) error {
	groups := make([]int, len(s.Groups))
	for index, group := range s.Groups {
		groups[index] = int(group)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("set supplementary groups %v: %w", groups, err)
	}
	if err := syscall.Setgid(int(s.GID)); err != nil {
		return fmt.Errorf("become group %d: %w", s.GID, err)
	}
	if err := syscall.Setuid(int(s.UID)); err != nil {
		return fmt.Errorf("become user %d: %w", s.UID, err)
	}
	return nil
}

func searchPath(env []string) string {
	for _, variable := range env {
		if path, found := strings.CutPrefix(variable, "PATH="); found {
			return path
		}
	}
	return dockerPath
}
