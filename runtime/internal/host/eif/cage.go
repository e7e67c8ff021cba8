package eif

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"cagebuild.dev/runtime/internal/settings"
)

// Version is the only version of CustomMetadata.cagebuild that this program understands.
const Version = 1

const (
	maxMemory = 1 << 24 // MiB: 16 TiB
	maxCPUs   = 1 << 12
)

// ErrForeign says that the image was made by another program, or that what cagebuild adds was taken out.
var ErrForeign = errors.New("holds no settings of cagebuild")

// Cage is what the metadata says.
type Cage struct {
	Name         string // the enclave's host name
	Architecture string // x86_64 or aarch64
	MemoryMiB    int
	CPUs         int
	Ingress      []settings.Ingress
	Egress       []settings.Egress
	Secrets      settings.Secrets
	Logs         bool
}

// Parse reads the metadata of an EIF. Keys beside CustomMetadata.cagebuild may be there; in it all keys must be, and
// no others. The error is ErrForeign where it is missing.
func Parse(data []byte) (*Cage, error) {
	own := json.RawMessage(data)
	for _, key := range []string{"CustomMetadata", "cagebuild"} {
		values, err := object(own)
		if err != nil {
			return nil, err
		}
		inner, found := values[key]
		if !found || string(inner) == "null" {
			return nil, ErrForeign
		}
		own = inner
	}
	cage, err := parse(own)
	if err != nil {
		return nil, fmt.Errorf("CustomMetadata.cagebuild: %w", err)
	}
	return cage, nil
}

func parse(data json.RawMessage) (*Cage, error) {
	values, err := object(data)
	if err != nil {
		return nil, err
	}
	// The version goes first: another one may have other keys.
	if _, err := integer(values, "version", Version, Version); err != nil {
		return nil, err
	}
	known := []string{"version", "name", "architecture", "memory_mib", "cpus", "ingress", "egress", "secrets", "logs"}
	for key := range values {
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("unknown key %.100q", key)
		}
	}
	for _, key := range known {
		if _, found := values[key]; !found {
			return nil, fmt.Errorf("key %q is missing", key)
		}
	}
	cage := &Cage{}
	if cage.MemoryMiB, err = integer(values, "memory_mib", 1, maxMemory); err != nil {
		return nil, err
	}
	if cage.CPUs, err = integer(values, "cpus", 1, maxCPUs); err != nil {
		return nil, err
	}
	switch text := string(values["architecture"]); text {
	case `"x86_64"`, `"aarch64"`:
		cage.Architecture = text[1 : len(text)-1]
	default:
		return nil, fmt.Errorf("architecture: got %.100s, expected \"x86_64\" or \"aarch64\"", text)
	}
	same, err := shared(values)
	if err != nil {
		return nil, err
	}
	cage.Name, cage.Ingress, cage.Egress = same.Name, same.Ingress, same.Egress
	cage.Secrets, cage.Logs = same.Secrets, same.Logs
	return cage, nil
}

// shared reads what has the same form in cage.json, by the one reader of that.
func shared(values map[string]json.RawMessage) (*settings.Settings, error) {
	var text bytes.Buffer
	fmt.Fprintf(&text, `{"version":%d,"argv":["/"],"uid":0,"gid":0,"groups":[],"env":[],"workdir":"/","epoch":0`,
		settings.Version)
	for _, key := range []string{"name", "ingress", "egress", "secrets", "logs"} {
		fmt.Fprintf(&text, ",%q:", key)
		text.Write(values[key])
	}
	text.WriteByte('}')
	return settings.Parse(text.Bytes())
}

// object reads one JSON object. A key that is there twice is refused, for readers differ on what it means.
func object(data json.RawMessage) (map[string]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	token, err := decoder.Token()
	if err != nil {
		return nil, fmt.Errorf("is not JSON: %w", err)
	}
	if token != json.Delim('{') {
		return nil, errors.New("is no JSON object")
	}
	values := map[string]json.RawMessage{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, fmt.Errorf("is not JSON: %w", err)
		}
		key, _ := token.(string)
		if _, there := values[key]; there {
			return nil, fmt.Errorf("key %.100q is there twice", key)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, fmt.Errorf("%.100q: is not JSON: %w", key, err)
		}
		values[key] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("is not JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return values, nil
}

func integer(values map[string]json.RawMessage, key string, least, most int) (int, error) {
	text := string(values[key])
	number, err := strconv.ParseInt(text, 10, 32)
	switch {
	case text == "":
		return 0, fmt.Errorf("key %q is missing", key)
	case err == nil && int(number) >= least && int(number) <= most:
		return int(number), nil
	case least == most:
		return 0, fmt.Errorf("%s: got %.50s, expected %d", key, text, least)
	default:
		return 0, fmt.Errorf("%s: got %.50s, expected a whole number from %d to %d", key, text, least, most)
	}
}
