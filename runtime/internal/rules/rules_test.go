package rules

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cagebuild.dev/runtime/internal/settings"
)

// parse reads rules such as "api.example.com 443".
func parse(t testing.TB, lines ...string) *Set {
	t.Helper()
	list := []settings.Egress{}
	for _, line := range lines {
		var rule settings.Egress
		if _, err := fmt.Sscan(line, &rule.Host, &rule.Port); err != nil {
			t.Fatal(err)
		}
		list = append(list, rule)
	}
	set, err := Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestNames(t *testing.T) {
	set := parse(t,
		"api.example.com 443", "api.example.com 80", "*.x.com 443", "*.deep.x.com 8443", "db 5432",
		"_srv.example.com 1", "xn--bcher-kva.example 443", "r3---sn-a.example 443")
	for _, given := range []struct {
		host  string
		ports []uint16
	}{
		{"api.example.com", []uint16{80, 443}},
		{"API.Example.COM.", []uint16{80, 443}},
		{"api.example.com..", nil},
		{".api.example.com", nil},
		{"example.com", nil},
		{"www.example.com", nil},
		{"a.api.example.com", nil},
		{"x.com", nil},
		{"evilx.com", nil},
		{"x.com.evil.example", nil},
		{".x.com", nil},
		{"a.x.com", []uint16{443}},
		{"A.X.COM.", []uint16{443}},
		{"a.b.c.d.x.com", []uint16{443}},
		{"deep.x.com", []uint16{443}},
		{"a.deep.x.com", []uint16{443, 8443}},
		{"*.x.com", nil},
		{"a..x.com", nil},
		{"-a.x.com", nil},
		{"a-.x.com", nil},
		{"a\x00.x.com", nil},
		{"a b.x.com", nil},
		{`a\.x.com`, nil},
		{"é.x.com", nil},
		{"xn--ida.x.com", []uint16{443}},
		{"XN--IDA.x.com", []uint16{443}},
		{"xn--bcher-kv.x.com", nil}, // an A-label cut short
		{"xn--.x.com", nil},
		{"xn--abc-.x.com", nil},
		{"xn--bcher-kva.example", []uint16{443}},
		{"bücher.example", nil},
		{"r3---sn-a.example", []uint16{443}},
		{"_srv.example.com", []uint16{1}},
		{"db", []uint16{5432}},
		{"DB.", []uint16{5432}},
		{"\u212a.x.com", nil}, // the Kelvin sign, whose lower case is k
		{strings.Repeat("a", 63) + ".x.com", []uint16{443}},
		{strings.Repeat("a", 64) + ".x.com", nil},
		{strings.Repeat("a.", 124) + "x.com", []uint16{443}}, // 253 bytes
		{strings.Repeat("a.", 124) + "b.x.com", nil},
		{"", nil},
		{".", nil},
		{"10.0.0.1", nil},
		{"localhost", nil},
	} {
		if got := set.Ports(given.host); !slices.Equal(got, given.ports) {
			t.Errorf("ports of %q: got %v, expected %v", given.host, got, given.ports)
		}
		for _, port := range []uint16{1, 80, 443, 5432, 8443, 65535} {
			if got := set.Name(given.host, port); got != slices.Contains(given.ports, port) {
				t.Errorf("%q port %d: got %v", given.host, port, got)
			}
		}
	}
	want := []string{"_srv.example.com", "api.example.com", "db", "r3---sn-a.example", "xn--bcher-kva.example"}
	if got := set.Names(); !slices.Equal(got, want) {
		t.Errorf("names: got %q, expected %q", got, want)
	}
	if set.Empty() || !set.HasNames() {
		t.Error("the set says that it has no names")
	}
}

func TestAddresses(t *testing.T) {
	set := parse(t,
		"10.0.0.0/8 5432", "192.0.2.7 443", "2001:db8::/32 443", "2001:db8:1::5 22", "64.0.0.0/2 80",
		"169.254.169.254 80", "10.0.0.0/8 5432")
	for _, given := range []struct {
		address string
		port    uint16
		allowed bool
	}{
		{"10.0.0.0", 5432, true},
		{"10.255.255.255", 5432, true},
		{"11.0.0.0", 5432, false},
		{"10.1.2.3", 443, false},
		{"::ffff:10.1.2.3", 5432, true},
		{"::10.1.2.3", 5432, false},
		{"192.0.2.7", 443, true},
		{"192.0.2.6", 443, false},
		{"192.0.2.7", 80, false},
		{"2001:db8::1", 443, true},
		{"2001:db9::1", 443, false},
		{"2001:db8::1%eth0", 443, false},
		{"2001:db8:1::5", 22, true},
		{"2001:db8:1::6", 22, false},
		{"64.1.2.3", 80, true},
		{"127.0.0.1", 80, false},
		{"::ffff:127.0.0.1", 80, false},
		{"127.64.0.1", 80, false},
		{"169.254.169.254", 80, true},
		{"0.0.0.0", 80, false},
		{"255.255.255.255", 80, false},
		{"::1", 443, false},
	} {
		if got := set.Address(netip.MustParseAddr(given.address), given.port); got != given.allowed {
			t.Errorf("%s port %d: got %v", given.address, given.port, got)
		}
	}
	if set.Address(netip.Addr{}, 443) {
		t.Error("no address is allowed")
	}
	got := []string{}
	for _, network := range set.Networks() {
		got = append(got, fmt.Sprint(network.Prefix, " ", network.Port))
	}
	want := []string{
		"10.0.0.0/8 5432", "64.0.0.0/2 80", "169.254.169.254/32 80", "192.0.2.7/32 443", "2001:db8::/32 443",
		"2001:db8:1::5/128 22",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("networks: got %q, expected %q", got, want)
	}
	if set.Empty() || set.HasNames() {
		t.Error("the set says that it has names, or nothing")
	}
}

func TestAnEmptyListAllowsNothing(t *testing.T) {
	set := parse(t)
	if !set.Empty() || set.HasNames() || set.Name("example.com", 443) ||
		set.Address(netip.MustParseAddr("192.0.2.1"), 443) || len(set.Names())+len(set.Networks()) > 0 {
		t.Error("an empty set allows something")
	}
}

func TestRulesThatAreRefused(t *testing.T) {
	for host, want := range map[string]string{
		"":                         "is empty",
		"*":                        "label",
		"*.":                       "is empty",
		"*.com":                    "below a top-level domain",
		"a.*.com":                  `label "*"`,
		"*.*.com":                  `label "*"`,
		"**.x.com":                 `label "**"`,
		"a..com":                   "an empty label",
		"localhost":                "localhost never leaves",
		"LOCALHOST.":               "localhost never leaves",
		"a.localhost":              "localhost never leaves",
		"*.a.localhost":            "localhost never leaves",
		"bücher.example":           "label",
		"xn--zzzzzzzzz.example":    "stands for nothing",
		"0x7f.1":                   "ends in a number",
		"a.0x7f":                   "ends in a number",
		"1.2.3":                    "is no address",
		"1.2.3.4.5":                "is no address",
		"01.2.3.4":                 "is no address",
		"1.2.3.4.":                 "is no address",
		"1.2.3.4/":                 "is no network",
		"1.2.3.4/33":               "is no network",
		"1.2.3.4/032":              "is no network",
		"1.2.3.4/24":               "1.2.3.0/24 has not",
		"0.0.0.0/0":                "allows every address",
		"::/0":                     "allows every address",
		"0.0.0.0":                  "never leave",
		"127.0.0.1":                "never leave",
		"127.64.0.0/10":            "never leave",
		"224.0.0.1":                "never leave",
		"255.255.255.255":          "never leave",
		"::":                       "never leave",
		"::1":                      "never leave",
		"ff02::1":                  "never leave",
		"::ffff:1.2.3.4":           "as one of IPv6",
		"::ffff:0.0.0.0/96":        "as one of IPv6",
		"fe80::1%eth0":             "is no address",
		"fe80::%1/64":              "is no network",
		"[2001:db8::1]":            "is no address",
		"api.example.com:443":      "is no address",
		"https://api.example.com/": "is no network",
		strings.Repeat("a.", 127):  "", // 253 bytes
		strings.Repeat("a.", 128):  "at most 253",
	} {
		_, err := Parse([]settings.Egress{{Host: "fine.example", Port: 1}, {Host: host, Port: 443}})
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", host, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "port 443") {
			t.Errorf("%q: got %v, expected %q", host, err, want)
		}
	}
	if _, err := Parse([]settings.Egress{{Host: "a.example"}}); err == nil {
		t.Error("port 0 is allowed")
	}
}

