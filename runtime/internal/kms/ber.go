package kms

import (
	"errors"
	"fmt"
)

// maxDepth is how deep elements may be nested. KMS's answers need seven.
const maxDepth = 16

// Identifier octets of what is read here (X.690, 8.1.2): class, whether constructed, number.
const (
	tagInteger     = 0x02
	tagOctetString = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagSequence    = 0x30
	tagSet         = 0x31
	constructed    = 0x20
	contextTag     = 0x80 // [0]; the number is added
)

// element is one value in BER: of a primitive one the content, of a constructed one the elements within.
type element struct {
	tag      byte
	content  []byte
	children []element
}

// parseBER reads data that is one element, in BER (X.690): lengths may be longer than they need be and
// indefinite, unlike in DER, which encoding/asn1 reads. Tag numbers above 30 are refused. What it makes is
// bounded by the length of data, for which the caller answers.
func parseBER(data []byte) (element, error) {
	parsed, rest, err := readElement(data, 0)
	if err != nil {
		return element{}, err
	}
	if len(rest) > 0 {
		return element{}, fmt.Errorf("%d bytes follow the end", len(rest))
	}
	return parsed, nil
}

func readElement(data []byte, depth int) (parsed element, rest []byte, err error) {
	if depth == maxDepth {
		return element{}, nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	if len(data) < 2 {
		return element{}, nil, errors.New("ends too early")
	}
	parsed.tag = data[0]
	switch {
	case parsed.tag&0x1f == 0x1f:
		return element{}, nil, errors.New("a tag number above 30")
	case parsed.tag&^constructed == 0:
		return element{}, nil, errors.New("an end of contents where none can be")
	}
	length, indefinite, data, err := readLength(data[1:])
	switch {
	case err != nil:
		return element{}, nil, err
	case indefinite && parsed.tag&constructed == 0:
		return element{}, nil, errors.New("a primitive element of indefinite length")
	case indefinite:
		parsed.children, rest, err = readUntilEnd(data, depth+1)
		return parsed, rest, err
	}
	content, rest := data[:length], data[length:]
	if parsed.tag&constructed == 0 {
		parsed.content = content
		return parsed, rest, nil
	}
	for len(content) > 0 {
		var child element
		if child, content, err = readElement(content, depth+1); err != nil {
			return element{}, nil, err
		}
		parsed.children = append(parsed.children, child)
	}
	return parsed, rest, nil
}

// readUntilEnd reads elements up to the end of contents, two zero bytes.
func readUntilEnd(data []byte, depth int) (children []element, rest []byte, err error) {
	for {
		if len(data) >= 2 && data[0] == 0 && data[1] == 0 {
			return children, data[2:], nil
		}
		var child element
		if child, data, err = readElement(data, depth); err != nil {
			return nil, nil, err
		}
		children = append(children, child)
	}
}

// readLength reads a length of which that many bytes are there (X.690, 8.1.3).
func readLength(data []byte) (length int, indefinite bool, rest []byte, err error) {
	if len(data) == 0 {
		return 0, false, nil, errors.New("ends too early")
	}
	first, rest := data[0], data[1:]
	switch count := int(first & 0x7f); {
	case first == 0x80:
		return 0, true, rest, nil
	case first < 0x80:
		length = int(first)
	case count > 4 || count > len(rest):
		return 0, false, nil, fmt.Errorf("a length of %d bytes", count)
	default:
		for _, digit := range rest[:count] {
			length = length<<8 | int(digit)
		}
		rest = rest[count:]
	}
	if length > len(rest) {
		return 0, false, nil, fmt.Errorf("an element of %d bytes where %d are left", length, len(rest))
	}
	return length, false, rest, nil
}

// octets returns the bytes of an octet string with a tag, which may be in pieces (X.690, 8.7).
func (e element) octets(tag byte) ([]byte, error) {
	switch e.tag {
	case tag:
		return e.content, nil
	case tag | constructed:
		var joined []byte
		for _, child := range e.children {
			piece, err := child.octets(tagOctetString)
			if err != nil {
				return nil, err
			}
			joined = append(joined, piece...)
		}
		return joined, nil
	}
	return nil, fmt.Errorf("got tag %#02x, expected an octet string", e.tag)
}

// fields returns the elements within one of a certain tag, if their number is as expected.
func (e element) fields(tag byte, least, most int) ([]element, error) {
	if e.tag != tag || len(e.children) < least || len(e.children) > most {
		return nil, fmt.Errorf("got tag %#02x with %d elements, expected %#02x with %d to %d",
			e.tag, len(e.children), tag, least, most)
	}
	return e.children, nil
}

// is says whether the element is a primitive one of a tag and a content.
func (e element) is(tag byte, content string) bool {
	return e.tag == tag && string(e.content) == content
}
