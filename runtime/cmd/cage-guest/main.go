// Command cage-guest is the runtime inside an enclave.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/app"
	"cagebuild.dev/runtime/internal/boot"
	"cagebuild.dev/runtime/internal/pid1"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/service"
	"cagebuild.dev/runtime/internal/settings"
)

const usage = `usage: cage-guest COMMAND
  boot     what the image starts with: prepare the enclave, run the services (settings: ` + settings.Path + `)
  init     be the first process of the enclave, also when called as "init"
  version  print the version of the settings format, the platform and the compiler
For the scripts of services, in the service's folder:
  app                      become the app, as its user, when it may be started again
  finish NAME CODE SIGNAL  say how a service ended, end what it left behind, delay its next start
  log NAME                 copy standard input to the console, line by line, with the name in front
`

// failed is the exit status for a failure of the runtime itself, as container runtimes have it.
const failed = 125

// quiet is how long the start of a line may wait for its end before it is shown.
const quiet = 500 * time.Millisecond

func main() {
	os.Exit(run(os.Args))
}

func run(arguments []string) int {
	if len(arguments) > 0 && filepath.Base(arguments[0]) == "init" {
		pid1.Main()
		return 0
	}
	switch command, words := split(arguments); {
	case command == "boot" && len(words) == 0:
		status, err := boot.Run()
		return report("boot", status, err)
	case command == "app" && len(words) == 0:
		return becomeApp()
	case command == "finish" && len(words) == 3 && isName(words[0]):
		return report(words[0], 0, service.Finish(words[0], words[1], words[2]))
	case command == "log" && len(words) == 1 && isName(words[0]):
		// It ends when all that the service wrote is on the console, and not before.
		signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
		return report(words[0]+" log", 0, say.Relay(os.Stdin, os.Stdout, words[0], quiet))
	case command == "init" && len(words) == 0:
		pid1.Main()
		return 0
	case command == "version" && len(words) == 0:
		fmt.Printf("cage-guest settings-%d %s/%s %s\n",
			settings.Version, runtime.GOOS, runtime.GOARCH, runtime.Version())
		return 0
	}
	fmt.Fprint(os.Stderr, usage)
	return 2
}

func split(arguments []string) (command string, words []string) {
	if len(arguments) < 2 {
		return "", nil
	}
	return arguments[1], arguments[2:]
}

func isName(text string) bool {
	return text != "" && len(text) <= say.MaxName
}

func report(who string, status int, err error) int {
	if err != nil {
		say.Line("%s: %v", who, err)
		return failed
	}
	return status
}

func becomeApp() int {
	if err := service.Start("app"); err != nil {
		return report("app", failed, err)
	}
	s, err := settings.Load(settings.Path)
	if err != nil {
		return report("settings", failed, err)
	}
	err = app.Exec(s)
	say.Line("cannot start %q: %v", s.Argv[0], err)
	return app.ExitCode(err)
}
