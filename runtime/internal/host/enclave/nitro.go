package enclave

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"cagebuild.dev/runtime/internal/host/journal"
)

const (
	maxOutput = 1 << 20
	idFile    = "enclave-id"

	// pollEvery is how often nitro-cli is asked whether the enclave still runs: it has no way to wait for that.
	pollEvery = 2 * time.Second

	// maxUnknown is how often in a row it may give no answer before the enclave counts as ended.
	maxUnknown = 15

	commandTimeout = time.Minute
)

// Nitro runs enclaves with nitro-cli.
type Nitro struct {
	Config  Config
	State   *State
	CLI     string        // program: a path, or a name in PATH
	Replace bool          // end an enclave of the same name, whoever started it
	Poll    time.Duration // 0: every two seconds
	Journal *journal.Journal
}

// description is what nitro-cli says of an enclave, as far as it is of use (aws/aws-nitro-enclaves-cli:
// src/common/json_output.rs).
type description struct {
	EnclaveName string
	EnclaveID   string
	EnclaveCID  uint32
	MemoryMiB   uint64
	CPUIDs      []uint32
	State       string
	Terminated  bool
}

// Check looks for nitro-cli and the device.
func (n *Nitro) Check(context.Context) error {
	if _, err := exec.LookPath(n.CLI); err != nil {
		return fmt.Errorf("starting an enclave needs nitro-cli: %w "+
			"(package aws-nitro-enclaves-cli; --nitro-cli says where it is; --emulator does without)", err)
	}
	return nil
}

// run runs nitro-cli and returns what it wrote to standard output. Output goes to files: the process that it leaves
// behind for an enclave may keep them open.
func (n *Nitro) run(ctx context.Context, words ...string) ([]byte, error) {
	stdout, err := os.CreateTemp(n.State.path, "nitro-cli-*")
	if err != nil {
		return nil, err
	}
	defer remove(stdout)
	stderr, err := os.CreateTemp(n.State.path, "nitro-cli-*")
	if err != nil {
		return nil, err
	}
	defer remove(stderr)
	command := exec.CommandContext(ctx, n.CLI, words...)
	command.Stdout, command.Stderr = stdout, stderr
	failure := command.Run()
	said, err := content(stderr)
	if err != nil {
		return nil, err
	}
	if failure != nil {
		if ctx.Err() != nil {
			failure = ctx.Err()
		}
		return nil, fmt.Errorf("nitro-cli %s: %w: %s", words[0], failure, lastLines(said))
	}
	return content(stdout)
}

func remove(file *os.File) {
	_ = file.Close()
	_ = os.Remove(file.Name())
}

func content(file *os.File) ([]byte, error) {
	data := make([]byte, maxOutput)
	size, err := file.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data[:size], nil
}

// lastLines puts the end of a program's complaints on one line.
func lastLines(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-6):], " | ")
}

// describe asks for one enclave, or all.
func (n *Nitro) describe(ctx context.Context) ([]description, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	data, err := n.run(ctx, "describe-enclaves")
	if err != nil {
		return nil, err
	}
	var list []description
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("nitro-cli describe-enclaves: %w", err)
	}
	return list, nil
}

func (n *Nitro) terminate(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	data, err := n.run(ctx, "terminate-enclave", "--enclave-id", id)
	if err != nil {
		return err
	}
	var ended description
	if err := json.Unmarshal(data, &ended); err != nil {
		return fmt.Errorf("nitro-cli terminate-enclave: %w", err)
	}
	if !ended.Terminated {
		return fmt.Errorf("nitro-cli terminate-enclave: %s was not terminated", id)
	}
	return nil
}

