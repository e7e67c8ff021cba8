// Package wire is what the programs on both sides of the enclave's wall say to each other before a stream's
// bytes begin.
//
// Whoever opens a stream sends one hello, whoever accepted it one reply; each is a frame: its length in two
// bytes, big-endian, and a JSON object. The opener needn't wait for the reply before it sends on. After both
// frames the stream carries what its kind says:
//
//	ingress  bytes of a client's connection, to a port of the app        host to guest
//	control  HTTP/1.1 requests, see package control                      host to guest
//	egress   bytes of a connection to a destination, by name and port    guest to host
//	time     nothing: the reply has the host's time                      guest to host
//
// Either side takes the other for hostile: frames are bounded, unknown keys are refused, and whoever accepts
// sets a deadline for them.
package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxFrame is how long the JSON of a frame may be, in bytes.
const MaxFrame = 2048

// Version is the only version of the protocol that these programs speak.
const Version = 1

// Stream is the kind of a stream.
type Stream string

// The kinds of streams.
const (
	Ingress Stream = "ingress"
	Control Stream = "control"
	Egress  Stream = "egress"
	Time    Stream = "time"
)

// Hello opens a stream.
type Hello struct {
	Version int    `json:"version"`
	Stream  Stream `json:"stream"`
	Host    string `json:"host,omitempty"`  // egress: a name or an address
	Port    uint16 `json:"port,omitempty"`  // egress: of the destination; ingress: of the app
	Peer    string `json:"peer,omitempty"`  // ingress: the client's address and port, if it has one
	Local   string `json:"local,omitempty"` // ingress: the address and port that the client connected to
}

// Code is why a stream was not opened.
type Code string

// The reasons.
const (
	Denied      Code = "denied"      // no rule allows it, or no such port is published
	NotFound    Code = "not-found"   // the name has no address
	Refused     Code = "refused"     // nothing listens there
	Unreachable Code = "unreachable" // no way there
	TimedOut    Code = "timed-out"   // no answer
	Busy        Code = "busy"        // a limit is reached
	Failed      Code = "failed"      // anything else
)

// Reply answers a hello. An empty Code means that the stream is open.
type Reply struct {
	Code    Code   `json:"code,omitempty"`
	Message string `json:"message,omitempty"` // for people
	UnixNS  int64  `json:"unix_ns,omitempty"` // time: nanoseconds since 1970
}

// Err is the reply as an error: nil when the stream is open.
func (r Reply) Err() error {
	if r.Code == "" {
		return nil
	}
	return &RefusedError{Reply: r}
}

// RefusedError says that the other side didn't open a stream.
type RefusedError struct{ Reply Reply }

func (e *RefusedError) Error() string {
	if e.Reply.Message == "" {
		return string(e.Reply.Code)
	}
	return string(e.Reply.Code) + ": " + e.Reply.Message
}

// maxMessage keeps a reply below MaxFrame, whatever JSON makes of its text.
const maxMessage = 256

// WriteHello sends a hello.
func WriteHello(to io.Writer, hello Hello) error {
	hello.Version = Version
	return write(to, hello)
}

// ReadHello reads one, and nothing behind it.
func ReadHello(from io.Reader) (Hello, error) {
	var hello Hello
	if err := read(from, &hello); err != nil {
		return Hello{}, fmt.Errorf("hello: %w", err)
	}
	if hello.Version != Version {
		return Hello{}, fmt.Errorf("hello: version %d, this side speaks %d", hello.Version, Version)
	}
	return hello, nil
}

// WriteReply sends a reply. A long message is cut.
func WriteReply(to io.Writer, reply Reply) error {
	if len(reply.Message) > maxMessage {
		reply.Message = reply.Message[:maxMessage]
	}
	return write(to, reply)
}

// ReadReply reads one, and nothing behind it.
func ReadReply(from io.Reader) (Reply, error) {
	var reply Reply
	if err := read(from, &reply); err != nil {
		return Reply{}, fmt.Errorf("reply: %w", err)
	}
	return reply, nil
}

func write(to io.Writer, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(text) > MaxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", len(text), MaxFrame)
	}
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(text)), uint16(len(text)))
	_, err = to.Write(append(frame, text...))
	return err
}

func read(from io.Reader, message any) error {
	var length [2]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint16(length[:])
	if size > MaxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", size, MaxFrame)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(from, text); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(message); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}
