package egress

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"cagebuild.dev/runtime/internal/dns"
	"cagebuild.dev/runtime/internal/rules"
)

// Times to live, in seconds. An address of a name is right as long as the enclave runs.
const (
	ttl         = 86400
	negativeTTL = 60
)

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// resolve answers the app's questions. Only A records of a name that a rule allows lead somewhere; its other
// types exist and are empty, AAAA among them: destinations may well have IPv6, and the parent dials them.
func (e *Egress) resolve(asked dns.Question) dns.Answer {
	if asked.Class != dns.ClassIN || asked.Type.IsMeta() {
		return dns.Answer{Code: dns.Refused}
	}
	switch name := strings.ToLower(asked.Name); {
	case isBelow(name, "in-addr.arpa") || isBelow(name, "ip6.arpa"):
		return e.resolveAddress(name, asked.Type)
	case isBelow(name, "localhost"):
		return addresses(asked.Type, loopback4, loopback6)
	case isOwn(name, e.options.Name):
		return addresses(asked.Type, loopback4)
	}
	name, err := rules.Canonical(asked.Name)
	if err != nil || len(e.options.Rules.Ports(name)) == 0 {
		e.counts.denied.Inc()
		e.notes.say("name "+strings.ToLower(asked.Name), "egress: no rule allows the name %.260q", asked.Name)
		return noSuchName()
	}
	return e.resolveName(name, asked.Type)
}

// resolveName answers for a name that a rule allows. What doesn't work is said for all types: clients ask for
// several at once, and take an empty answer to one of them for the name's.
func (e *Egress) resolveName(name string, wanted dns.Type) dns.Answer {
	address, err := e.names.add(name)
	if errors.Is(err, errFull) {
		e.notes.say("full", "egress: %s is refused: %v", name, err)
		return dns.Answer{Code: dns.Refused}
	}
	if err == nil {
		var isServed bool
		if isServed, err = e.serveName(name, address); isServed {
			return addresses(wanted, address)
		}
	}
	e.notes.say("failed "+name, "egress: %s: %v", name, err)
	return dns.Answer{Code: dns.ServFail}
}

// resolveAddress answers who an address is: one of a name's, or loopback's.
func (e *Egress) resolveAddress(name string, wanted dns.Type) dns.Answer {
	host := ""
	switch address, ok := reversed(name); {
	case !ok:
	case address == loopback4 || address == loopback6:
		host = "localhost"
	default:
		host, _ = e.names.name(address)
	}
	if host == "" {
		return noSuchName()
	}
	if wanted != dns.TypePTR && wanted != dns.TypeANY {
		return noData()
	}
	record, err := dns.Pointer(host, ttl)
	if err != nil {
		return dns.Answer{Code: dns.ServFail}
	}
	return dns.Answer{Records: []dns.Record{record}}
}

// reversed reads an address out of a name in in-addr.arpa or ip6.arpa.
func reversed(name string) (netip.Addr, bool) {
	if octets, isV4 := strings.CutSuffix(name, ".in-addr.arpa"); isV4 {
		labels := strings.Split(octets, ".")
		var address [4]byte
		if len(labels) != len(address) {
			return netip.Addr{}, false
		}
		for index, label := range labels {
			value, err := strconv.ParseUint(label, 10, 8)
			if err != nil || strconv.FormatUint(value, 10) != label {
				return netip.Addr{}, false
			}
			address[3-index] = byte(value)
		}
		return netip.AddrFrom4(address), true
	}
	digits, _ := strings.CutSuffix(name, ".ip6.arpa")
	labels := strings.Split(digits, ".")
	var address [16]byte
	if len(labels) != 2*len(address) {
		return netip.Addr{}, false
	}
	for index, label := range labels {
		value, err := strconv.ParseUint(label, 16, 4)
		if err != nil || len(label) != 1 {
			return netip.Addr{}, false
		}
		address[15-index/2] |= byte(value << (4 * (index % 2)))
	}
	return netip.AddrFrom16(address), true
}

// addresses answers with those of the wanted type.
func addresses(wanted dns.Type, all ...netip.Addr) dns.Answer {
	answer := dns.Answer{}
	for _, address := range all {
		record := dns.Address(address, ttl)
		if wanted == record.Type || wanted == dns.TypeANY {
			answer.Records = append(answer.Records, record)
		}
	}
	if len(answer.Records) == 0 {
		return noData()
	}
	return answer
}

func noData() dns.Answer {
	return dns.Answer{Authority: []dns.Record{dns.Authority(negativeTTL)}}
}

func noSuchName() dns.Answer {
	return dns.Answer{Code: dns.NXDomain, Authority: []dns.Record{dns.Authority(negativeTTL)}}
}

func isBelow(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// isOwn reports whether a name is the enclave's own.
func isOwn(name, own string) bool { return own != "" && name == own }
