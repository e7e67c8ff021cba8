package cbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Decode reads one value, with nothing behind it. Numbers needn't be in their shortest form, nor keys in
// order; lengths may be indefinite. A key that is there twice, a text that isn't UTF-8, and more depth or
// values than the limits allow are errors. Byte strings are copies.
func Decode(data []byte) (any, error) {
	d := decoder{data: data}
	value, err := d.value(MaxDepth)
	if err == nil && d.at < len(d.data) {
		err = fmt.Errorf("%d bytes follow", len(d.data)-d.at)
	}
	if err != nil {
		return nil, fmt.Errorf("CBOR at byte %d: %w", d.at, err)
	}
	return value, nil
}

type decoder struct {
	data  []byte
	at    int
	items int
}

var errEnds = errors.New("ends too early")

// head is the start of an item.
type head struct {
	first      byte
	major      byte
	argument   uint64
	indefinite bool
}

func (d *decoder) head() (head, error) {
	if d.at == len(d.data) {
		return head{}, errEnds
	}
	first := d.data[d.at]
	h := head{first: first, major: first &^ 31}
	switch low := first & 31; {
	case low < oneByte:
		h.argument = uint64(low)
	case low <= eightBytes:
		size := 1 << (low - oneByte)
		if len(d.data)-d.at-1 < size {
			return head{}, errEnds
		}
		var wide [8]byte
		copy(wide[8-size:], d.data[d.at+1:d.at+1+size])
		h.argument = binary.BigEndian.Uint64(wide[:])
		d.at += size
	case low == indefinite && h.major >= byteString && h.major <= mapping:
		h.indefinite = true
	default:
		return head{}, fmt.Errorf("0x%02x begins no item", first)
	}
	d.at++
	return h, nil
}

// value reads a value that may hold others up to a depth.
func (d *decoder) value(depth int) (any, error) {
	if d.items == MaxItems {
		return nil, fmt.Errorf("more than %d values", MaxItems)
	}
	d.items++
	h, err := d.head()
	if err != nil {
		return nil, err
	}
	switch h.major {
	case unsigned:
		return h.argument, nil
	case negative:
		if h.argument > 1<<63-1 {
			return nil, errors.New("a number below -2^63")
		}
		return -1 - int64(h.argument), nil
	case byteString:
		return d.chunks(h)
	case textString:
		text, err := d.chunks(h)
		return string(text), err
	case simple:
		return simpleValue(h.first)
	}
	if depth == 0 {
		return nil, fmt.Errorf("more than %d levels", MaxDepth)
	}
	switch h.major {
	case array:
		return d.array(h, depth-1)
	case mapping:
		return d.mapping(h, depth-1)
	default:
		value, err := d.value(depth - 1)
		return Tag{h.argument, value}, err
	}
}

func simpleValue(first byte) (any, error) {
	switch first {
	case itemFalse, itemTrue:
		return first == itemTrue, nil
	case itemNull:
		return nil, nil
	}
	return nil, errors.New("a fraction or a simple value other than false, true and null")
}

// chunks reads a string: all of it at once, or in pieces up to a break.
func (d *decoder) chunks(h head) ([]byte, error) {
	if !h.indefinite {
		return d.chunk(h)
	}
	whole := []byte{}
	for !d.atBreak() {
		next, err := d.head()
		if err != nil {
			return nil, err
		}
		if next.major != h.major || next.indefinite {
			return nil, errors.New("a string in pieces has one that is something else")
		}
		piece, err := d.chunk(next)
		if err != nil {
			return nil, err
		}
		whole = append(whole, piece...)
	}
	return whole, nil
}

func (d *decoder) chunk(h head) ([]byte, error) {
	if h.argument > uint64(len(d.data)-d.at) {
		return nil, errEnds
	}
	piece := append([]byte{}, d.data[d.at:d.at+int(h.argument)]...)
	if h.major == textString && !utf8.Valid(piece) {
		return nil, errors.New("a text that isn't UTF-8")
	}
	d.at += len(piece)
	return piece, nil
}

// atBreak takes the end of something indefinite, if it is next.
func (d *decoder) atBreak() bool {
	if d.at < len(d.data) && d.data[d.at] == itemBreak {
		d.at++
		return true
	}
	return false
}

// more says whether another member follows in an array or map that has had so many.
func (d *decoder) more(h head, had int) bool {
	if h.indefinite {
		return !d.atBreak()
	}
	return uint64(had) < h.argument
}

// Nothing is allocated for a length that is only claimed: what is read has been there.

func (d *decoder) array(h head, depth int) (any, error) {
	values := []any{}
	for d.more(h, len(values)) {
		value, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

func (d *decoder) mapping(h head, depth int) (any, error) {
	pairs := Map{}
	seen := map[any]bool{}
	for d.more(h, len(pairs)) {
		key, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		if !isKey(key) {
			return nil, fmt.Errorf("a key is a %T: only numbers and texts are", key)
		}
		if seen[key] {
			return nil, fmt.Errorf("key %.50q is there twice", fmt.Sprint(key))
		}
		seen[key] = true
		value, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, Pair{key, value})
	}
	return pairs, nil
}

func isKey(value any) bool {
	switch value.(type) {
	case uint64, int64, string:
		return true
	}
	return false
}
