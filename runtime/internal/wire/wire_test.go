package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

func frame(text string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)
}

func TestHellosArriveAsTheyWereSent(t *testing.T) {
	for _, sent := range []Hello{
		{Stream: Ingress, Port: 8080, Peer: "[2001:db8::1]:50000", Local: "192.0.2.1:443"},
		{Stream: Egress, Host: "api.example.com", Port: 443},
		{Stream: Control},
		{Stream: Time},
	} {
		var stream bytes.Buffer
		if err := WriteHello(&stream, sent); err != nil {
			t.Fatal(err)
		}
		stream.WriteString("what follows")
		got, err := ReadHello(&stream)
		sent.Version = Version
		if err != nil || got != sent {
			t.Errorf("got %+v, %v", got, err)
		}
		if rest := stream.String(); rest != "what follows" {
			t.Errorf("%q is left of what follows", rest)
		}
	}
}

func TestRepliesArriveAndAreErrors(t *testing.T) {
	var stream bytes.Buffer
	for _, sent := range []Reply{{}, {UnixNS: 1 << 60}, {Code: Denied, Message: "no rule"}, {Code: Busy}} {
		if err := WriteReply(&stream, sent); err != nil {
			t.Fatal(err)
		}
		got, err := ReadReply(&stream)
		if err != nil || got != sent {
			t.Errorf("got %+v, %v", got, err)
		}
		var refused *RefusedError
		if isError := errors.As(got.Err(), &refused); isError != (sent.Code != "") {
			t.Errorf("%+v as an error: %v", got, got.Err())
		}
	}
}

func TestALongMessageIsCut(t *testing.T) {
	var stream bytes.Buffer
	if err := WriteReply(&stream, Reply{Code: Failed, Message: strings.Repeat("\x00", 10_000)}); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadReply(&stream); err != nil || len(got.Message) != maxMessage {
		t.Errorf("got %d bytes, %v", len(got.Message), err)
	}
}

func TestWhatIsNoHelloIsRefused(t *testing.T) {
	for name, sent := range map[string][]byte{
		"nothing":         {},
		"half a length":   {0},
		"a cut frame":     frame(`{"version":1,"stream":"time"}`)[:20],
		"too long":        append([]byte{0xff, 0xff}, bytes.Repeat([]byte(" "), 1<<16)...),
		"no object":       frame(`[]`),
		"null":            frame(`null`),
		"another version": frame(`{"version":2,"stream":"time"}`),
		"no version":      frame(`{"stream":"time"}`),
		"an unknown key":  frame(`{"version":1,"stream":"time","more":1}`),
		"a large port":    frame(`{"version":1,"stream":"ingress","port":65536}`),
		"a negative port": frame(`{"version":1,"stream":"ingress","port":-1}`),
		"two objects":     frame(`{"version":1,"stream":"time"}{}`),
		"HTTP":            []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"TLS":             []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
	} {
		if got, err := ReadHello(bytes.NewReader(sent)); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func FuzzReadHello(f *testing.F) {
	f.Add(frame(`{"version":1,"stream":"egress","host":"a","port":1}`))
	f.Add(frame(`{"version":1,"stream":"ingress","port":1,"peer":"x","local":"y"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		reader := bytes.NewReader(data)
		hello, err := ReadHello(reader)
		if err != nil {
			return
		}
		if read := len(data) - reader.Len(); read > 2+MaxFrame {
			t.Errorf("read %d bytes", read)
		}
		var again bytes.Buffer
		if err := WriteHello(&again, hello); err != nil {
			// Escaping can make it longer than it was.
			return
		}
		if got, err := ReadHello(&again); err != nil || got != hello {
			t.Errorf("got %+v (%v) of %+v", got, err, hello)
		}
	})
}

func FuzzReadReply(f *testing.F) {
	f.Add(frame(`{"code":"denied","message":"m"}`))
	f.Add(frame(`{"unix_ns":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := ReadReply(bytes.NewReader(data)); err == nil && len(data) < 4 {
			t.Error("a reply out of nothing")
		}
	})
}

// A peer that sends without end is read no further than its frame.
func TestNoMoreIsReadThanAFrame(t *testing.T) {
	endless := io.MultiReader(bytes.NewReader([]byte{0x08, 0x00}), zeros{})
	if _, err := ReadHello(endless); err == nil {
		t.Error("zeros are a hello")
	}
}

type zeros struct{}

func (zeros) Read(into []byte) (int, error) { clear(into); return len(into), nil }
