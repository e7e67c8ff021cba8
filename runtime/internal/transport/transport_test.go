package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
)

func TestURLsAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]Address{
		"vsock://16:9001":           {Scheme: "vsock", CID: 16, Port: 9001},
		"vsock://any:9001":          {Scheme: "vsock", CID: 1<<32 - 1, Port: 9001},
		"hybrid:///run/vm.sock:17":  {Scheme: "hybrid", Path: "/run/vm.sock", Port: 17},
		"unix:///run/a b:c":         {Scheme: "unix", Path: "/run/a b:c"},
		"tcp://127.0.0.1:80":        {Scheme: "tcp", Host: "127.0.0.1", Port: 80},
		"tcp://[::1]:80":            {Scheme: "tcp", Host: "::1", Port: 80},
		"tcp://host.example.com:80": {Scheme: "tcp", Host: "host.example.com", Port: 80},
		"tcp://:0":                  {Scheme: "tcp"},
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
		if got.String() != text {
			t.Errorf("%s is written as %s", text, got)
		}
	}
	if got, err := Parse("tcp://*:80"); err != nil || got.String() != "tcp://:80" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestWhatIsNoAddressIsRefusedWithTheReason(t *testing.T) {
	for text, reason := range map[string]string{
		"":                                    "is no URL",
		"127.0.0.1:80":                        "is no URL",
		"http://a:80":                         "no scheme",
		"vsock://16":                          "has no port",
		"vsock://x:1":                         "no CID",
		"vsock://4294967295:1":                "no CID",
		"vsock://-1:1":                        "no CID",
		"vsock://1:4294967295":                "no port",
		"unix://relative":                     "no absolute path",
		"unix://":                             "no absolute path",
		"unix:///a\x00b":                      "no absolute path",
		"unix:///" + strings.Repeat("x", 200): "at most 107",
		"hybrid:///a":                         "has no port",
		"tcp://a":                             "tcp://HOST:PORT",
		"tcp://a:b":                           "no port",
		"tcp://a:65536":                       "no port",
		"tcp://u@a:1":                         "tcp://HOST:PORT",
		"tcp://a:1/x":                         "no port",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: got %v, expected %q", text, err, reason)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("vsock://16:9001")
	f.Add("tcp://[::1%25lo]:80")
	f.Add("hybrid:///x:1")
	f.Fuzz(func(t *testing.T, text string) {
		address, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(address.String())
		if err != nil || again != address {
			t.Errorf("%q: %+v is written as %s, which is %+v (%v)", text, address, address, again, err)
		}
	})
}

// echo answers every stream with what it gets, until the test ends.
func echo(t *testing.T, address Address) Listener {
	t.Helper()
	listener, err := address.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener
}

func TestStreamsThereAndBack(t *testing.T) {
	for _, scheme := range []string{"unix", "tcp"} {
		t.Run(scheme, func(t *testing.T) {
			leak.Check(t)
			address := Address{Scheme: "tcp", Host: "127.0.0.1"}
			if scheme == "unix" {
				address = Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "s")}
			}
			listener := echo(t, address)
			if scheme == "tcp" {
				address.Port = uint32(listener.Addr().(*net.TCPAddr).Port)
			}
			conn, err := address.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = conn.Write([]byte("there"))
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); string(got) != "there" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestASocketIsItsOwnersAlone(t *testing.T) {
	address := Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "s")}
	listener := echo(t, address)
	status, err := os.Stat(address.Path)
	if err != nil || status.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", status.Mode(), err)
	}
	_ = listener.Close()
	if _, err := os.Stat(address.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left over: %v", err)
	}
}

func TestASocketThatIsLeftOverIsReplacedAndOneInUseIsNot(t *testing.T) {
	address := Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "s")}
	descriptor, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(descriptor, &syscall.SockaddrUnix{Name: address.Path}); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(descriptor)
	echo(t, address)
	if _, err := address.Listen(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, expected that the address is in use", err)
	}
	other := Address{Scheme: "unix", Path: filepath.Join(t.TempDir(), "file")}
	if err := os.WriteFile(other.Path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Listen(); err == nil {
		t.Error("a file was replaced")
	}
	if content, _ := os.ReadFile(other.Path); string(content) != "precious" {
		t.Error("a file is gone")
	}
}

// device stands where vhost-device-vsock does: it answers a CONNECT as told and then sends back what it gets.
func device(t *testing.T, answer string) (path string, asked <-chan string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "vm")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	lines := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		reader := bufio.NewReader(conn)
		line, _ := reader.ReadString('\n')
		lines <- line
		_, _ = io.WriteString(conn, answer)
		_, _ = io.Copy(conn, reader)
	}()
	return path, lines
}

func TestAHybridVsockIsAskedForThePort(t *testing.T) {
	leak.Check(t)
	path, asked := device(t, "OK 1073741824\nfirst")
	conn, err := Address{Scheme: "hybrid", Path: path, Port: 9001}.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line := <-asked; line != "CONNECT 9001\n" {
		t.Errorf("asked %q", line)
	}
	_, _ = conn.Write([]byte(" second"))
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "first second" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestADeviceThatDoesNotAnswerProperly(t *testing.T) {
	for answer, reason := range map[string]string{
		"NO\n":                                 "the device answered",
		strings.Repeat("x", 1000):              "too long",
		"OK" + strings.Repeat(" ", 100) + "\n": "too long",
	} {
		path, _ := device(t, answer)
		_, err := Address{Scheme: "hybrid", Path: path, Port: 1}.Dial(t.Context())
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: got %v", answer, err)
		}
	}
	path, _ := device(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (Address{Scheme: "hybrid", Path: path, Port: 1}).Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAGuestsOwnStreamsComeToTheSocketOfTheirPort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm")
	echo(t, Address{Scheme: "hybrid", Path: path, Port: 10004})
	conn, err := net.Dial("unix", fmt.Sprintf("%s_10004", path))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestAClosedListenerSaysSo(t *testing.T) {
	for _, address := range []Address{
		{Scheme: "unix", Path: filepath.Join(t.TempDir(), "s")},
		{Scheme: "tcp", Host: "127.0.0.1"},
		{Scheme: "vsock", CID: 1<<32 - 1, Port: 45_455},
	} {
		t.Run(address.Scheme, func(t *testing.T) {
			listener, err := address.Listen()
			if errors.Is(err, syscall.EAFNOSUPPORT) {
				t.Skip("needs a kernel with vsock")
			}
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			go func() {
				_, err := listener.Accept()
				ended <- err
			}()
			time.Sleep(10 * time.Millisecond)
			_ = listener.Close()
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v while it waited", err)
			}
			if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v afterwards", err)
			}
		})
	}
}

// With a module for it this machine can be its own guest; tests in an emulated enclave have real ones.
func TestVsockOnThisMachine(t *testing.T) {
	if _, err := os.Stat("/sys/module/vsock_loopback"); err != nil {
		t.Skip("needs vsock on this machine itself: modprobe vsock_loopback")
	}
	leak.Check(t)
	echo(t, Address{Scheme: "vsock", CID: 1<<32 - 1, Port: 45_454})
	conn, err := Address{Scheme: "vsock", CID: 1, Port: 45_454}.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("there"))
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "there" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAContextEndsAVsockDial(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if conn, err := (Address{Scheme: "vsock", CID: 4_000_000, Port: 1}).Dial(ctx); err == nil {
		_ = conn.Close()
		t.Error("there is such a guest")
	}
}
