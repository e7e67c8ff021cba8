// Package app turns the calling process into the app: its user, its folder, its environment, its program.
package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"

	"cagebuild.dev/runtime/internal/lookup"
	"cagebuild.dev/runtime/internal/secrets"
	"cagebuild.dev/runtime/internal/settings"
)

// dockerPath is where Docker looks for the program of an image whose environment has no PATH.
const dockerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exec becomes the app, with the secrets that were delivered: variables join its environment, files are in
// secrets.Folder. It returns only when that fails, with standard error as it was.
func Exec(s *settings.Settings, delivered secrets.Bundle) error {
	env := secrets.Environment(s.Env, delivered.Env)
	// The kernel keeps some of what follows for each thread, and execve is called by one.
	runtime.LockOSThread()
	supervisor := os.Getppid()
	// runsv leads a session already. A terminal signal to it is none of the app's.
	if _, err := syscall.Setsid(); err != nil && syscall.Getpgrp() != os.Getpid() {
		return os.NewSyscallError("setsid", err)
	}
	if err := giveOutput(s.UID); err != nil {
		return err
	}
	if len(delivered.Files) > 0 {
		if err := secrets.Install(secrets.Folder, delivered.Files, s.UID, s.GID); err != nil {
			return err
		}
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
	program, err := lookup.Program(s.Argv[0], searchPath(env))
	if err != nil {
		return err
	}
	if err := dieWith(supervisor); err != nil {
		return err
	}
	return execute(program, s.Argv, env)
}

// execute has the app's standard error go where its output goes: to the log service. What this program
// says itself goes to the console, until it is no more.
func execute(program string, argv, env []string) error {
	console, _, errno := syscall.Syscall(syscall.SYS_FCNTL, 2, syscall.F_DUPFD_CLOEXEC, 3)
	if errno != 0 {
		return os.NewSyscallError("fcntl", errno)
	}
	if err := syscall.Dup3(1, 2, 0); err != nil {
		return os.NewSyscallError("dup3", err)
	}
	err := syscall.Exec(program, argv, env)
	return errors.Join(
		&fs.PathError{Op: "execute", Path: program, Err: err}, os.NewSyscallError("dup3", syscall.Dup3(int(console), 2, 0)))
}

// dieWith has the kernel kill the app when its runsv ends: the next runsv would start a second one beside
// it. It is forgotten when the user changes, and kept by execve but for a program that changes the user.
func dieWith(supervisor int) error {
	_, _, errno := syscall.RawSyscall6(
		syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("prctl PR_SET_PDEATHSIG", errno)
	}
	if os.Getppid() != supervisor {
		return errors.New("the supervisor has ended")
	}
	return nil
}

// ExitCode is what shells and container runtimes exit with when a program can't be started.
func ExitCode(err error) int {
	if errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}

// giveOutput makes the app's user the owner of standard output, the pipe to the log service. Many images log
// to /dev/stdout or /dev/stderr, and opening that needs rights to what is behind it.
func giveOutput(uid uint32) error {
	var status syscall.Stat_t
	if err := syscall.Fstat(1, &status); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if status.Uid == uid || status.Mode&syscall.S_IFMT == syscall.S_IFREG || isNull(&status) {
		return nil
	}
	err := syscall.Fchown(1, int(uid), int(status.Gid))
	// Sockets and some file systems have no owner to change; the app may still write.
	if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EPERM) &&
		!errors.Is(err, syscall.EROFS) {
		return os.NewSyscallError("fchown", err)
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
