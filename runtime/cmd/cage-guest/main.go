// Command cage-guest is the runtime inside an enclave.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/app"
	"cagebuild.dev/runtime/internal/boot"
	"cagebuild.dev/runtime/internal/data/ready"
	"cagebuild.dev/runtime/internal/logs"
	"cagebuild.dev/runtime/internal/pid1"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/secrets"
	"cagebuild.dev/runtime/internal/service"
	"cagebuild.dev/runtime/internal/settings"
)

const usage = `usage: cage-guest COMMAND
  boot [WHERE]  what the image starts with: prepare the enclave, run the services (settings: ` + settings.Path + `)
  init          be the first process of the enclave, also when called as "init"
  data [WHERE]  let in and out what the settings allow
  version       print the version of the settings format, the platform and the compiler
WHERE is any of these; boot hands them on to the service "data":
  --listen URL  where the host opens streams (vsock://any:9001)
  --parent URL  where the host takes streams (vsock://3:<10000 + own CID>)
  --nsm PATH    the device that attests (/dev/nsm), or unix://PATH of a stand-in
For the scripts of services, in the service's folder:
  app                      become the app, as its user, when it may be started
  data --supervised        data, as runit's: what it says is between the lines of its log
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
	case command == "boot" || command == "data":
		flags, err := parse(words)
		if err != nil || flags.supervised && command == "boot" {
			break
		}
		if command == "data" {
			return serve(flags)
		}
		forward()
		status, err := boot.Run(flags.where)
		return report("boot", status, err)
	case command == "app" && len(words) == 0:
		return becomeApp()
	case command == "finish" && len(words) == 3 && isName(words[0]):
		forward()
		return report(words[0], 0, service.Finish(words[0], words[1], words[2]))
	case command == "log" && len(words) == 1 && isName(words[0]):
		// It ends when all that the service wrote is on the console, and not before.
		signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
		console := logs.NewSender(logs.Socket, words[0]).Tee(os.Stdout)
		return report(words[0]+" log", 0, say.Relay(os.Stdin, console, words[0], quiet))
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

// forward has the runtime's own lines of this process come to the log that the parent may read, if there is one.
func forward() { say.Also(logs.NewSender(logs.Socket, "the runtime").Send) }

func becomeApp() int {
	forward()
	s, err := settings.Load(settings.Path)
	var delivered secrets.Bundle
	if err == nil {
		err = service.Start(service.App, func() (err error) {
			delivered, err = awaitSecrets(s)
			return err
		})
	}
	if err != nil {
		return report("app", failed, err)
	}
	err = app.Exec(s, delivered)
	say.Line("cannot start %q: %v", s.Argv[0], err)
	return app.ExitCode(err)
}

// awaitSecrets waits for the data service, then for the operator's secrets. TERM ends it at any time.
func awaitSecrets(s *settings.Settings) (secrets.Bundle, error) {
	if err := ready.Await(context.Background(), ready.File); err != nil {
		return secrets.Bundle{}, err
	}
	if len(s.Secrets.Env)+len(s.Secrets.Files) == 0 {
		return secrets.Bundle{}, nil
	}
	return ready.Secrets(context.Background(), secrets.Socket)
}
