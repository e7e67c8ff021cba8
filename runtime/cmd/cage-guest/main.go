// Command cage-guest is the runtime inside an enclave.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"cagebuild.dev/runtime/internal/app"
	"cagebuild.dev/runtime/internal/boot"
	"cagebuild.dev/runtime/internal/pid1"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/settings"
)

const usage = `usage: cage-guest COMMAND
  boot     what the image starts with: prepare the enclave, run the app (settings: ` + settings.Path + `)
  app      become the app, as its user; boot calls it
  init     be the first process of the enclave, also when called as "init"
  version  print the version of the settings format, the platform and the compiler
`

// failed is the exit status for a failure of the runtime itself, as container runtimes have it.
const failed = 125

func main() {
	os.Exit(run(os.Args))
}

func run(arguments []string) int {
	command := ""
	switch {
	case len(arguments) > 0 && filepath.Base(arguments[0]) == "init":
		command = "init"
	case len(arguments) == 2:
		command = arguments[1]
	}
	switch command {
	case "boot":
		status, err := boot.Run()
		if err != nil {
			say.Line("boot: %v", err)
			return failed
		}
		return status
	case "app":
		return becomeApp()
	case "init":
		pid1.Main()
		return 0
	case "version":
		fmt.Printf("cage-guest settings-%d %s/%s %s\n",
			settings.Version, runtime.GOOS, runtime.GOARCH, runtime.Version())
		return 0
	}
	fmt.Fprint(os.Stderr, usage)
	return 2
}

func becomeApp() int {
	s, err := settings.Load(settings.Path)
	if err != nil {
		say.Line("settings: %v", err)
		return failed
	}
	err = app.Exec(s)
	say.Line("cannot start %q: %v", s.Argv[0], err)
	return app.ExitCode(err)
}
