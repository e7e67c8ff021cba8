package egress

import (
	"errors"
	"fmt"
	"net/netip"

	"cagebuild.dev/runtime/internal/netlink"
	"cagebuild.dev/runtime/internal/rules"
)

// serveName listens at a name's address on the ports that rules allow, where it doesn't yet. It reports
// whether there is any, and why there are not all.
func (e *Egress) serveName(name string, address netip.Addr) (isServed bool, err error) {
	for _, port := range e.options.Rules.Ports(name) {
		if failure := e.listen(netip.AddrPortFrom(address, port)); failure != nil {
			err = errors.Join(err, failure)
		} else {
			isServed = true
		}
	}
	return isServed, err
}

// configured is an address that no name gets. glibc's getaddrinfo with AI_ADDRCONFIG, asked for IPv4, answers
// nothing on a machine that has no other address than 127.0.0.1.
var configured = netip.PrefixFrom(pool.Addr(), pool.Addr().BitLen())

func (e *Egress) configure() {
	if err := netlink.AddAddress(configured); err != nil {
		e.notes.say("configure", "egress: some programs will resolve no names: %v", err)
	}
}

// serveNetworks makes allowed addresses local and listens there. A single address is bound as such; nothing can
// be bound to a network, so that its port is listened on at every address, and target decides.
func (e *Egress) serveNetworks() {
	networks := e.options.Rules.Networks()
	usable := networks[:0]
	for _, network := range networks {
		if err := netlink.AddLocal(network.Prefix); err != nil {
			e.sayUnusable(network, err)
			continue
		}
		usable = append(usable, network)
	}
	for _, network := range usable {
		if isSingle(network) {
			continue
		}
		everywhere := anyOf(netip.AddrPortFrom(network.Prefix.Addr(), network.Port))
		if e.anyPorts[everywhere] {
			continue
		}
		if err := e.acceptor.listen(everywhere); err != nil {
			e.sayUnusable(network, err)
			continue
		}
		e.anyPorts[everywhere] = true
	}
	for _, network := range usable {
		if !isSingle(network) {
			continue
		}
		if err := e.listen(netip.AddrPortFrom(network.Prefix.Addr(), network.Port)); err != nil {
			e.sayUnusable(network, err)
		}
	}
}

func (e *Egress) sayUnusable(network rules.Network, err error) {
	rule := fmt.Sprintf("%s, port %d", network.Prefix, network.Port)
	e.notes.say("rule "+rule, "egress: the rule %s can't be served: %v", rule, err)
}

func isSingle(network rules.Network) bool { return network.Prefix.IsSingleIP() }

// anyOf is all addresses of the family, at the same port.
func anyOf(where netip.AddrPort) netip.AddrPort {
	if where.Addr().Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), where.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), where.Port())
}

// listen listens at an address and port, if nothing does yet.
func (e *Egress) listen(where netip.AddrPort) error {
	e.binding.Lock()
	defer e.binding.Unlock()
	if e.anyPorts[anyOf(where)] || e.listening[where] {
		return nil
	}
	if err := e.acceptor.listen(where); err != nil {
		return err
	}
	e.listening[where] = true
	return nil
}

// target is where a connection that came in at an address and port wants to go. It is asked for every
// connection, whatever was listened on: a listener at all addresses gets what is for none of the rules, too.
func (e *Egress) target(local netip.AddrPort) (host string, err error) {
	address, port := local.Addr().Unmap(), local.Port()
	if name, ok := e.names.name(address); ok {
		if e.options.Rules.Name(name, port) {
			return name, nil
		}
		return "", fmt.Errorf("no rule allows %s, port %d", name, port)
	}
	if e.options.Rules.Address(address, port) {
		return address.String(), nil
	}
	return "", fmt.Errorf("no rule allows %s, port %d", address, port)
}