// The examples are from RFC 3492, section 7.1, and encodings by Python's codec.
func TestPunycode(t *testing.T) {
	for text, want := range map[string]bool{
		"egbpdaj6bu4bxfgehfvwxn": true, "ihqwcrb4cv8a8dqg056pqjye": true, "ihqwctvzc91f659drss3x8bo0yb": true,
		"proprostnemluvesky-uyb24dma41a": true, "3b-ww4c5e180e575a65lsy2b": true, "bcher-kva": true, "n3h": true,
		"wgv71a119e": true, "9caaaaa": true, "a--yka": true, "-> $1.00 <--": false, "": false, "-": false, "z": false,
		"a-": false, "bcher-kv": false, "bcher-kva0": false, "99999999": false, "zzzzzzzzzzzzzzzzzzzzz": false,
		"wgv71a119é": false,
	} {
		if got := isPunycode(text); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{
		"api.example.com", "API.x.", "xn--bcher-kva.example", "xn--zzzzzzzzzzzzz", "a..b", "1.2.3.4", "0x7f.1",
		strings.Repeat("a.", 127), "xn--99999999999999999999999999999999999999", "\u212a", "é", "_a-b_",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := Canonical(text)
		if err != nil {
			return
		}
		if again, err := Canonical(name); err != nil || again != name {
			t.Errorf("%q is %q, which is %q (%v)", text, name, again, err)
		}
		if len(name) > 253 || !strings.EqualFold(name, strings.TrimSuffix(text, ".")) {
			t.Errorf("%q became %q", text, name)
		}
		if _, err := netip.ParseAddr(name); err == nil {
			t.Errorf("%q is an address", name)
		}
	})
}

