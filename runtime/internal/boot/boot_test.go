package boot

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"
)

func TestTheNameIsAddedToHostsOnce(t *testing.T) {
	const known = "127.0.0.1\tlocalhost # pay is me\n"
	for before, after := range map[string]string{
		"":                          "127.0.0.1\tpay\n",
		known:                       known + "127.0.0.1\tpay\n",
		"::1 localhost":             "::1 localhost\n127.0.0.1\tpay\n",
		"127.0.0.1 localhost pay\n": "127.0.0.1 localhost pay\n",
		"127.0.0.1 payments\n":      "127.0.0.1 payments\n127.0.0.1\tpay\n",
	} {
		path := filepath.Join(t.TempDir(), "hosts")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := nameInHosts(path, "pay"); err != nil {
				t.Fatal(err)
			}
		}
		if got, _ := os.ReadFile(path); string(got) != after {
			t.Errorf("got %q, expected %q", got, after)
		}
	}
}

func TestHostsIsMadeWhereThereIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := nameInHosts(path, "pay"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "127.0.0.1\tpay\n" {
		t.Errorf("got %q", got)
	}
}

func TestHostsIsNotWrittenThroughASymlink(t *testing.T) {
	folder := t.TempDir()
	victim, link := filepath.Join(folder, "victim"), filepath.Join(folder, "hosts")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	if err := nameInHosts(link, "pay"); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(victim); err == nil {
		t.Error("written through the symlink")
	}
}

func TestTheInterfaceRequestHasTheKernelsSize(t *testing.T) {
	if size := unsafe.Sizeof(flagsRequest{}); size != 40 {
		t.Errorf("got %d bytes, struct ifreq has 40", size)
	}
}
