package egress

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"cagebuild.dev/runtime/internal/dns"
	"cagebuild.dev/runtime/internal/netlink/isolate"
	"cagebuild.dev/runtime/internal/relay"
)

func addrPort(t testing.TB, text string) netip.AddrPort {
	t.Helper()
	parsed, err := netip.ParseAddrPort(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func relayFor(t testing.TB) *relay.Relay {
	t.Helper()
	mover, err := relay.New(relay.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mover.Close)
	return mover
}

// What the resolver says to every kind of question, over UDP and TCP.
func TestPolicyOfTheResolver(t *testing.T) {
	program, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is not installed: apt-get install bind9-dnsutils")
	}
	c := run(t, Options{
		Rules: allow(t, "api.example.com 443", "*.x.com 443", "xn--bcher-kva.example 443"), Name: "cage",
	})
	const soa = "IN\tSOA\tlocalhost. nobody.invalid. 1 3600 600 86400 60"
	for _, given := range []struct {
		question string
		want     []string
		lacks    string
	}{
		{"api.example.com A", []string{"NOERROR", "api.example.com.\t86400\tIN\tA\t127.64.0.1"}, "SOA"},
		{"aPi.eXample.COM A", []string{"NOERROR", "aPi.eXample.COM.\t86400\tIN\tA\t127.64.0.1"}, "SOA"},
		{"api.example.com ANY", []string{"NOERROR", "127.64.0.1"}, "SOA"},
		{"api.example.com AAAA", []string{"NOERROR", "ANSWER: 0", soa}, "127."},
		{"api.example.com HTTPS", []string{"NOERROR", "ANSWER: 0", soa}, "127."},
		{"api.example.com SVCB", []string{"NOERROR", "ANSWER: 0", soa}, "127."},
		{"api.example.com TXT", []string{"NOERROR", "ANSWER: 0", soa}, "127."},
		{"api.example.com MX", []string{"NOERROR", "ANSWER: 0", soa}, "127."},
		{"api.example.com AXFR +tcp", []string{"Transfer failed"}, "127.64"},
		{"api.example.com IXFR=1 +tcp", []string{"Transfer failed"}, "127.64"},
		{"api.example.com TYPE250", []string{"REFUSED"}, "127.64"},
		{"api.example.com A -c CH", []string{"REFUSED"}, "127.64"},
		{"api.example.com A -c ANY", []string{"REFUSED"}, "127.64"},
		{"version.bind TXT -c CH", []string{"REFUSED"}, "TXT\t\""},
		{"api.example.com A +opcode=notify", []string{"NOTIMP"}, "127.64"},
		{"api.example.com A +opcode=update", []string{"NOTIMP"}, "127.64"},
		{"xn--bcher-kva.example A", []string{"NOERROR", "127.64.0.2"}, "SOA"},
		{"new.x.com AAAA", []string{"NOERROR", "ANSWER: 0"}, "127."},
		{"new.x.com A", []string{"NOERROR", "127.64.0.3"}, "SOA"},
		{"a.b.new.x.com A", []string{"NOERROR", "127.64.0.4"}, "SOA"},
		{"x.com A", []string{"NXDOMAIN", soa}, "127."},
		{"evilx.com A", []string{"NXDOMAIN", soa}, "127."},
		{"example.com A", []string{"NXDOMAIN", soa}, "127."},
		{"api.example.com.evil.example A", []string{"NXDOMAIN", soa}, "127."},
		{"xn--zzzzzzzzz.x.com A", []string{"NXDOMAIN", soa}, "127."},
		{`a\.b.x.com A`, []string{"NXDOMAIN", soa}, "127."},
		{`a\000.x.com A`, []string{"NXDOMAIN", soa}, "127."},
		{"-q -a.x.com A", []string{"NXDOMAIN", soa}, "127."},
		{". NS", []string{"NXDOMAIN"}, "127."},
		{". A", []string{"NXDOMAIN"}, "127."},
		{"127.64.0.1 A", []string{"NXDOMAIN"}, "A\t127."},
		{"localhost A", []string{"NOERROR", "127.0.0.1"}, "SOA"},
		{"LOCALHOST AAAA", []string{"NOERROR", "AAAA\t::1"}, "SOA"},
		{"a.localhost ANY", []string{"NOERROR", "ANSWER: 2"}, "SOA"},
		{"localhost MX", []string{"NOERROR", "ANSWER: 0", soa}, "127.0.0.1\n"},
		{"cage A", []string{"NOERROR", "A\t127.0.0.1"}, "SOA"},
		{"Cage AAAA", []string{"NOERROR", "ANSWER: 0", soa}, "::1"},
		{"a.cage A", []string{"NXDOMAIN"}, "A\t127."},
		{"-x 127.64.0.1", []string{"NOERROR", "PTR\tapi.example.com."}, "SOA"},
		{"-x 127.64.0.200", []string{"NXDOMAIN", soa}, "PTR\t"},
		{"-x 127.0.0.1", []string{"NOERROR", "PTR\tlocalhost."}, "SOA"},
		{"-x ::1", []string{"NOERROR", "PTR localhost."}, "SOA"},
		{"-x 2001:db8::1", []string{"NXDOMAIN"}, "PTR\t"},
		{"1.0.64.127.in-addr.arpa A", []string{"NOERROR", "ANSWER: 0"}, "PTR\t"},
		{"01.0.64.127.in-addr.arpa PTR", []string{"NXDOMAIN"}, "PTR\t"},
		{"0.64.127.in-addr.arpa PTR", []string{"NXDOMAIN"}, "PTR\t"},
		{"in-addr.arpa NS", []string{"NXDOMAIN"}, "NS\t"},
	} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			arguments := append(
				[]string{"@127.0.0.1", "+tries=1", "+time=20", "+noquestion", transport}, strings.Fields(given.question)...)
			output, _ := exec.CommandContext(t.Context(), program, arguments...).CombinedOutput()
			shown := ""
			for line := range strings.Lines(string(output)) {
				// Not the command line, and the resolver's own address.
				if !strings.HasPrefix(line, "; <<>>") && !strings.HasPrefix(line, ";; SERVER") {
					shown += line
				}
			}
			for _, want := range given.want {
				if !strings.Contains(shown, want) {
					t.Errorf("%s %s: lacks %q:\n%s", given.question, transport, want, output)
				}
			}
			if strings.Contains(shown, given.lacks) {
				t.Errorf("%s %s: has %q:\n%s", given.question, transport, given.lacks, output)
			}
		}
	}
	c.expect(t, "", `no rule allows the name "evilx.com"`, `no rule allows the name "a\\.b.x.com"`)
	if count := strings.Count(c.said(), `"evilx.com"`); count != 1 {
		t.Errorf("one name is said %d times", count)
	}
}

