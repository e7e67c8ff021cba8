package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"cagebuild.dev/runtime/internal/transport"
)

const (
	// attemptDelay is how long an attempt has before the next address is tried beside it (RFC 8305, section 5).
	attemptDelay = 250 * time.Millisecond

	// maxAddresses is how many addresses of one name are tried.
	maxAddresses = 16
)

// interleave orders addresses so that the families take turns, the first one's first, and drops what is there twice.
func interleave(addresses []netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	seen := map[netip.Addr]bool{}
	first := -1
	for _, address := range addresses {
		if seen[address] {
			continue
		}
		seen[address] = true
		family := 0
		if address.Is4() {
			family = 1
		}
		if first < 0 {
			first = family
		}
		families[family] = append(families[family], address)
	}
	var mixed []netip.Addr
	for turn := 0; len(families[0])+len(families[1]) > 0 && len(mixed) < maxAddresses; turn++ {
		family := (max(first, 0) + turn) % 2
		if len(families[family]) > 0 {
			mixed = append(mixed, families[family][0])
			families[family] = families[family][1:]
		}
	}
	return mixed
}

type attempt struct {
	conn transport.Conn
	err  error
}

// dialAny connects to the first of the addresses that answers. Each gets a head start before the next one is tried;
// the error is that of the first that failed.
func dialAny(ctx context.Context, addresses []netip.Addr, port uint16) (transport.Conn, error) {
	if len(addresses) == 0 {
		return nil, errors.New("no address")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt)
	started, running := 0, 0
	start := func() {
		address := transport.Address{Scheme: "tcp", Host: addresses[started].String(), Port: uint32(port)}
		started++
		running++
		go func() {
			conn, err := address.Dial(ctx)
			select {
			case results <- attempt{conn, err}:
			case <-ctx.Done():
				if conn != nil {
					_ = conn.Close()
				}
			}
		}()
	}
	start()
	ticker := time.NewTicker(attemptDelay)
	defer ticker.Stop()
	var failure error
	for {
		select {
		case result := <-results:
			if result.err == nil {
				return result.conn, nil
			}
			running--
			if failure == nil || errors.Is(failure, context.Canceled) {
				failure = result.err
			}
			switch {
			case started < len(addresses):
				start()
				ticker.Reset(attemptDelay)
			case running == 0:
				return nil, failure
			}
		case <-ticker.C:
			if started < len(addresses) {
				start()
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lookup resolves a name, absolutely: the parent's search list must not lead elsewhere.
func lookup(ctx context.Context, resolver *net.Resolver, name string) ([]netip.Addr, error) {
	addresses, err := resolver.LookupNetIP(ctx, "ip", name+".")
	for index := range addresses {
		addresses[index] = addresses[index].Unmap()
	}
	return addresses, err
}
