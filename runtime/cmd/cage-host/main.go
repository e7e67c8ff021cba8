// Command cage-host is the program on the parent: it starts an enclave, takes traffic in, lets the allowed traffic out,
// and talks to the enclave for its operator.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"

	"cagebuild.dev/runtime/internal/host/eif"
	"cagebuild.dev/runtime/internal/wire"
)

// Exit statuses.
const (
	failure    = 1
	wrongUsage = 2
)

type command struct {
	name    string
	summary string
	run     func(arguments []string) error
}

func commands() []command {
	return []command{
		{"run", "start an enclave and carry its traffic; start it again when it ends", run},
		{"serve", "carry the traffic of an enclave that was started elsewhere", serveFixed},
		{"health", "ask a running enclave how its app is; status 1 unless it is up", health},
		{"logs", "show the log of a running enclave, if its settings allow that", logs},
		{"attestation", "get an attestation document with a nonce", attestation},
		{"csr", "get a certificate signing request for the enclave's key", csr},
		{"certificate", "give the enclave a certificate for its key", certificate},
		{"secrets", "deliver secrets to the enclave (put), or encrypt them to it (seal)", secretsCommand},
		{"stop", "ask the enclave to end", stop},
		{"version", "print versions", printVersion},
	}
}

func main() {
	os.Exit(status(dispatch(os.Args[1:])))
}

// usageError is a mistake in the command line or the environment.
type usageError struct{ error }

func usagef(format string, arguments ...any) error {
	return usageError{fmt.Errorf(format, arguments...)}
}

func status(err error) int {
	var wrong usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintf(os.Stderr, "cage-host: %v\n", err)
		return wrongUsage
	default:
		if !errors.Is(err, errSaid) {
			fmt.Fprintf(os.Stderr, "cage-host: %v\n", err)
		}
		return failure
	}
}

// errSaid is a failure that the output shows already.
var errSaid = errors.New("said already")

func dispatch(arguments []string) error {
	if len(arguments) == 0 {
		usage(os.Stderr)
		return usagef("no command")
	}
	switch arguments[0] {
	case "help", "-h", "-help", "--help":
		usage(os.Stdout)
		return nil
	case "--version", "-version":
		return printVersion(nil)
	}
	for _, known := range commands() {
		if known.name == arguments[0] {
			return known.run(arguments[1:])
		}
	}
	return usagef("%q is no command: see \"cage-host help\"", arguments[0])
}

func usage(to io.Writer) {
	_, _ = fmt.Fprintln(to, "usage: cage-host COMMAND [FLAGS]")
	for _, known := range commands() {
		_, _ = fmt.Fprintf(to, "  %-12s %s\n", known.name, known.summary)
	}
	_, _ = fmt.Fprintln(to, "\"cage-host COMMAND --help\" lists a command's flags.")
}

func printVersion([]string) error {
	fmt.Printf("cage-host wire-%d metadata-%d %s/%s %s\n",
		wire.Version, eif.Version, runtime.GOOS, runtime.GOARCH, runtime.Version())
	return nil
}
