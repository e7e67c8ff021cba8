package cbor

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Encode writes a value in the one form that RFC 8949, section 4.2.1 calls deterministic: the shortest
// heads, lengths that are definite, the keys of a map in the order of their bytes.
func Encode(value any) ([]byte, error) {
	e := encoder{}
	data, err := e.append(nil, value, MaxDepth)
	if err != nil {
		return nil, fmt.Errorf("CBOR: %w", err)
	}
	return data, nil
}

type encoder struct{ items int }

func (e *encoder) append(to []byte, value any, depth int) ([]byte, error) {
	if e.items == MaxItems {
		return nil, fmt.Errorf("more than %d values", MaxItems)
	}
	e.items++
	switch value := value.(type) {
	case nil:
		return append(to, itemNull), nil
	case bool:
		if value {
			return append(to, itemTrue), nil
		}
		return append(to, itemFalse), nil
	case uint64:
		return appendHead(to, unsigned, value), nil
	case int64:
		if value >= 0 {
			return nil, fmt.Errorf("%d as an int64: a number from 0 is a uint64", value)
		}
		return appendHead(to, negative, uint64(-1-value)), nil
	case []byte:
		return append(appendHead(to, byteString, uint64(len(value))), value...), nil
	case string:
		if !utf8.ValidString(value) {
			return nil, fmt.Errorf("%.50q isn't UTF-8", value)
		}
		return append(appendHead(to, textString, uint64(len(value))), value...), nil
	}
	if depth == 0 {
		return nil, fmt.Errorf("more than %d levels", MaxDepth)
	}
	switch value := value.(type) {
	case []any:
		return e.array(to, value, depth-1)
	case Map:
		return e.mapping(to, value, depth-1)
	case Tag:
		return e.append(appendHead(to, tagged, value.Number), value.Value, depth-1)
	}
	return nil, fmt.Errorf("a %T has no form", value)
}

func (e *encoder) array(to []byte, values []any, depth int) ([]byte, error) {
	to = appendHead(to, array, uint64(len(values)))
	for _, value := range values {
		var err error
		if to, err = e.append(to, value, depth); err != nil {
			return nil, err
		}
	}
	return to, nil
}

func (e *encoder) mapping(to []byte, pairs Map, depth int) ([]byte, error) {
	type entry struct{ key, value []byte }
	entries := make([]entry, 0, len(pairs))
	for _, pair := range pairs {
		if !isKey(pair.Key) {
			return nil, fmt.Errorf("a key is a %T: only numbers and texts are", pair.Key)
		}
		key, err := e.append(nil, pair.Key, depth)
		if err != nil {
			return nil, err
		}
		value, err := e.append(nil, pair.Value, depth)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{key, value})
	}
	slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare(a.key, b.key) })
	to = appendHead(to, mapping, uint64(len(entries)))
	for number, entry := range entries {
		if number > 0 && bytes.Equal(entry.key, entries[number-1].key) {
			return nil, fmt.Errorf("key %x is there twice", entry.key)
		}
		to = append(append(to, entry.key...), entry.value...)
	}
	return to, nil
}

func appendHead(to []byte, major byte, argument uint64) []byte {
	switch {
	case argument < oneByte:
		return append(to, major|byte(argument))
	case argument < 1<<8:
		return append(to, major|oneByte, byte(argument))
	case argument < 1<<16:
		return binary.BigEndian.AppendUint16(append(to, major|(oneByte+1)), uint16(argument))
	case argument < 1<<32:
		return binary.BigEndian.AppendUint32(append(to, major|(oneByte+2)), uint32(argument))
	default:
		return binary.BigEndian.AppendUint64(append(to, major|eightBytes), argument)
	}
}
