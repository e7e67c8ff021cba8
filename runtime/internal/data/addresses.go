package data

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/vsock"
)

const (
	guestPort  = 9001   // of the guest, for the host's streams
	parentBase = 10_000 // the host listens for a guest at this and the guest's CID
	parentCID  = 3      // the parent instance, seen from any enclave

	// parentWord is a word of the kernel's command line, for emulators whose parent isn't CID 3. Package pid1
	// reads it for the heartbeat.
	parentWord = "cagebuild.parent_cid="
)

// addresses are where streams come from and go to. Without a vsock, and without URLs in its place, there are
// neither.
type addresses struct {
	listen *transport.Address
	parent *transport.Address
	ownCID uint32 // only with vsock
}

// findAddresses reads the URLs that were given, and looks at the machine for what wasn't.
func findAddresses(listen, parent string) (found addresses, err error) {
	cid, missing := transport.LocalCID()
	if missing != nil && !errors.Is(missing, fs.ErrNotExist) {
		return found, fmt.Errorf("own CID: %w", missing)
	}
	found.ownCID = cid
	isVsock := missing == nil && cid != vsock.Any // which it is when no device has one
	switch {
	case listen != "":
		if found.listen, err = parse(listen); err != nil {
			return found, err
		}
	case isVsock:
		found.listen = &transport.Address{Scheme: "vsock", CID: vsock.Any, Port: guestPort}
	}
	switch {
	case parent != "":
		found.parent, err = parse(parent)
	case isVsock:
		var line []byte
		if line, err = os.ReadFile("/proc/cmdline"); err == nil {
			found.parent, err = parentOf(string(line), cid)
		}
	}
	return found, err
}

func parse(text string) (*transport.Address, error) {
	address, err := transport.Parse(text)
	return &address, err
}

// parentOf is where the host listens for the guest with this CID, by the kernel's command line.
func parentOf(line string, own uint32) (*transport.Address, error) {
	if own > math.MaxUint32-1-parentBase {
		return nil, fmt.Errorf("own CID %d: there is no port %d + %d", own, parentBase, own)
	}
	address := &transport.Address{Scheme: "vsock", CID: parentCID, Port: parentBase + own}
	for word := range strings.FieldsSeq(line) {
		digits, found := strings.CutPrefix(word, parentWord)
		if !found {
			continue
		}
		number, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || number == math.MaxUint32 {
			return nil, fmt.Errorf("kernel command line: %.100q: expected a CID from 0 to 4294967294", word)
		}
		address.CID = uint32(number)
	}
	return address, nil
}
