// Package dns answers DNS queries over UDP and TCP: the messages (RFC 1035, with EDNS of RFC 6891), and a
// server (transport over TCP: RFC 7766). What the answers are, its Handler says.
//
// Messages come from the app, which may send anything.
package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

const headerSize = 12

// The sizes of messages over UDP, in bytes: what every client takes, and the most that is sent.
const (
	minUDP = 512
	maxUDP = 4096
)

// Bits of the header's second 16-bit word.
const (
	bitResponse           = 1 << 15
	bitAuthoritative      = 1 << 10
	bitTruncated          = 1 << 9
	bitRecursionDesired   = 1 << 8
	bitRecursionAvailable = 1 << 7
	bitCheckingDisabled   = 1 << 4
)

// Type is a type of records.
type Type uint16

// Types, by the names that they have at IANA.
const (
	TypeA    Type = 1
	TypeSOA  Type = 6
	TypePTR  Type = 12
	TypeAAAA Type = 28
	typeOPT  Type = 41
	TypeANY  Type = 255
)

// IsMeta reports whether a type is no data but an instruction or a transaction's (RFC 6895, section 3.1), such
// as AXFR. ANY is none here.
func (t Type) IsMeta() bool { return t == 0 || t == typeOPT || t >= 128 && t < TypeANY }

// Class is a class of records. There is no use for another than IN.
type Class uint16

// ClassIN is the internet's.
const ClassIN Class = 1

// Code is a response code.
type Code uint16

// The codes, by the names that they have at IANA.
const (
	NoError  Code = 0
	FormErr  Code = 1
	ServFail Code = 2
	NXDomain Code = 3
	NotImp   Code = 4
	Refused  Code = 5
	BadVers  Code = 16
)

var codes = map[Code]string{
	NoError: "noerror", FormErr: "formerr", ServFail: "servfail", NXDomain: "nxdomain", NotImp: "notimp",
	Refused: "refused", BadVers: "badvers",
}

func (c Code) String() string {
	if name, known := codes[c]; known {
		return name
	}
	return fmt.Sprintf("rcode%d", uint16(c))
}

// Question is what is asked for.
type Question struct {
	Name  string // as asked, without the root's dot; anything but graphic ASCII is escaped as in zone files
	Type  Type
	Class Class
}

// Record is one record of an answer.
type Record struct {
	Owner string // "" is the root's
	Asked bool   // the owner is the name that was asked for
	Type  Type
	TTL   uint32 // seconds
	Data  []byte
}

// Address is an A or AAAA record of the name that was asked for.
func Address(address netip.Addr, ttl uint32) Record {
	record := Record{Asked: true, Type: TypeAAAA, TTL: ttl, Data: address.AsSlice()}
	if address.Is4() {
		record.Type = TypeA
	}
	return record
}

// Pointer is a PTR record of the name that was asked for.
func Pointer(name string, ttl uint32) (Record, error) {
	data, err := appendName(nil, name)
	return Record{Asked: true, Type: TypePTR, TTL: ttl, Data: data}, err
}

// Authority is a SOA record of the root, in the name of a server that isn't one. Clients keep a negative
// answer, in whose authority section it is, for ttl seconds (RFC 2308).
func Authority(ttl uint32) Record {
	data := []byte("\x09localhost\x00\x06nobody\x07invalid\x00")
	for _, number := range [5]uint32{1, 3600, 600, 86400, ttl} { // serial, refresh, retry, expire, minimum
		data = binary.BigEndian.AppendUint32(data, number)
	}
	return Record{Type: TypeSOA, TTL: ttl, Data: data}
}

// Answer is what a Handler answers.
type Answer struct {
	Code      Code
	Records   []Record
	Authority []Record
}

// Query is a parsed query.
type Query struct {
	ID       uint16
	Opcode   uint8
	Question Question

	flags    uint16 // those that are copied to the response
	question []byte // as it came, in whatever case
	extended bool   // there is an OPT record
	size     uint16 // what the client takes over UDP
	version  uint8  // of EDNS
	dnssec   bool   // the DO bit
}

// errNoQuery says that a message isn't to be answered.
var errNoQuery = errors.New("is no query")

