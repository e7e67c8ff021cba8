package say

import (
	"errors"
	"io"
	"time"
	"unicode/utf8"
)

const (
	// longest is the size of a line on the console with its line feed. A pipe takes that much in one piece
	// (PIPE_BUF), whoever else writes to it.
	longest = 4096

	// MaxName is how long a service's name may be.
	MaxName = 64

	chunk = 32 << 10
)

// Relay copies a service's output to the console, line by line, each with the service's name in front
// ("app: ") and in one write, until the output ends. A line that is too long for one, or that stays
// without its end for as long as quiet, is written in pieces, each but the first marked as what it is
// ("app+ "). Nothing is dropped: while the console can't be written to, nothing more is read.
func Relay(output io.Reader, console io.Writer, name string, quiet time.Duration) error {
	chunks, stop := make(chan []byte), make(chan struct{})
	ended := make(chan error, 1)
	defer close(stop)
	go func() {
		ended <- read(output, chunks, stop)
	}()
	lines := &lines{console: console, name: name}
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		var err error
		select {
		case data := <-chunks:
			err = lines.add(data)
			timer.Reset(quiet)
		case <-timer.C:
			err = lines.flush()
		case err := <-ended:
			return errors.Join(err, lines.end())
		}
		if err != nil {
			return err
		}
	}
}

// read hands over what it reads. Two buffers are enough, for one that is handed over has been worked off
// when the next one is taken.
func read(output io.Reader, chunks chan<- []byte, stop <-chan struct{}) error {
	var buffers [2][chunk]byte
	for turn := 0; ; turn ^= 1 {
		size, err := output.Read(buffers[turn][:])
		if size > 0 {
			select {
			case chunks <- buffers[turn][:size]:
			case <-stop:
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lines makes lines of the console out of bytes. It holds one line and never more.
type lines struct {
	console io.Writer
	name    string
	line    []byte // with its mark, and without a line feed
	goes    bool   // the line goes on with one that was written before its end
	held    []byte // a carriage return or the first bytes of a character: what it is depends on the next
}

// add takes the next bytes and writes every line that is complete.
func (l *lines) add(data []byte) error {
	return l.take(data, false)
}

// end writes what is left. The last line may lack its line feed.
func (l *lines) end() error {
	return errors.Join(l.take(nil, true), l.flush())
}

func (l *lines) take(data []byte, last bool) error {
	if len(l.held) > 0 {
		data = append(l.held, data...)
		l.held = nil
	}
	for len(data) > 0 {
		size, err := l.step(data, last)
		if err != nil {
			return err
		}
		if size == 0 {
			l.held = append([]byte(nil), data...)
			return nil
		}
		data = data[size:]
	}
	return nil
}

// step takes one character and returns its size, or 0 if it takes more bytes to know what it is.
func (l *lines) step(data []byte, last bool) (int, error) {
	switch {
	case data[0] == '\n':
		return 1, l.lineFeed()
	case data[0] == '\r' && len(data) > 1 && data[1] == '\n':
		return 2, l.lineFeed()
	case !last && (data[0] == '\r' && len(data) == 1 || !utf8.FullRune(data)):
		return 0, nil
	}
	var space [16]byte
	character, size := utf8.DecodeRune(data)
	shown := appendCharacter(space[:0], character, data[:size])
	if len(l.line)+len(shown) >= longest {
		if err := l.flush(); err != nil {
			return 0, err
		}
	}
	l.begin()
	l.line = append(l.line, shown...)
	return size, nil
}

func (l *lines) begin() {
	if len(l.line) > 0 {
		return
	}
	mark := ": "
	if l.goes {
		mark = "+ "
	}
	l.line = append(append(l.line, l.name...), mark...)
}

func (l *lines) lineFeed() error {
	if !l.goes {
		l.begin() // an empty line is one too
	}
	err := l.flush()
	l.goes = false
	return err
}

// flush writes what there is of a line.
func (l *lines) flush() error {
	if len(l.line) == 0 {
		return nil
	}
	_, err := l.console.Write(append(l.line, '\n'))
	l.line, l.goes = l.line[:0], true
	return err
}