func FuzzRules(f *testing.F) {
	for _, seed := range []string{
		`[{"Host":"api.example.com","Port":443}]`,
		`[{"Host":"*.x.com","Port":443},{"Host":"10.0.0.0/8","Port":1}]`,
		`[{"Host":"2001:db8::/32","Port":443},{"Host":"1.2.3.4","Port":65535}]`,
	} {
		f.Add([]byte(seed), "a.x.com", []byte{10, 1, 2, 3}, uint16(443))
	}
	f.Fuzz(func(t *testing.T, text []byte, host string, raw []byte, port uint16) {
		list := []settings.Egress{}
		if json.Unmarshal(text, &list) != nil {
			return
		}
		set, err := Parse(list)
		if err != nil {
			return
		}
		if set.Empty() != (len(list) == 0) {
			t.Errorf("empty: %v, of %d rules", set.Empty(), len(list))
		}
		named := func(match func(rule string) bool) bool {
			return slices.ContainsFunc(list, func(e settings.Egress) bool {
				return e.Port == port && match(strings.TrimSuffix(lower(e.Host), "."))
			})
		}
		if set.Name(host, port) {
			name := strings.TrimSuffix(lower(host), ".")
			if !named(func(rule string) bool {
				return rule == name || strings.HasPrefix(rule, "*.") && strings.HasSuffix(name, rule[1:])
			}) {
				t.Errorf("%q port %d is allowed by none of %v", host, port, list)
			}
		}
		if address, ok := netip.AddrFromSlice(raw); ok && set.Address(address, port) {
			if !named(func(rule string) bool {
				prefix, err := netip.ParsePrefix(rule)
				return rule == address.Unmap().String() || err == nil && prefix.Contains(address.Unmap())
			}) {
				t.Errorf("%s port %d is allowed by none of %v", address, port, list)
			}
		}
	})
}
