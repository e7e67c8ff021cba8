package enclave

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/transport"
)

const (
	emulatedCID = 16
	machine     = "nitro-enclave"

	// appended follows the measured command line, and is not measured: the parent's CID, and a way to restart without a
	// keyboard controller.
	appended = "cagebuild.parent_cid=%d reboot=t panic=1"

	quiet         = 500 * time.Millisecond // after which the start of a console's line is shown
	deviceTimeout = 10 * time.Second
	deviceStep    = 20 * time.Millisecond
)

// Device is the command of the project's own vsock device.
const Device = "python3 -m cagebuild.emulator --device {device} --vsock {vsock} --cid {cid} --parent {parent}"

// Emulator runs enclaves in QEMU's machine nitro-enclave, with a vsock device that is another program. Nothing about them is
// attested by AWS, and whoever runs them reads their memory.
type Emulator struct {
	Config   Config
	State    *State
	QEMU     string // program: a path, or a name in PATH
	Vsock    string // command of the vsock device: words; {device}, {vsock}, {cid} and {parent} are replaced
	Parent   int    // CID of the parent, as the device has it
	Firmware string // folder with qboot.rom; empty: QEMU's own
	Accel    string // "tcg" or "kvm"
	Journal  *journal.Journal
}

// Check looks for both programs, and asks QEMU for the machine.
func (e *Emulator) Check(ctx context.Context) error {
	for _, tool := range []struct{ program, flag, hint string }{
		{e.QEMU, "--qemu", "QEMU 9.2 or newer, built with libcbor, has the machine " + machine},
		{e.device("", Place{})[0], "--vsock-device", "the Python that cagebuild is installed for runs it"},
	} {
		if _, err := exec.LookPath(tool.program); err != nil {
			return fmt.Errorf("the emulator needs %s: %w (%s; %s says where it is)", tool.program, err, tool.hint, tool.flag)
		}
	}
	list, err := exec.CommandContext(ctx, e.QEMU, "-M", "help").Output()
	if err != nil {
		return fmt.Errorf("%s -M help: %w", e.QEMU, err)
	}
	for line := range bytes.Lines(list) {
		if bytes.HasPrefix(line, []byte(machine+" ")) {
			return nil
		}
	}
	return fmt.Errorf("%s has no machine %s: it takes QEMU 9.2 or newer, built with libcbor (--qemu says where it is)",
		e.QEMU, machine)
}

