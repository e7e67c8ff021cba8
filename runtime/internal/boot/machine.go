package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/child"
	"cagebuild.dev/runtime/internal/processes"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/service"
)

const (
	runsvdir = "/cage/bin/runsvdir"
	services = service.Folder
	app      = services + "/" + service.App
	data     = services + "/data"

	// path is in the environment of runit and of the service scripts. None of their programs is the image's.
	path = "PATH=/cage/bin"
)

const (
	grace = 10 * time.Second // for the app to end on TERM
	drain = 10 * time.Second // then for the data service to end what is under way
	rest  = 5 * time.Second  // then for everything else
	look  = 20 * time.Millisecond
)

// killed is the exit status when something didn't end in time, as timeout(1) has it.
const killed = 124

// machine runs the services. All of it is one loop: it alone starts, signals and reaps.
type machine struct {
	environment []string // of the services
	signals     <-chan os.Signal
	ends        <-chan os.Signal
	grace       time.Duration
	hurry       bool // a second signal to end came: no more grace
}

// run starts runit and returns when a signal has brought everything down, or runit has ended by itself: then
// the services are brought down too, for nothing would start them again.
func (m *machine) run() (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	supervisor, err := child.Start(child.Spec{
		Path:  runsvdir,
		Argv:  []string{"runsvdir", "-P", services},
		Env:   m.environment,
		Stdin: int(null.Fd()),
	})
	if err != nil {
		return 0, err
	}
	for {
		select {
		case <-m.ends:
			ended, _, err := child.Reap()
			if status, found := ended[supervisor]; found {
				failure := fmt.Errorf("runsvdir ended: %v", status)
				say.Line("boot: %v: stopping", failure)
				m.stop()
				return 0, failure
			}
			if err != nil {
				return 0, err
			}
		case received := <-m.signals:
			if number, ends := endsEverything(received); ends {
				say.Line("got signal %d (%v): stopping", int(number), number)
				// It has nothing to clean up, and may not notice TERM for seconds. What it started are
				// this process's children only when it has ended.
				_ = syscall.Kill(supervisor, syscall.SIGKILL)
				if !m.stop() {
					return killed, nil
				}
				return 0, nil
			}
		}
	}
}

// endsEverything reports whether a signal asks for the end. All others change nothing.
func endsEverything(received os.Signal) (syscall.Signal, bool) {
	number, ok := received.(syscall.Signal)
	switch number {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGPWR:
		return number, ok
	}
	return number, false
}

// stop brings down the app, then the data service, which the app needs to its end, then the other services, and
// last whatever is left. It reports whether all of them ended by themselves.
func (m *machine) stop() bool {
	clean := m.bringDown(app, m.grace)
	clean = m.bringDown(data, drain) && clean
	// runsv takes TERM as the order to bring its service down and to end. Its log service ends when all has
	// been written. Everything else that is a child is an orphan of the app.
	asked := map[int]bool{}
	ask := func() bool {
		signalChildren(syscall.SIGTERM, asked)
		return false
	}
	if !m.wait(rest, ask) {
		clean = false
		m.killAll()
	}
	say.Line("stopped")
	return clean
}

// bringDown has one service end, and kills it where it doesn't. It reports whether it ended by itself.
func (m *machine) bringDown(folder string, grace time.Duration) bool {
	isDown := func() bool { return serviceIsDown(folder) }
	tell(folder, 'd')
	if m.wait(grace, isDown) {
		return true
	}
	say.Line("%s did not end within %v: killing it", filepath.Base(folder), grace)
	tell(folder, 'k')
	// Once runsv is told to end it closes the pipe that ./finish would need.
	m.hurry = false
	m.wait(rest, isDown)
	return false
}

// wait reaps until a condition holds or no child is left, and reports whether that came within a limit and
// before somebody lost patience.
func (m *machine) wait(limit time.Duration, done func() bool) bool {
	expired := time.NewTimer(limit)
	defer expired.Stop()
	// runsv isn't heard of but through its files.
	next := time.NewTicker(look)
	defer next.Stop()
	for {
		_, others, err := child.Reap()
		if err != nil {
			say.Line("warning: %v", err)
		}
		if !others || done() {
			return true
		}
		if m.hurry {
			return false
		}
		select {
		case <-next.C:
		case <-m.ends:
		case <-expired.C:
			return false
		case received := <-m.signals:
			_, m.hurry = endsEverything(received)
		}
	}
}

// serviceIsDown reads what runsv says of a service: "down", "run, want down", "finish, want down". Where no runsv
// is, there is nobody to ask: the app ends with its runsv, and what else is left gets TERM later.
func serviceIsDown(folder string) bool {
	text, err := os.ReadFile(folder + "/supervise/stat")
	return err != nil || strings.HasPrefix(string(text), "down") || !isSupervised(folder)
}

// isSupervised reports whether a runsv has the service's folder: it then reads the one end of a FIFO.
func isSupervised(folder string) bool {
	fifo, err := os.OpenFile(folder+"/supervise/ok", os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	return fifo.Close() == nil
}

func tell(folder string, command byte) {
	if err := service.Tell(folder, command); err != nil {
		say.Line("warning: %v", err)
	}
}

// signalChildren sends a signal to every child that didn't get it before: others become children when their
// parents end. No number can be given to another process meanwhile, for nobody reaps.
func signalChildren(number syscall.Signal, before map[int]bool) {
	children, err := processes.Children()
	if err != nil {
		say.Line("warning: cannot look for processes: %v", err)
	}
	for _, process := range children {
		if !before[process.PID] {
			before[process.PID] = true
			_ = syscall.Kill(process.PID, number)
		}
	}
}

// killAll kills the children, then those that became children thereby, and so on.
func (m *machine) killAll() {
	say.Line("processes are left: killing them")
	kill := func() bool {
		signalChildren(syscall.SIGKILL, map[int]bool{})
		return false
	}
	if m.hurry = false; m.wait(rest, kill) {
		return
	}
	say.Line("warning: processes are left that cannot be killed")
}
