package dns

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxNameBytes = 255 // of a name in a message, with the length bytes and the root's (RFC 1035, section 2.3.4)
	maxLabel     = 63
	pointer      = 0xC0 // the two highest bits of a label's length: what follows is an offset
)

var (
	errShort   = errors.New("ends too early")
	errName    = errors.New("a name of more than 255 bytes")
	errPointer = errors.New("a name that points forwards")
	errLabel   = errors.New("a label of an unknown kind")
)

// readName reads the name at an offset and returns it as text, and where the name ends. A pointer leads to
// what was there before the name or the part that has the pointer, so there is no way around in a circle.
func readName(message []byte, at int) (name string, end int, err error) {
	var text strings.Builder
	size, start := 1, at
	for {
		if at >= len(message) {
			return "", 0, errShort
		}
		length := int(message[at])
		switch {
		case length == 0:
			if end == 0 {
				end = at + 1
			}
			return text.String(), end, nil
		case length&pointer == pointer:
			if at+1 >= len(message) {
				return "", 0, errShort
			}
			target := length&^pointer<<8 | int(message[at+1])
			if end == 0 {
				end = at + 2
			}
			if target < headerSize || target >= start {
				return "", 0, errPointer
			}
			at, start = target, target
		case length > maxLabel:
			return "", 0, errLabel
		case at+1+length > len(message):
			return "", 0, errShort
		default:
			if size += 1 + length; size > maxNameBytes {
				return "", 0, errName
			}
			if text.Len() > 0 {
				text.WriteByte('.')
			}
			writeLabel(&text, message[at+1:at+1+length])
			at += 1 + length
		}
	}
}

// writeLabel writes a label as text. What could be taken for something else is escaped as in zone files
// (RFC 1035, section 5.1), so that different names never have the same text.
func writeLabel(to *strings.Builder, label []byte) {
	for _, c := range label {
		switch {
		case c == '.' || c == '\\':
			to.WriteByte('\\')
			to.WriteByte(c)
		case c <= ' ' || c > '~':
			fmt.Fprintf(to, `\%03d`, c)
		default:
			to.WriteByte(c)
		}
	}
}

// appendName appends a name without escapes, which is as text "" for the root.
func appendName(message []byte, name string) ([]byte, error) {
	if len(name)+2 > maxNameBytes {
		return nil, errName
	}
	if name != "" {
		for label := range strings.SplitSeq(name, ".") {
			if label == "" || len(label) > maxLabel || strings.Contains(label, `\`) {
				return nil, fmt.Errorf("%.260q is no name", name)
			}
			message = append(append(message, byte(len(label))), label...)
		}
	}
	return append(message, 0), nil
}
