package netlink

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"cagebuild.dev/runtime/internal/netlink/isolate"
)

func TestMain(m *testing.M) { isolate.Main(m) }

// reaches reports whether a connection to an address comes to a listener at all addresses of this machine.
func reaches(t *testing.T, listener net.Listener, address string) error {
	t.Helper()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(address, port))
	if err != nil {
		return err
	}
	defer conn.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if host, _, _ := net.SplitHostPort(accepted.LocalAddr().String()); host != address {
		t.Errorf("a connection to %s came in at %s", address, host)
	}
	return nil
}

func TestConnectionsToLocalAddressesEndHere(t *testing.T) {
	isolate.Need(t)
	for _, given := range []struct{ listen, prefix, inside, outside string }{
		{"0.0.0.0:0", "10.20.0.0/16", "10.20.255.255", "10.21.0.1"},
		{"0.0.0.0:0", "192.0.2.7/32", "192.0.2.7", "192.0.2.8"},
		{"0.0.0.0:0", "169.254.169.254/32", "169.254.169.254", "169.254.169.253"},
		{"[::]:0", "2001:db8::/32", "2001:db8:1:2:3:4:5:6", "2001:db9::1"},
		{"[::]:0", "fd00:ec2::254/128", "fd00:ec2::254", "fd00:ec2::253"},
	} {
		if _, err := os.Stat("/proc/net/if_inet6"); err != nil && given.listen[0] == '[' {
			t.Logf("%s is left out: the kernel has no IPv6", given.prefix)
			continue
		}
		listener, err := net.Listen("tcp", given.listen)
		if err != nil {
			t.Fatal(err)
		}
		if err := reaches(t, listener, given.inside); err == nil {
			t.Errorf("%s is local before", given.inside)
		}
		prefix := netip.MustParsePrefix(given.prefix)
		for range 2 { // the second time it is there
			if err := AddLocal(prefix); err != nil {
				t.Error(err)
			}
		}
		if err := reaches(t, listener, given.inside); err != nil {
			t.Error(err)
		}
		if err := reaches(t, listener, given.outside); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%s: got %v", given.outside, err)
		}
		_ = listener.Close()
	}
}

func TestAnAddressIsAdded(t *testing.T) {
	isolate.Need(t)
	const text = "127.64.0.0/32"
	for range 2 {
		if err := AddAddress(netip.MustParsePrefix(text)); err != nil {
			t.Error(err)
		}
	}
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := loopback.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, address := range addresses {
		if address.String() == text {
			count++
		}
	}
	if count != 1 {
		t.Errorf("loopback has %v", addresses)
	}
}

func TestTheKernelsErrorIsReturned(t *testing.T) {
	isolate.Need(t)
	if err := acknowledged(nil); err == nil {
		t.Error("no answer is an answer")
	}
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range [][]byte{
		newRoute(netip.MustParsePrefix("10.9.0.0/16"), loopback.Index+1000), // no such device
		newRoute(netip.PrefixFrom(netip.MustParseAddr("10.9.0.1"), 16), loopback.Index),
	} {
		if err := request(message); err == nil {
			t.Error("the kernel took it")
		} else if _, ok := errors.AsType[syscall.Errno](err); !ok {
			t.Errorf("got %v", err)
		}
	}
}
