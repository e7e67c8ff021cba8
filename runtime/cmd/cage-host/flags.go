package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"cagebuild.dev/runtime/internal/host/enclave"
	"cagebuild.dev/runtime/internal/transport"
)

// flags is the command line of one command. Each flag can be given by the environment too, as CAGE_HOST_ and its name
// in capitals; the command line wins.
type flags struct {
	*flag.FlagSet
	synopsis string
	details  string
}

func newFlags(name, words, details string) *flags {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	return &flags{FlagSet: set, synopsis: strings.TrimSpace("cage-host " + name + " [FLAGS] " + words), details: details}
}

func variable(name string) string {
	return "CAGE_HOST_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// parse reads environment and command line, and returns what isn't a flag: from least to most words (most < 0: any
// number). Flags may stand behind them.
func (f *flags) parse(arguments []string, least, most int) ([]string, error) {
	var wrong error
	f.VisitAll(func(one *flag.Flag) {
		value, given := os.LookupEnv(variable(one.Name))
		if !given || value == "" || wrong != nil {
			return
		}
		if several, isList := one.Value.(*list); isList {
			several.inherit(value)
		} else if err := f.Set(one.Name, value); err != nil {
			wrong = usagef("%s=%q: %v", variable(one.Name), value, err)
		}
	})
	if wrong != nil {
		return nil, wrong
	}
	var words []string
	for {
		switch err := f.Parse(arguments); {
		case errors.Is(err, flag.ErrHelp):
			f.help(os.Stdout)
			return nil, err
		case err != nil:
			return nil, usagef("%s: %w (\"cage-host %s --help\" lists the flags)", f.Name(), err, f.Name())
		}
		if f.NArg() == 0 {
			break
		}
		words, arguments = append(words, f.Arg(0)), f.Args()[1:]
	}
	switch {
	case len(words) < least:
		return nil, usagef("%s: something is missing: %s", f.Name(), f.synopsis)
	case most >= 0 && len(words) > most:
		return nil, usagef("%s: unexpected %q: %s", f.Name(), words[most], f.synopsis)
	}
	return words, nil
}

func (f *flags) help(to io.Writer) {
	_, _ = fmt.Fprintf(to, "usage: %s\n\n%s\n", f.synopsis, strings.TrimSpace(f.details))
	f.VisitAll(func(one *flag.Flag) {
		kind, text := flag.UnquoteUsage(one)
		if kind != "" {
			kind = " " + kind
		}
		standard := ""
		if one.DefValue != "" && one.DefValue != "0" && one.DefValue != "false" {
			standard = " (default " + one.DefValue + ")"
		}
		_, _ = fmt.Fprintf(to, "\n  --%s%s%s\n      %s\n", one.Name, kind, standard, strings.ReplaceAll(text, "\n", "\n      "))
	})
	_, _ = fmt.Fprintf(to, "\nEach flag can be given by the environment: %s for --eif.\n", variable("eif"))
}

// list is a flag that may be given several times; in the environment values are separated by spaces.
type list struct {
	values    []string
	inherited bool
}

func (l *list) String() string { return strings.Join(l.values, " ") }

func (l *list) Set(value string) error {
	if l.inherited {
		l.values, l.inherited = nil, false
	}
	l.values = append(l.values, value)
	return nil
}

func (l *list) inherit(text string) { l.values, l.inherited = strings.Fields(text), true }

// whole is a number from least to most.
type whole struct {
	value       *int
	least, most int
}

func (w whole) String() string {
	if w.value == nil {
		return ""
	}
	return fmt.Sprint(*w.value)
}

func (w whole) Set(text string) error {
	var number int
	if _, err := fmt.Sscanf(text, "%d", &number); err != nil || fmt.Sprint(number) != text ||
		number < w.least || number > w.most {
		return fmt.Errorf("expected a whole number from %d to %d", w.least, w.most)
	}
	*w.value = number
	return nil
}

func (f *flags) number(name string, standard, least, most int, usage string) *int {
	value := standard
	f.Var(whole{&value, least, most}, name, usage)
	return &value
}

// maxCID leaves room for the port of the parent, which is 10000 and the CID.
const maxCID = 1<<32 - 2 - enclave.ParentBase

func (f *flags) cid(usage string) *int { return f.number("cid", 0, enclave.MinCID, maxCID, usage) }

// target is how a command finds a running enclave.
type target struct {
	cid   *int
	guest *string
}

func (f *flags) target() target {
	return target{
		cid:   f.cid("`CID` of the enclave: the same as --guest vsock://CID:9001"),
		guest: f.String("guest", "", "`URL` at which the guest listens: vsock://CID:9001, hybrid://PATH:9001, unix://PATH, tcp://…"),
	}
}

func (t target) address() (transport.Address, error) {
	switch {
	case *t.cid != 0 && *t.guest != "":
		return transport.Address{}, usagef("--cid and --guest exclude each other")
	case *t.cid != 0:
		return enclave.OnVsock(uint32(*t.cid)).Guest, nil
	case *t.guest == "":
		return transport.Address{}, usagef("which enclave? --cid N, or --guest URL")
	}
	address, err := transport.Parse(*t.guest)
	if err != nil {
		return transport.Address{}, usagef("--guest: %w", err)
	}
	return address, nil
}