// Clean removes sockets. Processes ended with the cage-host that started them.
func (e *Emulator) Clean(context.Context) error {
	left, err := filepath.Glob(e.State.Path("*.sock*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (e *Emulator) place() Place {
	cid := e.Config.CID
	if cid == 0 {
		cid = emulatedCID
	}
	path := e.State.Path("vm.sock")
	return Place{
		CID:    cid,
		Guest:  transport.Address{Scheme: "hybrid", Path: path, Port: GuestPort},
		Parent: transport.Address{Scheme: "hybrid", Path: path, Port: ParentBase + cid},
	}
}

// device is the command line of the vsock device.
func (e *Emulator) device(socket string, place Place) []string {
	words := strings.Fields(e.Vsock)
	if len(words) == 0 {
		return []string{""}
	}
	values := strings.NewReplacer("{device}", socket, "{vsock}", place.Guest.Path,
		"{cid}", strconv.FormatUint(uint64(place.CID), 10), "{parent}", strconv.Itoa(e.Parent))
	for index := range words {
		words[index] = values.Replace(words[index])
	}
	return words
}

// emulated is a running QEMU with its device.
type emulated struct {
	device, qemu *process
	done         chan struct{}
	err          error
}

func (e *emulated) Done() <-chan struct{} { return e.done }
func (e *emulated) Err() error            { return e.err }

func (e *emulated) Stop(ctx context.Context) error {
	e.qemu.stop(ctx)
	<-e.done
	return nil
}

// Start implements Driver.
func (e *Emulator) Start(ctx context.Context, announce func(Place) error) (Enclave, error) {
	if err := e.Clean(ctx); err != nil {
		return nil, err
	}
	place := e.place()
	if _, err := transport.Parse(place.Parent.String()); err != nil {
		return nil, fmt.Errorf("%w (choose a shorter --state)", err)
	}
	if err := announce(place); err != nil {
		return nil, err
	}
	heartbeat, err := transport.Address{Scheme: "hybrid", Path: place.Guest.Path, Port: heartbeatPort}.Listen()
	if err != nil {
		return nil, err
	}
	beaten := make(chan error, 1)
	go func() { beaten <- answerHeartbeat(heartbeat) }()
	defer func() { _ = heartbeat.Close() }()
	running, err := e.launch(ctx, place)
	if err != nil {
		return nil, err
	}
	select {
	case err = <-beaten:
		if err == nil {
			return running, nil
		}
	case <-running.done:
		return nil, fmt.Errorf("ended before its heartbeat: %w", running.err)
	case <-ctx.Done():
		err = fmt.Errorf("no heartbeat: %w", ctx.Err())
	}
	_ = running.Stop(context.Background())
	return nil, err
}

// launch starts the device, then QEMU, and sees to it that neither stays without the other.
func (e *Emulator) launch(ctx context.Context, place Place) (*emulated, error) {
	socket := e.State.Path("vhost.sock")
	words := e.device(socket, place)
	device, err := e.spawn("vsock", exec.Command(words[0], words[1:]...))
	if err != nil {
		return nil, err
	}
	if err := appears(ctx, socket, device); err != nil {
		device.stop(context.Background())
		return nil, err
	}
	qemu, err := e.spawn("console", exec.Command(e.QEMU, e.arguments(socket)...))
	if err != nil {
		device.stop(context.Background())
		return nil, err
	}
	running := &emulated{device: device, qemu: qemu, done: make(chan struct{})}
	go func() {
		select {
		case <-qemu.done:
			running.err = ending(qemu.err)
		case <-device.done:
			running.err = withoutDevice(qemu, device)
		}
		qemu.stop(context.Background())
		device.stop(context.Background())
		if err := e.Clean(context.Background()); err != nil {
			e.Journal.Line("emulator: %v", err)
		}
		close(running.done)
	}()
	return running, nil
}

// withoutDevice is how an enclave ended whose vsock device ended: first, or because QEMU has left it just before.
func withoutDevice(qemu, device *process) error {
	select {
	case <-qemu.done:
		return ending(qemu.err)
	case <-time.After(time.Second):
		return fmt.Errorf("its vsock device ended: %w", ending(device.err))
	}
}

func ending(err error) error {
	if err == nil {
		return errors.New("it shut down") // QEMU has no other word for a guest that restarts
	}
	return err
}

func (e *Emulator) arguments(socket string) []string {
	var words []string
	if e.Firmware != "" {
		words = append(words, "-L", e.Firmware)
	}
	return append(words,
		"-M", machine+",vsock=c,id="+option(e.Config.Name),
		"-accel", e.Accel, "-cpu", "max",
		"-smp", strconv.Itoa(e.Config.CPUs), "-m", strconv.Itoa(e.Config.MemoryMiB)+"M",
		"-kernel", e.Config.EIF,
		"-nographic", "-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio",
		"-chardev", "socket,id=c,path="+option(socket),
		"-append", fmt.Sprintf(appended, e.Parent),
	)
}

// option writes a value for QEMU's comma-separated options.
func option(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// spawn starts a program whose output goes to the journal, line by line.
func (e *Emulator) spawn(name string, command *exec.Cmd) (*process, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	command.Stdout, command.Stderr = writer, writer
	running, err := start(command)
	_ = writer.Close()
	if err != nil {
		_ = reader.Close()
		return nil, err
	}
	var shown sync.WaitGroup
	shown.Go(func() {
		_ = say.Relay(reader, e.Journal, name, quiet)
		_ = reader.Close()
	})
	whole := &process{command: running.command, done: make(chan struct{})}
	go func() {
		<-running.done
		shown.Wait() // its last words are there before its end is said
		whole.err = running.err
		close(whole.done)
	}()
	return whole, nil
}

// appears waits for a socket of a process.
func appears(ctx context.Context, socket string, of *process) error {
	ctx, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	for {
		if _, err := os.Lstat(socket); err == nil {
			return nil
		}
		select {
		case <-of.done:
			return fmt.Errorf("%s ended: %w", of.command.Path, ending(of.err))
		case <-ctx.Done():
			return fmt.Errorf("%s has made no socket: %w", of.command.Path, ctx.Err())
		case <-time.After(deviceStep):
		}
	}
}
