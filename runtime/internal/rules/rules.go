// Package rules decides what may leave an enclave: a list of names, addresses and networks, each with one
// port. Both sides of the wall ask it, with the same list out of the measured image.
//
// A rule's host is one of
//
//	api.example.com   that name and no other
//	*.example.com     every name below example.com, at any depth; not example.com itself
//	192.0.2.1         an address of IPv4 or IPv6
//	192.0.2.0/24      a network
//
// The check is as strict as that of cage.toml (cagebuild.config.egress): a rule that matches more than its
// author meant is a hole.
package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cagebuild.dev/runtime/internal/settings"
)

// Network is a rule for an address or a network.
type Network struct {
	Prefix netip.Prefix // masked; all bits for a single address
	Port   uint16
}

// Set is a parsed list. It doesn't change, so it can be used from everywhere at once.
type Set struct {
	names    map[string][]uint16 // ports by exact name, each sorted
	domains  map[string][]uint16 // ports by what follows "*."
	prefixes map[uint16][]netip.Prefix
	networks []Network
}

// Parse reads a list. The error names the rule that is wrong.
func Parse(list []settings.Egress) (*Set, error) {
	s := &Set{
		names:    map[string][]uint16{},
		domains:  map[string][]uint16{},
		prefixes: map[uint16][]netip.Prefix{},
	}
	for _, rule := range list {
		if err := s.add(rule.Host, rule.Port); err != nil {
			return nil, fmt.Errorf("egress rule %.260q, port %d: %w", rule.Host, rule.Port, err)
		}
	}
	for _, ports := range []map[string][]uint16{s.names, s.domains} {
		for name := range ports {
			slices.Sort(ports[name])
			ports[name] = slices.Compact(ports[name])
		}
	}
	slices.SortFunc(s.networks, func(a, b Network) int {
		if order := a.Prefix.Compare(b.Prefix); order != 0 {
			return order
		}
		return int(a.Port) - int(b.Port)
	})
	s.networks = slices.Compact(s.networks)
	for _, network := range s.networks {
		s.prefixes[network.Port] = append(s.prefixes[network.Port], network.Prefix)
	}
	return s, nil
}

func (s *Set) add(host string, port uint16) error {
	if port == 0 {
		return errors.New("0 is no port")
	}
	if looksLikeAddress(host) {
		prefix, err := parsePrefix(host)
		if err == nil {
			s.networks = append(s.networks, Network{prefix, port})
		}
		return err
	}
	domain, isWildcard := strings.CutPrefix(host, "*.")
	name, err := Canonical(domain)
	switch {
	case err != nil:
		return err
	case isLocalhost(name):
		return errors.New("localhost never leaves an enclave")
	case !isWildcard:
		s.names[name] = append(s.names[name], port)
	case !strings.Contains(name, "."):
		return errors.New("allows every name below a top-level domain")
	default:
		s.domains[name] = append(s.domains[name], port)
	}
	return nil
}

func looksLikeAddress(host string) bool {
	return strings.ContainsAny(host, ":/") || host != "" && strings.Trim(host, "0123456789.") == ""
}

func parsePrefix(text string) (netip.Prefix, error) {
	var prefix netip.Prefix
	if strings.Contains(text, "/") {
		parsed, err := netip.ParsePrefix(text)
		if err != nil {
			return prefix, errors.New("is no network")
		}
		prefix = parsed
	} else {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return prefix, errors.New("is no address")
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	switch lowest := prefix.Addr(); {
	case prefix.Bits() == 0:
		return prefix, errors.New("allows every address")
	case prefix != prefix.Masked():
		return prefix, fmt.Errorf("has bits set behind its prefix, %s has not", prefix.Masked())
	case lowest.Is4In6():
		return prefix, errors.New("is an IPv4 address written as one of IPv6")
	case neverLeaves(lowest):
		return prefix, errors.New("loopback, multicast and unspecified addresses never leave an enclave")
	}
	return prefix, nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// neverLeaves says which addresses no rule allows, for a wide network can hold them: 64.0.0.0/2 has 127.0.0.1.
func neverLeaves(address netip.Addr) bool {
	return address.IsLoopback() || address.IsMulticast() || address.IsUnspecified() || address == broadcast
}

// Empty reports whether nothing is allowed.
func (s *Set) Empty() bool {
	return len(s.names) == 0 && len(s.domains) == 0 && len(s.networks) == 0
}

// Name reports whether a name may be reached at a port. The name may be in any case and end in a dot;
// what is no name (an address is none) may not.
func (s *Set) Name(host string, port uint16) bool {
	return slices.Contains(s.Ports(host), port)
}

// Ports lists at which ports a name may be reached, sorted: none if it isn't allowed.
func (s *Set) Ports(host string) []uint16 {
	name, err := Canonical(host)
	if err != nil || isLocalhost(name) {
		return nil
	}
	found := slices.Clone(s.names[name])
	for _, rest, more := strings.Cut(name, "."); more; _, rest, more = strings.Cut(rest, ".") {
		found = append(found, s.domains[rest]...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Address reports whether an address may be reached at a port. An IPv4 address in IPv6 form counts as the
// IPv4 address. One with a zone may not: a zone means something on one machine alone.
func (s *Set) Address(address netip.Addr, port uint16) bool {
	address = address.Unmap()
	if !address.IsValid() || address.Zone() != "" || neverLeaves(address) {
		return false
	}
	return slices.ContainsFunc(s.prefixes[port], func(p netip.Prefix) bool { return p.Contains(address) })
}

// Names lists the names that are allowed by themselves, sorted; those below a "*." can't be listed.
func (s *Set) Names() []string {
	names := make([]string, 0, len(s.names))
	for name := range s.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// HasNames reports whether any name is allowed, by itself or below a "*.".
func (s *Set) HasNames() bool {
	return len(s.names) > 0 || len(s.domains) > 0
}

// Networks lists the allowed addresses and networks, sorted.
func (s *Set) Networks() []Network {
	return slices.Clone(s.networks)
}
