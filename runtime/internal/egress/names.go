package egress

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"sync"

	"cagebuild.dev/runtime/internal/rules"
)

// pool is where names get their addresses from.
var pool = netip.MustParsePrefix("127.64.0.0/10")

// perNet is how many addresses of 256 are given away: some clients take .0 and .255 for a network's own.
const perNet = 254

// errFull says that no further name gets an address.
var errFull = errors.New("as many names as there may be have an address")

// names gives each name an address that is its own as long as the enclave runs.
type names struct {
	limit int
	state *state

	mutex     sync.RWMutex
	byName    map[string]netip.Addr
	byAddress map[netip.Addr]string
	next      int // where a free address is looked for
}

// openNames reads what earlier processes of this enclave have given away, if there is a path.
func openNames(path string, limit int, set *rules.Set) (*names, error) {
	n := &names{limit: limit, byName: map[string]netip.Addr{}, byAddress: map[netip.Addr]string{}}
	if path == "" {
		return n, nil
	}
	state, err := openState(path, func(name string, address netip.Addr) error {
		canonical, err := rules.Canonical(name)
		switch {
		case err != nil:
			return err
		case canonical != name:
			return errors.New("the name is not in its canonical form")
		case len(set.Ports(name)) == 0:
			return errors.New("no rule allows the name")
		case !isInPool(address):
			return fmt.Errorf("the address is not one of %s", pool)
		case n.byName[name].IsValid() || n.byAddress[address] != "":
			return errors.New("the name or the address is there twice")
		case len(n.byName) >= limit:
			return errFull
		}
		n.set(name, address)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	n.state = state
	return n, state.rewrite(n.byName)
}

func (n *names) set(name string, address netip.Addr) {
	n.byName[name] = address
	n.byAddress[address] = name
}

// isInPool reports whether an address is one that names get.
func isInPool(address netip.Addr) bool {
	if !address.Is4() || !pool.Contains(address) {
		return false
	}
	last := address.As4()[3]
	return last != 0 && last != 255
}

// nth is an address of the pool.
func nth(index int) netip.Addr {
	net := index / perNet
	return netip.AddrFrom4([4]byte{127, byte(64 + net>>8), byte(net), byte(1 + index%perNet)})
}

// add returns the address of a name, a new one if it has none. The error is errFull, or that the state can't
// be written: then the name has no address, for it might have another one after a restart.
func (n *names) add(name string) (netip.Addr, error) {
	if address, ok := n.address(name); ok {
		return address, nil
	}
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if address, ok := n.byName[name]; ok {
		return address, nil
	}
	if len(n.byName) >= n.limit {
		return netip.Addr{}, errFull
	}
	// There are far more addresses than names: one is free.
	for n.byAddress[nth(n.next)] != "" {
		n.next++
	}
	address := nth(n.next)
	if n.state != nil {
		if err := n.state.append(name, address); err != nil {
			return netip.Addr{}, fmt.Errorf("state: %w", err)
		}
	}
	n.set(name, address)
	return address, nil
}

// address is what a name has got.
func (n *names) address(name string) (netip.Addr, bool) {
	n.mutex.RLock()
	defer n.mutex.RUnlock()
	address, ok := n.byName[name]
	return address, ok
}

// name is whose an address is.
func (n *names) name(address netip.Addr) (string, bool) {
	n.mutex.RLock()
	defer n.mutex.RUnlock()
	name, ok := n.byAddress[address]
	return name, ok
}

// all are the names and addresses of this moment.
func (n *names) all() iter.Seq2[string, netip.Addr] {
	n.mutex.RLock()
	defer n.mutex.RUnlock()
	return maps.All(maps.Clone(n.byName))
}

func (n *names) close() {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.state != nil {
		n.state.close()
	}
}