// Clean ends the enclave that an earlier run has noted and left. Another one of the same name is somebody else's: it
// is ended only if that is wanted, and an error otherwise.
func (n *Nitro) Clean(ctx context.Context) error {
	noted, err := os.ReadFile(n.State.Path(idFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	list, err := n.describe(ctx)
	if err != nil {
		return err
	}
	own := string(bytes.TrimSpace(noted))
	for _, found := range list {
		switch {
		case found.EnclaveID == "":
			continue
		case found.EnclaveID == own:
			n.Journal.Line("enclave %s (CID %d) was left by an earlier run: terminating it", found.EnclaveID, found.EnclaveCID)
		case found.EnclaveName == n.Config.Name && n.Replace:
			n.Journal.Line("enclave %s (CID %d) has the same name: terminating it (--replace)",
				found.EnclaveID, found.EnclaveCID)
		case found.EnclaveName == n.Config.Name:
			return fmt.Errorf("an enclave named %q runs already, %s, and no earlier cage-host has noted it: end it with "+
				"\"nitro-cli terminate-enclave --enclave-id %s\", or take --replace, or another --name",
				n.Config.Name, found.EnclaveID, found.EnclaveID)
		default:
			continue
		}
		if err := n.terminate(ctx, found.EnclaveID); err != nil {
			return err
		}
	}
	return n.forget(own)
}

// forget removes the note of an enclave, unless it is of another one by now.
func (n *Nitro) forget(id string) error {
	noted, err := os.ReadFile(n.State.Path(idFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case string(bytes.TrimSpace(noted)) != id:
		return nil
	}
	if err := os.Remove(n.State.Path(idFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (n *Nitro) words() []string {
	words := []string{
		"run-enclave", "--enclave-name", n.Config.Name, "--eif-path", n.Config.EIF,
		"--cpu-count", strconv.Itoa(n.Config.CPUs), "--memory", strconv.Itoa(n.Config.MemoryMiB),
	}
	if n.Config.CID != 0 {
		words = append(words, "--enclave-cid", strconv.FormatUint(uint64(n.Config.CID), 10))
	}
	if n.Config.Debug {
		words = append(words, "--debug-mode")
	}
	return words
}

// Start implements Driver. nitro-cli itself waits for the heartbeat.
func (n *Nitro) Start(ctx context.Context, announce func(Place) error) (Enclave, error) {
	if n.Config.CID != 0 {
		if err := announce(OnVsock(n.Config.CID)); err != nil {
			return nil, err
		}
	}
	started, err := n.runEnclave(ctx)
	if err != nil {
		// It may have begun what it couldn't finish, or was cut off.
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
		defer cancel()
		return nil, errors.Join(err, n.cleanNamed(cleaning))
	}
	if err := n.took(started, announce); err != nil {
		return nil, errors.Join(err, n.terminate(context.WithoutCancel(ctx), started.EnclaveID))
	}
	n.Journal.Line("enclave %s: CID %d, %d MiB, CPUs %v", started.EnclaveID, started.EnclaveCID, started.MemoryMiB,
		started.CPUIDs)
	running := &watched{driver: n, id: started.EnclaveID, done: make(chan struct{}), stop: make(chan chan error)}
	if n.Config.Debug {
		running.console()
	}
	go running.watch()
	return running, nil
}

func (n *Nitro) runEnclave(ctx context.Context) (started description, err error) {
	data, err := n.run(ctx, n.words()...)
	if err != nil {
		return started, err
	}
	if err := json.Unmarshal(data, &started); err != nil {
		return started, fmt.Errorf("nitro-cli run-enclave: %w", err)
	}
	if started.EnclaveID == "" || started.EnclaveCID < MinCID {
		return started, fmt.Errorf("nitro-cli run-enclave: named no enclave: id %q, CID %d",
			started.EnclaveID, started.EnclaveCID)
	}
	return started, nil
}

// took notes an enclave for the case that this program gets killed, and announces where it is.
func (n *Nitro) took(started description, announce func(Place) error) error {
	if err := os.WriteFile(n.State.Path(idFile), []byte(started.EnclaveID+"\n"), 0o600); err != nil {
		return err
	}
	switch n.Config.CID {
	case 0:
		return announce(OnVsock(started.EnclaveCID))
	case started.EnclaveCID:
		return nil
	default:
		return fmt.Errorf("nitro-cli run-enclave: CID %d, wanted %d", started.EnclaveCID, n.Config.CID)
	}
}

// cleanNamed ends whatever has the cage's name after a start that failed. Clean has made sure that nothing had it
// before.
func (n *Nitro) cleanNamed(ctx context.Context) error {
	list, err := n.describe(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, found := range list {
		if found.EnclaveName == n.Config.Name && found.EnclaveID != "" {
			failures = append(failures, n.terminate(ctx, found.EnclaveID))
		}
	}
	return errors.Join(failures...)
}