func TestReversed(t *testing.T) {
	one := strings.Repeat("0.", 31)
	for name, want := range map[string]string{
		"1.0.0.127.in-addr.arpa":              "127.0.0.1",
		"254.255.127.127.in-addr.arpa":        "127.127.255.254",
		"256.0.0.127.in-addr.arpa":            "",
		"+1.0.0.127.in-addr.arpa":             "",
		"1.0.0.0.127.in-addr.arpa":            "",
		"in-addr.arpa":                        "",
		"1." + one + "ip6.arpa":               "::1",
		"f." + one + "ip6.arpa":               "::f",
		"1.f.0.0." + one[8:] + "2.ip6.arpa":   "2000::f1",
		"0.f.0.0." + one[8:] + "2.1.ip6.arpa": "",
		"g." + one + "ip6.arpa":               "",
		"10." + one + "ip6.arpa":              "",
		"ip6.arpa":                            "",
	} {
		got, ok := reversed(name)
		if ok != (want != "") || ok && got != netip.MustParseAddr(want) {
			t.Errorf("%s: got %s, %v; expected %q", name, got, ok, want)
		}
	}
}

// Whatever is asked, an address is only answered for what a rule allows, and for the enclave itself.
func FuzzResolve(f *testing.F) {
	for _, name := range []string{
		"api.example.com", "A.X.com", "x.com", "evilx.com", "localhost", "a.localhost", "cage", "1.0.64.127.in-addr.arpa",
		"1." + strings.Repeat("0.", 31) + "ip6.arpa", `a\.x.com`, "xn--bcher-kva.x.com", "", "in-addr.arpa",
	} {
		f.Add(name, uint16(dns.TypeA), uint16(dns.ClassIN))
		f.Add(name, uint16(dns.TypeANY), uint16(dns.ClassIN))
		f.Add(name, uint16(dns.TypePTR), uint16(dns.ClassIN))
	}
	isolate.Need(f)
	set := allow(f, "api.example.com 443", "*.x.com 443")
	e, err := New(Options{Rules: set, Name: "cage", Relay: relayFor(f), Resolver: "127.0.0.1:0", MaxNames: 100})
	if err != nil {
		f.Fatal(err)
	}
	e.notes.line = func(string, ...any) {}
	if err := e.Start(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(e.stop)
	f.Fuzz(func(t *testing.T, name string, wanted, class uint16) {
		answer := e.resolve(dns.Question{Name: name, Type: dns.Type(wanted), Class: dns.Class(class)})
		if answer.Code != dns.NoError && len(answer.Records) > 0 {
			t.Errorf("%q: %v with %v", name, answer.Code, answer.Records)
		}
		for _, record := range answer.Records {
			if !record.Asked || wanted != uint16(record.Type) && wanted != uint16(dns.TypeANY) || class != uint16(dns.ClassIN) {
				t.Errorf("%q, type %d, class %d: got %v", name, wanted, class, record)
			}
			lower := strings.ToLower(name)
			address, isAddress := netip.AddrFromSlice(record.Data)
			switch {
			case record.Type == dns.TypePTR:
				if !strings.HasSuffix(lower, ".arpa") {
					t.Errorf("%q: got %v", name, record)
				}
			case !isAddress:
				t.Errorf("%q: got %v", name, record)
			case isInPool(address):
				if !set.Name(name, 443) {
					t.Errorf("%q, which no rule allows, is %s", name, address)
				}
			case !address.IsLoopback() || lower != "cage" && lower != "localhost" && !strings.HasSuffix(lower, ".localhost"):
				t.Errorf("%q is %s", name, address)
			}
		}
	})
}
