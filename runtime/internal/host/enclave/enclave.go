// Package enclave starts enclaves, watches and ends them: real ones through nitro-cli, emulated ones in QEMU.
package enclave

import (
	"context"

	"cagebuild.dev/runtime/internal/transport"
)

const (
	// GuestPort is where every guest listens on vsock.
	GuestPort = 9001

	// ParentBase and a guest's CID are the port where its parent listens on vsock.
	ParentBase = 10000

	// MinCID is the least that a guest may have: those below are the machine's own.
	MinCID = 4
)

// Place says where the streams of an enclave go.
type Place struct {
	CID    uint32
	Guest  transport.Address // the guest listens there
	Parent transport.Address // the guest's streams to its parent come there
}

// OnVsock is the place of the enclave with a CID.
func OnVsock(cid uint32) Place {
	return Place{
		CID:    cid,
		Guest:  transport.Address{Scheme: "vsock", CID: cid, Port: GuestPort},
		Parent: transport.Address{Scheme: "vsock", CID: anyCID, Port: ParentBase + cid},
	}
}

const anyCID = 1<<32 - 1

// Config is what every kind of enclave is started with.
type Config struct {
	Name      string // of the cage
	EIF       string // path
	CPUs      int
	MemoryMiB int
	CID       uint32 // 0: any
	Debug     bool   // with a console, and without meaningful PCRs
}

// Enclave is one that runs, or has ended.
type Enclave interface {
	// Done is closed when the enclave has ended and nothing of it is left.
	Done() <-chan struct{}
	// Err says, after Done, how it ended.
	Err() error
	// Stop ends the enclave and returns when it is gone. Only the context's end keeps it from that.
	Stop(ctx context.Context) error
}

// Driver starts enclaves of one kind and one configuration.
type Driver interface {
	// Check finds out whether an enclave can be started here at all. The error says what is missing.
	Check(ctx context.Context) error
	// Clean ends what an earlier run that was killed has left.
	Clean(ctx context.Context) error
	// Start starts an enclave and returns when it has sent its heartbeat. announce is called once, as soon as it is
	// known where the streams go: before the enclave runs, unless its CID is chosen by others. The context bounds the
	// start alone.
	Start(ctx context.Context, announce func(Place) error) (Enclave, error)
}
