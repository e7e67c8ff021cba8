package egress

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cagebuild.dev/runtime/internal/netlink/isolate"
)

// Programs that connect to port 443 of a name, send a word, end their direction, and print all that comes.
const (
	inPython = `import socket, sys
with socket.create_connection((sys.argv[1], 443)) as s:
    s.sendall(b"hello")
    s.shutdown(socket.SHUT_WR)
    print(s.makefile().read())
`
	inNode = `const s = require("net").connect({host: process.argv[2], port: 443, allowHalfOpen: true});
s.on("data", d => process.stdout.write(d));
s.on("error", e => { console.log(e.code); process.exit(2); });
s.end("hello");
`
	inJava = `import java.net.Socket;
public class Client {
    public static void main(String[] arguments) throws Exception {
        try (Socket s = new Socket(arguments[0], 443)) {
            s.getOutputStream().write("hello".getBytes());
            s.shutdownOutput();
            System.out.write(s.getInputStream().readAllBytes());
            System.out.flush();
        }
    }
}
`
	inC = `#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int count, char **arguments) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *found;
    int error = getaddrinfo(arguments[1], "443", &hints, &found);
    if (error) return puts(gai_strerror(error)), 2;
    int s = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    if (connect(s, found->ai_addr, found->ai_addrlen) || write(s, "hello", 5) != 5 || shutdown(s, SHUT_WR)) return 3;
    char buffer[256];
    for (ssize_t size; (size = read(s, buffer, sizeof buffer)) > 0;) fwrite(buffer, 1, size, stdout);
    return 0;
}
`
)

// output runs a program that may not be there.
func output(t *testing.T, command ...string) (text string, err error) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("%s is not installed", command[0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	raw, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	return string(raw), err
}

// The resolvers that apps have in them: each reads /etc/resolv.conf in its own way.
func TestClientsInOtherLanguages(t *testing.T) {
	run(t, Options{Rules: allow(t, "api.example.com 443", "*.x.com 443"), Name: "cage"})
	isolate.Replace(t, "/etc/nsswitch.conf", "hosts: files dns\n")
	folder := t.TempDir()
	for name, given := range map[string]struct {
		file, source string
		compile      []string
		command      []string
		missing      string // is said of a name that isn't there
	}{
		"Python": {file: "client.py", source: inPython, command: []string{"/usr/bin/python3"}, missing: "not known"},
		"Node":   {file: "client.js", source: inNode, command: []string{"node"}, missing: "ENOTFOUND"},
		"JVM":    {file: "Client.java", source: inJava, command: []string{"java"}, missing: "UnknownHostException"},
		"glibc":  {file: "glibc.c", source: inC, compile: []string{"gcc"}, missing: "not known"},
		"musl":   {file: "musl.c", source: inC, compile: []string{"musl-gcc", "-static"}, missing: "does not resolve"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(folder, given.file)
			if err := os.WriteFile(path, []byte(given.source), 0o600); err != nil {
				t.Fatal(err)
			}
			command := append(given.command, path)
			if given.compile != nil {
				command = []string{path + ".out"}
				if text, err := output(t, append(given.compile, "-o", command[0], path)...); err != nil {
					t.Fatalf("%v:\n%s", err, text)
				}
			}
			for _, host := range []string{"api.example.com", "a.b.x.com", "Other.X.com"} {
				want := strings.ToLower(host) + " 443\nhello"
				if text, err := output(t, append(command, host)...); err != nil || strings.TrimSpace(text) != want {
					t.Errorf("%s: %v, expected %q:\n%s", host, err, want, text)
				}
			}
			for _, host := range []string{"x.com", "evilx.com"} {
				if text, err := output(t, append(command, host)...); err == nil || !strings.Contains(text, given.missing) {
					t.Errorf("%s: %v, expected %q:\n%s", host, err, given.missing, text)
				}
			}
		})
	}
}

func TestLookupsOfTheCLibrary(t *testing.T) {
	run(t, Options{Rules: allow(t, "api.example.com 443", "*.x.com 443"), Name: "cage"})
	isolate.Replace(t, "/etc/nsswitch.conf", "hosts: files dns\n")
	for arguments, want := range map[string]string{
		"ahosts api.example.com":    "127.64.0.1",
		"ahostsv4 API.example.com.": "127.64.0.1", // AI_ADDRCONFIG, and IPv4 alone
		"hosts 127.64.0.1":          "api.example.com",
		"ahosts cage":               "127.0.0.1",
		"ahosts www.localhost":      "127.0.0.1",
		"ahosts a.x.com":            "127.64.0.",
		"ahostsv6 api.example.com":  "",
		"ahosts x.com":              "",
		"ahosts evilx.com":          "",
	} {
		text, err := output(t, append([]string{"getent"}, strings.Fields(arguments)...)...)
		if (err != nil) != (want == "") || !strings.Contains(text, want) {
			t.Errorf("%s: %v, expected %q:\n%s", arguments, err, want, text)
		}
	}
}
