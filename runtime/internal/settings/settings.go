// Package settings reads cage.json: what a cage runs and what may go in and out of it.
//
// The file is measured, so it holds everything and implies nothing: every key has to be there, and what
// isn't known is refused, for a reader that skips a key would run something else than what was meant.
// schemas/settings.schema.json describes the same format.
package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// Path is where the image keeps the settings.
const Path = "/cage/etc/cage.json"

// Version is the only version of the format that this program understands.
const Version = 2

const (
	maxFile  = 4 << 20
	maxID    = 1<<32 - 2 // the last number means "no change" to setuid(2)
	maxItems = 1 << 16
	maxPort  = 1<<16 - 1
	maxEpoch = 1<<32 - 1 // the largest time of a cpio archive
)

// Settings is what a cage.json says.
type Settings struct {
	Name    string   // the host name
	Argv    []string // argument vector of the app, never empty
	UID     uint32
	GID     uint32
	Groups  []uint32 // supplementary groups
	Env     []string // NAME=value; the whole environment of the app
	Workdir string   // absolute
	Ingress []Ingress
	Egress  []Egress
	Secrets Secrets
	Logs    bool  // the lines that app and runtime log may be read by the parent
	Epoch   int64 // the build's time stamp, seconds since 1970
}

// Ingress is a TCP port on loopback that the app listens on.
type Ingress struct {
	Port          uint16
	Health        string // path and query that answers when the app is well; empty: none
	TLS           string // "passthrough" or "terminate"
	Protocol      string // what the app speaks behind terminated TLS: "http", "h2c" or "tcp"; with passthrough "tcp"
	ProxyProtocol bool   // each connection to the app begins with a PROXY protocol header, version 2
}

// Egress is a destination that the app may reach.
type Egress struct {
	Host string // lower-case name, *.name, address or CIDR
	Port uint16
}

var (
	hostname  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	lowerCase = regexp.MustCompile(`^[!-@\[-~]+$`) // printable ASCII
)

// Load reads and checks a file.
func Load(path string) (*Settings, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	parsed, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return parsed, nil
}

// Parse reads and checks the content of a cage.json. The error names the key that is wrong.
func Parse(data []byte) (*Settings, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	r, err := newReader(data)
	if err != nil {
		return nil, err
	}
	s := &Settings{}
	r.object(map[string]func(){
		"version": func() { r.integer(Version, Version) },
		"name":    func() { s.Name = r.text(name) },
		"argv":    func() { s.Argv = list(r, func() string { return r.text(noNUL) }) },
		"uid":     func() { s.UID = r.integer(0, maxID) },
		"gid":     func() { s.GID = r.integer(0, maxID) },
		"groups":  func() { s.Groups = list(r, func() uint32 { return r.integer(0, maxID) }) },
		"env":     func() { s.Env = list(r, func() string { return r.text(variable) }) },
		"workdir": func() { s.Workdir = r.text(absolute) },
		"ingress": func() { s.Ingress = list(r, func() Ingress { return ingress(r) }) },
		"egress":  func() { s.Egress = list(r, func() Egress { return egress(r) }) },
		"secrets": func() { s.Secrets = secrets(r) },
		"logs":    func() { s.Logs = r.boolean() },
		"epoch":   func() { s.Epoch = int64(r.integer(0, maxEpoch)) },
	})
	r.end()
	if r.err == nil && (len(s.Argv) == 0 || s.Argv[0] == "") {
		return nil, errors.New("argv: names no program")
	}
	if r.err != nil {
		return nil, r.err
	}
	if err := conflict(s); err != nil {
		return nil, err
	}
	return s, nil
}

func ingress(r *reader) (rule Ingress) {
	r.object(map[string]func(){
		"port":           func() { rule.Port = uint16(r.integer(1, maxPort)) },
		"health":         func() { rule.Health = r.textOrNull(absolute) },
		"tls":            func() { rule.TLS = r.text(tlsMode) },
		"protocol":       func() { rule.Protocol = r.text(protocol) },
		"proxy_protocol": func() { rule.ProxyProtocol = r.boolean() },
	})
	if rule.TLS == "passthrough" && rule.Protocol != "tcp" {
		r.fail("got protocol %q, expected \"tcp\", for TLS does not end in the enclave", rule.Protocol)
	}
	// The runtime listens on these: the parent must not get to what is meant for the app alone.
	if rule.Port == 53 || rule.Port >= 9000 && rule.Port <= 9009 {
		r.fail("port %d belongs to the runtime", rule.Port)
	}
	return rule
}

func egress(r *reader) (rule Egress) {
	r.object(map[string]func(){
		"host": func() { rule.Host = r.text(destination) },
		"port": func() { rule.Port = uint16(r.integer(1, maxPort)) },
	})
	return rule
}

// What follows says what is wrong with a text, or nothing.

func noNUL(text string) string {
	if strings.ContainsRune(text, 0) {
		return "holds a NUL character"
	}
	return ""
}

func name(text string) string {
	if !hostname.MatchString(text) {
		return "is no host name: up to 63 of a-z, 0-9 and '-', neither first nor last a '-'"
	}
	return ""
}

func variable(text string) string {
	if strings.Index(text, "=") < 1 {
		return "is not NAME=value"
	}
	return noNUL(text)
}

func absolute(text string) string {
	if !strings.HasPrefix(text, "/") {
		return "does not begin with '/'"
	}
	return noNUL(text)
}

func tlsMode(text string) string {
	if text != "passthrough" && text != "terminate" {
		return "is neither 'passthrough' nor 'terminate'"
	}
	return ""
}

func protocol(text string) string {
	if text != "http" && text != "h2c" && text != "tcp" {
		return "is neither 'http' nor 'h2c' nor 'tcp'"
	}
	return ""
}

func destination(text string) string {
	if len(text) > 255 || !lowerCase.MatchString(text) {
		return "is no lower-case host name, address or CIDR"
	}
	return ""
}
