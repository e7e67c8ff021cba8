package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/processes"
	"cagebuild.dev/runtime/internal/say"
)

// App is the name of the app's own service.
const App = "app"

// Folder is where runit finds the services, a folder each.
const Folder = "/cage/service"

// Tell has runsv do something with the service of a folder, as sv(8) has it: 'd' brings it down, 't' sends
// TERM, 'k' kills it. It isn't an error if there is no runsv.
func Tell(folder string, command byte) error {
	fifo, err := os.OpenFile(filepath.Join(folder, "supervise/control"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		_, err = fifo.Write([]byte{command})
		err = errors.Join(err, fifo.Close())
	}
	// Nobody reads it when the runsv was killed, or there was none yet.
	if err != nil && !errors.Is(err, syscall.ENXIO) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Start is the first thing that ./run does: it waits until the service may be started again, and then until
// it is ready to, which may be nil. The wait is here and not in ./finish because runsv ends ./run at once when
// the service is to go down.
func Start(name string, ready func() error) error {
	before := load()
	if before.pid != 0 {
		// No ./finish: the runsv that would have run it was killed, and the service's process with it.
		say.Line("%s: ended with its supervisor", name)
		killRest(name, before.pid)
		before.count++
	}
	now := restarts{pid: os.Getpid(), delay: before.delay, due: before.due, count: before.count}
	if err := now.save(); err != nil {
		return err
	}
	// Another clock than this machine's own, that of a snapshot for example, must not stop the service.
	if wait := min(before.due-clock(), maxDelay); wait > 0 {
		time.Sleep(wait)
	}
	if ready != nil {
		if err := ready(); err != nil {
			return err
		}
	}
	now.started = clock()
	return now.save()
}

// Finish is ./finish: it says how the service ended, ends what the service has left behind, and decides
// when it may start again. Code and signal are the arguments that runsv calls it with. An end that was asked
// for and in order is worth a line for the app alone.
func Finish(name, code, signal string) error {
	before := load()
	now := restarts{delay: before.delay, due: before.due, count: before.count}
	// A ./run that was told to end before it came to run the service is no news. One that ended so by
	// itself is: it couldn't start it.
	news := before.started != 0 || before.pid == 0
	if wantsDown() {
		now = restarts{count: before.count}
		news = before.started != 0 && (name == App || code != "0")
	} else if news {
		now.count++
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
