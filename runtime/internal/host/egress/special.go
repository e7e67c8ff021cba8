package egress

import "net/netip"

// special are networks that nothing leads to unless a rule names them: what is there is the parent's, the
// VPC's or nobody's. From IANA's registries of special-purpose addresses (RFC 6890) and of multicast; AWS's own
// addresses, such as fd00:ec2::254, lie within them.
var special = prefixes(
	"0.0.0.0/8",       // this host
	"10.0.0.0/8",      // private
	"100.64.0.0/10",   // shared by carriers; EKS uses it for pods
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local: instance metadata, DNS and time of AWS
	"172.16.0.0/12",   // private
	"192.0.0.0/24",    // IETF
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays
	"192.168.0.0/16",  // private
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, and broadcast
	"::/96",           // unspecified, loopback, IPv4 as it was once written
	"64:ff9b:1::/48",  // NAT64 of one's own
	"100::/64",        // discarded
	"100:0:0:1::/64",  // dummies
	"2001::/23",       // IETF: Teredo, benchmarks, ORCHID
	"2001:db8::/32",   // documentation
	"3fff::/20",       // documentation
	"5f00::/16",       // segment routing
	"fc00::/7",        // unique local
	"fe80::/10",       // link-local
	"fec0::/10",       // site-local
	"ff00::/8",        // multicast
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// IPv6 addresses that stand for one of IPv4, which a router or the kernel takes out of them.
var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96")    // in the last four bytes
	siit      = netip.MustParsePrefix("::ffff:0:0:0/96") // the same
	sixToFour = netip.MustParsePrefix("2002::/16")       // in bytes 2 to 5
)

// Special returns the smallest of the networks that an address is special by, in the address's own terms, and whether
// there is one.
func Special(address netip.Addr) (netip.Prefix, bool) {
	address = address.Unmap()
	if !address.IsValid() || address.Zone() != "" {
		return netip.Prefix{}, true // which no rule names
	}
	for _, prefix := range special {
		if prefix.Contains(address) {
			return prefix, true
		}
	}
	if address.Is4() {
		return netip.Prefix{}, false
	}
	raw := address.As16()
	// ISATAP: the interface part is 0:5efe and an IPv4 address.
	isISATAP := raw[8]&^3 == 0 && raw[9] == 0 && raw[10] == 0x5e && raw[11] == 0xfe
	switch {
	case nat64.Contains(address), siit.Contains(address), isISATAP:
		return embedded(address, 96)
	case sixToFour.Contains(address):
		return embedded(address, 16)
	}
	return netip.Prefix{}, false
}

// embedded looks at the IPv4 address that begins at a bit of an IPv6 address.
func embedded(address netip.Addr, at int) (netip.Prefix, bool) {
	raw := address.As16()
	inner, found := Special(netip.AddrFrom4([4]byte(raw[at/8:])))
	if !found {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(address, at+inner.Bits()).Masked(), true
}
