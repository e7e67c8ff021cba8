package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cagebuild.dev/runtime/internal/host/eif"
	"cagebuild.dev/runtime/internal/host/enclave"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/host/serve"
)

// machine is the flags that only run has: what the enclave is, and what it runs on.
type machine struct {
	cid, cpus, memory *int
	debug, once       *bool
	name, state       *string
	bootTimeout       *time.Duration

	nitroCLI *string
	replace  *bool

	emulator                      *bool
	qemu, device, firmware, accel *string
	parent                        *int
}

func (f *flags) machine() *machine {
	return &machine{
		cid:    f.cid("`CID` of the enclave; default: one that is free"),
		cpus:   f.number("cpus", 0, 1, 1<<12, "`N` processors instead of what the image says"),
		memory: f.number("memory", 0, 64, 1<<24, "`MIB` of memory instead of what the image says"),
		debug: f.Bool("debug", false,
			"debug mode: the console is shown, and all PCRs are zero, so that nobody can attest the enclave"),
		once: f.Bool("once", false, "end, with status 1, when the enclave ends"),
		name: f.String("name", "", "`NAME` of the enclave for nitro-cli, and of its state; default: the cage's name"),
		state: f.String("state", "", "`FOLDER` for what has to be remembered about the enclave; default: by name, below\n"+
			"$RUNTIME_DIRECTORY, /run/cage-host (root), $XDG_RUNTIME_DIR/cage-host or /tmp/cage-host-UID"),
		bootTimeout: f.Duration("boot-timeout", 5*time.Minute, "how long the guest may take until it answers"),
		nitroCLI:    f.String("nitro-cli", "nitro-cli", "`PROGRAM` that starts enclaves"),
		replace:     f.Bool("replace", false, "end an enclave of the same name that runs already, whoever started it"),
		emulator: f.Bool("emulator", false,
			"run the image in QEMU, without AWS's hardware: for development. Nothing is attested"),
		qemu: f.String("qemu", "qemu-system-x86_64", "`PROGRAM` of the emulator, with the machine nitro-enclave"),
		device: f.String("vsock-device", enclave.Device,
			"`COMMAND` that is the emulator's vsock, whose words may hold {device}, the socket that QEMU connects to, {vsock},\n"+
				"that of the host's streams, {cid} and {parent}"),
		firmware: f.String("firmware", "", "`FOLDER` with the emulator's firmware, if it isn't where QEMU looks"),
		accel:    f.String("accel", "tcg", "what the emulator computes with: `tcg or kvm`"),
		parent:   f.number("parent-cid", 3, 2, 3, "the parent's `CID`, as the emulator's vsock has it"),
	}
}

func run(arguments []string) error {
	f := newFlags("run", "", "Starts an enclave and carries its traffic, until SIGTERM. When the enclave ends it is started again,\n"+
		"after 1 second and then twice as long each time, up to 60.")
	t, m := f.traffic(), f.machine()
	if _, err := f.parse(arguments, 0, 0); err != nil {
		return err
	}
	cage, err := t.load()
	if err != nil {
		return err
	}
	options, err := t.options(cage)
	if err != nil {
		return err
	}
	config, err := m.config(cage, *t.eif)
	if err != nil {
		return err
	}
	folder, err := enclave.OpenState(or(*m.state, filepath.Join(stateBase(), config.Name)))
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	defer folder.Close()
	until, release := ends()
	defer release()
	return serve.Run(until, options, serve.RunOptions{
		Driver: m.driver(config, folder), BootTimeout: *m.bootTimeout, Once: *m.once,
		// The console shows the same lines.
		FollowLogs: cage.Logs && !*m.emulator && !*m.debug,
	})
}

// config is the image's, with what the flags say instead.
func (m *machine) config(cage *eif.Cage, image string) (config enclave.Config, err error) {
	config = enclave.Config{
		Name: or(*m.name, cage.Name), CPUs: or(*m.cpus, cage.CPUs), MemoryMiB: or(*m.memory, cage.MemoryMiB),
		CID: uint32(*m.cid), Debug: *m.debug,
	}
	switch {
	case filepath.Base(config.Name) != config.Name || config.Name == "." || config.Name == "..":
		return config, usagef("--name: %q is no name", config.Name)
	case *m.accel != "tcg" && *m.accel != "kvm":
		return config, usagef("--accel: got %q, expected tcg or kvm", *m.accel)
	case *m.bootTimeout <= 0:
		return config, usagef("--boot-timeout has to be above 0")
	case *m.emulator && cage.Architecture != "x86_64":
		return config, fmt.Errorf("%s is for %s: the emulator's machine nitro-enclave is for x86_64 alone",
			image, cage.Architecture)
	}
	config.EIF, err = filepath.Abs(image)
	return config, err
}

func (m *machine) driver(config enclave.Config, state *enclave.State) enclave.Driver {
	if *m.emulator {
		return &enclave.Emulator{
			Config: config, State: state, QEMU: *m.qemu, Vsock: *m.device, Parent: *m.parent, Firmware: *m.firmware,
			Accel: *m.accel, Journal: journal.Standard,
		}
	}
	return &enclave.Nitro{Config: config, State: state, CLI: *m.nitroCLI, Replace: *m.replace, Journal: journal.Standard}
}

func or[T comparable](given, standard T) T {
	var zero T
	if given == zero {
		return standard
	}
	return given
}

func stateBase() string {
	if folder := os.Getenv("RUNTIME_DIRECTORY"); folder != "" {
		return folder
	}
	if os.Geteuid() == 0 {
		return "/run/cage-host"
	}
	if folder := os.Getenv("XDG_RUNTIME_DIR"); folder != "" {
		return filepath.Join(folder, "cage-host")
	}
	return fmt.Sprintf("/tmp/cage-host-%d", os.Geteuid())
}
