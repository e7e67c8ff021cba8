package pid1

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const (
	parentCID     = 3 // the parent instance, seen from any enclave
	heartbeatPort = 9000
	heartbeatByte = 0xB7
)

// parentWord is the only word of the kernel's command line that is read here. Emulators append to the
// measured command line; where their parent has another CID this says so, and it changes nothing else:
// the heartbeat carries no information.
const parentWord = "cagebuild.parent_cid="

// heartbeat tells the parent that the enclave has started, and waits for its answer.
func (m machine) heartbeat(cid uint32) (err error) {
	stream, err := m.dial(cid, heartbeatPort)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	if _, err := stream.Write([]byte{heartbeatByte}); err != nil {
		return err
	}
	answer := [1]byte{}
	if _, err := io.ReadFull(stream, answer[:]); errors.Is(err, syscall.EAGAIN) {
		return errors.New("no answer from the parent in time") // how a socket's time limit ends a read
	} else if err != nil {
		return fmt.Errorf("no answer from the parent: %w", err)
	}
	if answer[0] != heartbeatByte {
		return fmt.Errorf("the parent answered %#02x, expected %#02x", answer[0], heartbeatByte)
	}
	return nil
}

// readParent finds out the parent's CID. It needs /proc for a moment, before the image's own is mounted.
func readParent() (uint32, error) {
	const folder = "/proc"
	made := os.Mkdir(folder, 0o555)
	if made != nil && !errors.Is(made, os.ErrExist) {
		return 0, made
	}
	if err := mount("proc", folder, "proc", hardened, ""); err != nil {
		return 0, err
	}
	line, err := os.ReadFile(folder + "/cmdline")
	if err != nil {
		return 0, err
	}
	if err := syscall.Unmount(folder, 0); err != nil {
		return 0, &os.PathError{Op: "unmount", Path: folder, Err: err}
	}
	if made == nil {
		if err := os.Remove(folder); err != nil {
			return 0, err
		}
	}
	return parentFrom(string(line))
}

// parentFrom takes the last such word, as the kernel does with its own.
func parentFrom(line string) (uint32, error) {
	cid := uint32(parentCID)
	for word := range strings.FieldsSeq(line) {
		digits, found := strings.CutPrefix(word, parentWord)
		if !found {
			continue
		}
		number, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || number == math.MaxUint32 {
			return 0, fmt.Errorf("kernel command line: %q: expected a CID from 0 to 4294967294", word)
		}
		cid = uint32(number)
	}
	return cid, nil
}
