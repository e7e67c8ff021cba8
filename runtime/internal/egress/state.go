package egress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cagebuild.dev/runtime/internal/say"
)

// maxState is how large the file can become: a line for each name.
const maxState = maxNames * (len("127.127.255.254 \n") + 253)

// state is a file with the addresses of names, a line for each: "127.64.0.1 api.example.com". It is written
// by this package alone, and lasts as long as the enclave.
type state struct {
	path string
	file *os.File
	size int64
}

// openState reads a file and calls take for each line. Lines that take refuses are said and left out: a name
// without an address gets one, while a wrong one would lead to another destination. No file is an empty one.
func openState(path string, take func(name string, address netip.Addr) error) (*state, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return &state{path: path}, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if status, err := file.Stat(); err != nil || !status.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", path))
	}
	content, err := io.ReadAll(io.LimitReader(file, int64(maxState)+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxState {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxState)
	}
	readState(content, take, func(line string, err error) {
		say.Line("egress: %s: line %.300q is left out: %v", path, line, err)
	})
	return &state{path: path}, nil
}

// readState reads the lines of a state. What is behind the last line feed was being written when the process
// ended: nobody has heard of that address.
func readState(content []byte, take func(string, netip.Addr) error, refused func(string, error)) {
	content = content[:bytes.LastIndexByte(content, '\n')+1]
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSuffix(line, "\n")
		text, name, _ := strings.Cut(line, " ")
		address, err := netip.ParseAddr(text)
		if err == nil {
			err = take(name, address)
		}
		if err != nil {
			refused(line, err)
		}
	}
}

func stateLine(name string, address netip.Addr) string { return address.String() + " " + name + "\n" }

// rewrite replaces the file by one with these names, and keeps it open.
func (s *state) rewrite(byName map[string]netip.Addr) error {
	var content strings.Builder
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		content.WriteString(stateLine(name, byName[name]))
	}
	fresh := s.path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(content.String())
	if err == nil {
		err = os.Rename(fresh, s.path)
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(fresh)
		return err
	}
	s.file, s.size = file, int64(content.Len())
	return nil
}

// append adds a line. A part of one that couldn't be written whole is taken away again.
func (s *state) append(name string, address netip.Addr) error {
	line := stateLine(name, address)
	if _, err := s.file.WriteAt([]byte(line), s.size); err != nil {
		return errors.Join(err, s.file.Truncate(s.size))
	}
	s.size += int64(len(line))
	return nil
}

func (s *state) close() { _ = s.file.Close() }