// parseQuery reads a message. With any error but errNoQuery the query can be answered all the same, with a
// code. Of an opcode other than 0 only the header is read.
func parseQuery(message []byte) (*Query, error) {
	if len(message) < headerSize {
		return nil, errNoQuery
	}
	word := func(at int) uint16 { return binary.BigEndian.Uint16(message[at:]) }
	flags := word(2)
	if flags&bitResponse != 0 {
		return nil, errNoQuery
	}
	q := &Query{
		ID:     word(0),
		Opcode: uint8(flags >> 11 & 15),
		flags:  flags & (bitRecursionDesired | bitCheckingDisabled),
	}
	if q.Opcode != 0 {
		return q, nil
	}
	if flags&bitTruncated != 0 || word(4) != 1 {
		return q, errors.New("is cut, or doesn't ask one question")
	}
	name, at, err := readName(message, headerSize)
	if err != nil {
		return q, err
	}
	if len(message) < at+4 {
		return q, errShort
	}
	q.Question = Question{Name: name, Type: Type(word(at)), Class: Class(word(at + 2))}
	at += 4
	q.question = message[headerSize:at]
	ordinary := int(word(6)) + int(word(8)) // answers and authorities, which no query needs
	for index := range ordinary + int(word(10)) {
		if at, err = q.readRecord(message, at, index >= ordinary); err != nil {
			return q, err
		}
	}
	if at != len(message) {
		return q, errors.New("goes on after its end")
	}
	return q, nil
}

// readRecord reads the record at an offset and returns where it ends. All but OPT is skipped.
func (q *Query) readRecord(message []byte, at int, additional bool) (int, error) {
	name, at, err := readName(message, at)
	if err != nil {
		return 0, err
	}
	if len(message) < at+10 {
		return 0, errShort
	}
	fields := message[at : at+10]
	end := at + 10 + int(binary.BigEndian.Uint16(fields[8:]))
	if len(message) < end {
		return 0, errShort
	}
	if Type(binary.BigEndian.Uint16(fields)) != typeOPT {
		return end, nil
	}
	if !additional || name != "" || q.extended {
		return 0, errors.New("an OPT record in the wrong place")
	}
	q.extended = true
	q.size = binary.BigEndian.Uint16(fields[2:])
	q.version = fields[5]
	q.dnssec = fields[6]&0x80 != 0
	return end, nil
}

// udpLimit is how long a response over UDP may be.
func (q *Query) udpLimit() int {
	if !q.extended {
		return minUDP
	}
	return min(max(int(q.size), minUDP), maxUDP)
}

// response returns the message that answers a query. If it were longer than the limit, it has the question
// alone and says that it's cut.
func (q *Query) response(answer Answer, limit int) ([]byte, error) {
	message, err := q.pack(answer, 0)
	if err == nil && len(message) > limit {
		return q.pack(Answer{Code: answer.Code}, bitTruncated)
	}
	return message, err
}

// pack writes a response. The answers are this server's own, and those of a real resolver behind it: both
// bits are set, for clients look at one or the other.
func (q *Query) pack(answer Answer, extra uint16) ([]byte, error) {
	flags := bitResponse | bitRecursionAvailable | uint16(q.Opcode)<<11 | q.flags | extra | uint16(answer.Code&15)
	if answer.Code == NoError || answer.Code == NXDomain {
		flags |= bitAuthoritative
	}
	message := binary.BigEndian.AppendUint16(make([]byte, 0, minUDP), q.ID)
	for _, word := range []uint16{
		flags, count(q.question != nil), uint16(len(answer.Records)), uint16(len(answer.Authority)), count(q.extended),
	} {
		message = binary.BigEndian.AppendUint16(message, word)
	}
	message = append(message, q.question...)
	var err error
	for _, records := range [][]Record{answer.Records, answer.Authority} {
		for _, record := range records {
			if message, err = record.append(message); err != nil {
				return nil, err
			}
		}
	}
	if q.extended {
		message = q.appendOPT(message, answer.Code)
	}
	return message, nil
}

func (r Record) append(message []byte) ([]byte, error) {
	if len(r.Data) > 1<<16-1 {
		return nil, fmt.Errorf("a record of %d bytes", len(r.Data))
	}
	var err error
	if r.Asked {
		message = append(message, pointer, headerSize)
	} else if message, err = appendName(message, r.Owner); err != nil {
		return nil, err
	}
	message = binary.BigEndian.AppendUint16(message, uint16(r.Type))
	message = binary.BigEndian.AppendUint16(message, uint16(ClassIN))
	message = binary.BigEndian.AppendUint32(message, r.TTL)
	message = binary.BigEndian.AppendUint16(message, uint16(len(r.Data)))
	return append(message, r.Data...), nil
}

// appendOPT appends this side's OPT record: no options, version 0.
func (q *Query) appendOPT(message []byte, code Code) []byte {
	message = append(message, 0)
	message = binary.BigEndian.AppendUint16(message, uint16(typeOPT))
	message = binary.BigEndian.AppendUint16(message, maxUDP)
	message = append(message, byte(code>>4), 0, byte(count(q.dnssec))<<7, 0)
	return binary.BigEndian.AppendUint16(message, 0)
}

func count(isThere bool) uint16 {
	if isThere {
		return 1
	}
	return 0
}
