// Package serve is cage-host at work: it ties an enclave, its traffic and the admin server together, from the start to
// the orderly end.
package serve

import (
	"context"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/host/eif"
	"cagebuild.dev/runtime/internal/host/ingress"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/transport"
)

// Options of what is served. All but Admin are required.
type Options struct {
	Cage         *eif.Cage
	Publications []ingress.Publication
	AcceptProxy  bool
	Admin        *transport.Address // nil: none

	MaxConnections       int // of clients
	MaxEgressConnections int // of the guest
	EgressTimeout        time.Duration
	DrainTimeout         time.Duration
	Journal              *journal.Journal
}

// Ends are the two ways to end: in order, and at once. The second implies the first.
type Ends struct{ Orderly, AtOnce context.Context }

// spareFiles is how many descriptors there are besides connections: listeners, programs, look-ups, the admin's clients.
const spareFiles = 1024

// fitFiles lowers the limits on connections, each of which takes two descriptors, to what this process may open.
func (o *Options) fitFiles() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	wanted := 2*(uint64(o.MaxConnections)+uint64(o.MaxEgressConnections)) + spareFiles
	if limit.Cur >= wanted {
		return
	}
	usable := limit.Cur / 2
	if limit.Cur > 2*spareFiles {
		usable = limit.Cur - spareFiles
	}
	o.MaxConnections, o.MaxEgressConnections = share(int(usable/2), o.MaxConnections, o.MaxEgressConnections)
	o.Journal.Line("this process may open %d files, which is enough for %d connections of clients and %d of the guest; "+
		"LimitNOFILE=%d would be enough for all", limit.Cur, o.MaxConnections, o.MaxEgressConnections, wanted)
}

// share divides a number between two that want some of it: each gets half, or what it wants if that is less, and what
// the other one leaves. Each gets one at least.
func share(total, first, second int) (int, int) {
	half := total / 2
	switch {
	case first <= half:
		second = min(second, total-first)
	case second <= half:
		first = min(first, total-second)
	default:
		first, second = half, half
	}
	return max(1, first), max(1, second)
}
