package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"cagebuild.dev/runtime/internal/boot"
	"cagebuild.dev/runtime/internal/data"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/service"
)

// flags are those of boot and data.
type flags struct {
	where      boot.Options
	supervised bool
}

func parse(words []string) (found flags, err error) {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.SetOutput(io.Discard) // the usage says it all
	set.StringVar(&found.where.Listen, "listen", "", "")
	set.StringVar(&found.where.Parent, "parent", "", "")
	set.StringVar(&found.where.NSM, "nsm", "", "")
	set.BoolVar(&found.supervised, "supervised", false, "")
	if err := set.Parse(words); err != nil {
		return flags{}, err
	}
	if set.NArg() > 0 {
		return flags{}, errors.New("words are left")
	}
	return found, nil
}

// serve is the data service.
func serve(given flags) int {
	options := data.Options{Listen: given.where.Listen, Parent: given.where.Parent, NSM: given.where.NSM}
	if given.supervised {
		if err := supervised(&options); err != nil {
			return report("data", failed, err)
		}
		if err := service.Start("data", nil); err != nil {
			return report("data", failed, err)
		}
	}
	// Not before: TERM ends a start that waits.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if options.Stop == nil {
		options.Stop = stop
	}
	return report("data", 0, data.Run(ctx, options))
}

// supervised takes from the environment what boot has put there, and has standard error go where the output
// goes: to the log service, which marks what the compiler's runtime says when a program panics. What this
// program says itself goes to the console.
func supervised(options *data.Options) error {
	options.Listen = os.Getenv(boot.EnvListen)
	options.Parent = os.Getenv(boot.EnvParent)
	options.NSM = os.Getenv(boot.EnvNSM)
	if text := os.Getenv(boot.EnvBoot); text != "" {
		process, err := strconv.Atoi(text)
		if err != nil || process < 1 {
			return errors.New(boot.EnvBoot + " is no process")
		}
		options.Stop = func() { _ = syscall.Kill(process, syscall.SIGTERM) }
	}
	console, _, errno := syscall.Syscall(syscall.SYS_FCNTL, 2, syscall.F_DUPFD_CLOEXEC, 3)
	if errno != 0 {
		return os.NewSyscallError("fcntl", errno)
	}
	say.To(os.NewFile(console, "console"))
	return os.NewSyscallError("dup3", syscall.Dup3(1, 2, 0))
}
