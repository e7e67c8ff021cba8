// Package processes says which processes there are, from /proc.
package processes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// Process is what /proc/PID/stat says of one process.
type Process struct {
	PID     int
	State   byte // R, S, D, T, Z (ended, not yet waited for), …
	Parent  int
	Session int
}

// All returns every process, this one too, in no order.
func All() ([]Process, error) {
	folder, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	found := []Process{}
	for _, name := range names {
		if _, err := strconv.ParseUint(name, 10, 31); err != nil {
			continue
		}
		line, err := os.ReadFile("/proc/" + name + "/stat")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		process, err := parse(line)
		if err != nil {
			return nil, err
		}
		found = append(found, process)
	}
	return found, nil
}

// parse reads "PID (name) state parent group session …". The name is the program's to choose: it may hold
// spaces, parentheses and line feeds.
func parse(line []byte) (Process, error) {
	end := bytes.LastIndexByte(line, ')')
	pid, _, found := bytes.Cut(line, []byte(" ("))
	if found && end > 0 {
		if fields := bytes.Fields(line[end+1:]); len(fields) > 3 && len(fields[0]) == 1 {
			numbers := [3]int{}
			var failed error
			for index, digits := range [][]byte{pid, fields[1], fields[3]} {
				number, err := strconv.Atoi(string(digits))
				numbers[index], failed = number, errors.Join(failed, err)
			}
			if failed == nil {
				return Process{PID: numbers[0], State: fields[0][0], Parent: numbers[1], Session: numbers[2]}, nil
			}
		}
	}
	return Process{}, fmt.Errorf("/proc: cannot read %q", line)
}

// Children returns the children of this process, also those that have ended and weren't waited for.
func Children() ([]Process, error) {
	return where(func(process Process) bool { return process.Parent == os.Getpid() })
}

// InSession returns the processes of a session that haven't ended.
func InSession(session int) ([]Process, error) {
	return where(func(process Process) bool { return process.Session == session && process.State != 'Z' })
}

func where(wanted func(Process) bool) ([]Process, error) {
	all, err := All()
	found := []Process{}
	for _, process := range all {
		if wanted(process) {
			found = append(found, process)
		}
	}
	return found, err
}

// maxRounds bounds KillSession: a process can start others only until it is killed itself.
const maxRounds = 100

// KillSession kills what is left of a session and returns how many processes that were.
func KillSession(session int) (int, error) {
	killed := map[int]bool{}
	for range maxRounds {
		left, err := InSession(session)
		if err != nil || len(left) == 0 {
			return len(killed), err
		}
		fresh := false
		for _, process := range left {
			fresh = fresh || !killed[process.PID]
			killed[process.PID] = true
			// Fails only for a process that has just ended.
			_ = syscall.Kill(process.PID, syscall.SIGKILL)
		}
		if !fresh {
			break // dying: the kernel has the signal, that is all there is to do
		}
	}
	return len(killed), nil
}
