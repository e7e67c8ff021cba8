// Package cbor reads and writes the part of CBOR (RFC 8949) that attestation documents and the device that
// signs them use.
//
// Values are Go values of these types, and no others:
//
//	nil, bool  null, false and true
//	uint64     a number from 0
//	int64      a number below 0
//	[]byte     a byte string
//	string     a text, which is UTF-8
//	[]any      an array
//	Map        a map, in the order of its data
//	Tag        a tagged value
//
// Numbers below -2^63, fractions and the other simple values are refused, for nothing here has them.
package cbor

// Limits of what is read and written.
const (
	MaxDepth = 16   // arrays, maps and tags inside each other
	MaxItems = 4096 // values in all, those inside of others too
)

// Pair is an entry of a map.
type Pair struct{ Key, Value any }

// Map is a map whose keys are numbers and texts, each there once.
type Map []Pair

// Get finds the value of a key, which is a uint64, an int64 or a string.
func (m Map) Get(key any) (any, bool) {
	for _, pair := range m {
		if pair.Key == key {
			return pair.Value, true
		}
	}
	return nil, false
}

// Tag is a value with a tag, such as 18 for a COSE_Sign1.
type Tag struct {
	Number uint64
	Value  any
}

// The major types: the upper three bits of an item's first byte.
const (
	unsigned = iota << 5
	negative
	byteString
	textString
	array
	mapping
	tagged
	simple
)

// What the lower five bits say.
const (
	oneByte    = 24 // the argument follows in one byte; 25 to 27: in two, four and eight
	eightBytes = 27
	indefinite = 31 // no length: items follow up to a break
)

// Whole first bytes.
const (
	itemFalse = simple | 20
	itemTrue  = simple | 21
	itemNull  = simple | 22
	itemBreak = simple | indefinite
)
