package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/processes"
	"cagebuild.dev/runtime/internal/say"
)

// Start is the first thing that ./run does: it waits until the service may be started again. The wait is
// here and not in ./finish because runsv ends ./run at once when the service is to go down.
func Start(name string) error {
	before := load()
	if before.pid != 0 {
		// No ./finish: the runsv that would have run it was killed, and the service's process with it.
		say.Line("%s: ended with its supervisor", name)
		killRest(name, before.pid)
	}
	now := restarts{pid: os.Getpid(), delay: before.delay, due: before.due}
	if err := now.save(); err != nil {
		return err
	}
	// Another clock than this machine's own, that of a snapshot for example, must not stop the service.
	if wait := min(before.due-clock(), maxDelay); wait > 0 {
		time.Sleep(wait)
	}
	now.started = clock()
	return now.save()
}

// Finish is ./finish: it says how the service ended, ends what the service has left behind, and decides
// when it may start again. Code and signal are the arguments that runsv calls it with.
func Finish(name, code, signal string) error {
	before := load()
	now := restarts{delay: before.delay, due: before.due}
	// A ./run that was told to end before it came to run the service is no news. One that ended so by
	// itself is: it couldn't start it.
	news := before.started != 0 || before.pid == 0
	if wantsDown() {
		now, news = restarts{}, before.started != 0
	} else if news {
		now.delay = before.next(clock())
		now.due = clock() + now.delay
	}
	if news {
		say.Line("%s ended: %s%s", name, describe(code, signal), announce(now.delay))
	}
	if before.pid != 0 {
		killRest(name, before.pid)
	}
	return now.save()
}

func announce(delay time.Duration) string {
	if delay == 0 {
		return ""
	}
	return fmt.Sprintf("; next start in %d s", delay/time.Second)
}

// describe says how a process ended: runsv gives -1 and the signal for one that was killed.
func describe(code, signal string) string {
	if code != "-1" {
		return "exit status " + code
	}
	number, err := strconv.Atoi(signal)
	if err != nil {
		return "killed by signal " + signal
	}
	return fmt.Sprintf("killed by signal %d (%v)", number, syscall.Signal(number))
}

// wantsDown reports whether runsv was told to leave the service down. supervise/stat is for reading:
// "finish, want down".
func wantsDown() bool {
	text, err := os.ReadFile("supervise/stat")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		say.Line("warning: %v", err)
	}
	return strings.Contains(string(text), ", want ")
}

// killRest ends what a service has left behind in its session, as the end of a container does: a worker
// that still holds a port or a lock would make every start after this one fail.
func killRest(name string, session int) {
	count, err := processes.KillSession(session)
	if err != nil {
		say.Line("warning: %s: cannot look for processes left behind: %v", name, err)
	}
	if count > 0 {
		say.Line("%s: killed what it left behind: %d", name, count)
	}
}
