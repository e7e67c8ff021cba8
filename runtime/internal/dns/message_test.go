package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// query writes a message with the given counts and whatever follows the header.
func query(flags uint16, counts [4]uint16, rest ...string) []byte {
	message := binary.BigEndian.AppendUint16([]byte{0xAB, 0xCD}, flags)
	for _, number := range counts {
		message = binary.BigEndian.AppendUint16(message, number)
	}
	return append(message, strings.Join(rest, "")...)
}

const (
	askA   = "\x03wWw\x07ExAmple\x03com\x00\x00\x01\x00\x01"
	opt    = "\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00" // 1232 bytes, DO
	optV1  = "\x00\x00\x29\x04\xd0\x00\x01\x00\x00\x00\x00"
	cookie = "\x00\x00\x29\x00\x00\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x0812345678"
	soa    = "\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x02\x00\x00"
)

func TestAQueryIsRead(t *testing.T) {
	q, err := parseQuery(query(bitRecursionDesired|bitCheckingDisabled, [4]uint16{1, 0, 0, 1}, askA, opt))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Question{"wWw.ExAmple.com", TypeA, ClassIN}); q.Question != want || q.ID != 0xABCD || q.Opcode != 0 {
		t.Errorf("got %+v", q)
	}
	if !q.extended || q.size != 1232 || q.version != 0 || !q.dnssec || q.udpLimit() != 1232 {
		t.Errorf("EDNS: got %+v", q)
	}
	q, err = parseQuery(query(0, [4]uint16{1, 0, 1, 1}, askA, soa, cookie))
	if err != nil || !q.extended || q.dnssec || q.udpLimit() != 512 {
		t.Errorf("with a cookie: got %+v, %v", q, err)
	}
	q, err = parseQuery(query(0, [4]uint16{1}, askA))
	if err != nil || q.extended || q.udpLimit() != 512 {
		t.Errorf("without EDNS: got %+v, %v", q, err)
	}
}

func TestNamesOfAnyBytes(t *testing.T) {
	for given, want := range map[string]string{
		"\x00":                                "",
		"\x01a\x00":                           "a",
		"\x03a.b\x01c\x00":                    `a\.b.c`,
		"\x03a\\b\x00":                        `a\\b`,
		"\x05a\x00\x7f\xff \x00":              `a\000\127\255\032`,
		"\x01-\x01_\x01*\x00":                 "-._.*",
		"\x3f" + long(63) + "\x00":            long(63),
		strings.Repeat("\x01a", 127) + "\x00": strings.Repeat("a.", 126) + "a",
	} {
		q, err := parseQuery(query(0, [4]uint16{1}, given, "\x00\x01\x00\x01"))
		if err != nil || q.Question.Name != want {
			t.Errorf("%q: got %q, %v; expected %q", given, q.Question.Name, err, want)
		}
	}
}

func long(size int) string { return strings.Repeat("x", size) }

func TestMessagesThatAreRefused(t *testing.T) {
	one := [4]uint16{1}
	for name, message := range map[string][]byte{
		"no question":              query(0, [4]uint16{}),
		"two questions":            query(0, [4]uint16{2}, askA, askA),
		"cut":                      query(bitTruncated, one, askA),
		"no name":                  query(0, one),
		"a name without end":       query(0, one, "\x03www"),
		"a cut label":              query(0, one, "\x03ww"),
		"no type":                  query(0, one, "\x00\x00\x01\x00"),
		"a label of 64 bytes":      query(0, one, "\x40", long(64), "\x00\x00\x01\x00\x01"),
		"a reserved kind of label": query(0, one, "\x80", long(64), "\x00\x00\x01\x00\x01"),
		"a name of 256 bytes":      query(0, one, strings.Repeat("\x01a", 126), "\x02aa\x00\x00\x01\x00\x01"),
		"a pointer to itself":      query(0, one, "\xc0\x0c\x00\x01\x00\x01"),
		"a pointer into the name":  query(0, one, "\x01a\xc0\x0c\x00\x01\x00\x01"),
		"a pointer to the header":  query(0, one, "\xc0\x00\x00\x01\x00\x01"),
		"a pointer forwards":       query(0, one, "\xc0\x20\x00\x01\x00\x01"),
		"half a pointer":           query(0, one, "\xc0"),
		"something behind":         query(0, one, askA, "\x00"),
		"a missing record":         query(0, [4]uint16{1, 0, 0, 1}, askA),
		"a cut record":             query(0, [4]uint16{1, 0, 0, 1}, askA, opt[:len(opt)-1]),
		"a record's data missing":  query(0, [4]uint16{1, 0, 0, 1}, askA, cookie[:len(cookie)-1]),
		"two OPT records":          query(0, [4]uint16{1, 0, 0, 2}, askA, opt, opt),
		"OPT as an answer":         query(0, [4]uint16{1, 1, 0, 0}, askA, opt),
		"OPT with a name":          query(0, [4]uint16{1, 0, 0, 1}, askA, "\x01a", opt),
		"65535 of each record":     query(0, [4]uint16{1, 65535, 65535, 65535}, askA, soa),
	} {
		if q, err := parseQuery(message); err == nil || errors.Is(err, errNoQuery) || q.ID != 0xABCD {
			t.Errorf("%s: got %+v, %v", name, q, err)
		}
	}
	for name, message := range map[string][]byte{
		"nothing":       nil,
		"half a header": query(0, one)[:11],
		"a response":    query(bitResponse, one, askA),
	} {
		if _, err := parseQuery(message); !errors.Is(err, errNoQuery) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAResponse(t *testing.T) {
	q, err := parseQuery(query(bitRecursionDesired, [4]uint16{1, 0, 0, 1}, askA, opt))
	if err != nil {
		t.Fatal(err)
	}
	answer := Answer{Records: []Record{Address(netip.MustParseAddr("127.64.0.1"), 300)}}
	got, err := q.response(answer, 512)
	if err != nil {
		t.Fatal(err)
	}
	want := "\xab\xcd\x85\x80\x00\x01\x00\x01\x00\x00\x00\x01" + askA +
		"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\x7f\x40\x00\x01" +
		"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x00"
	if string(got) != want {
		t.Errorf("got\n%q, expected\n%q", got, want)
	}
	got, err = q.response(Answer{Code: NXDomain, Authority: []Record{Authority(60)}}, 512)
	if err != nil {
		t.Fatal(err)
	}
	if m := decode(t, got); m.code != NXDomain || len(m.answers) != 0 || len(m.authority) != 1 {
		t.Errorf("got %+v", m)
	}
}

func TestWhatDoesNotFitIsCut(t *testing.T) {
	q, err := parseQuery(query(0, [4]uint16{1, 0, 0, 1}, askA, opt))
	if err != nil {
		t.Fatal(err)
	}
	answer := Answer{Records: slices.Repeat([]Record{Address(netip.MustParseAddr("127.64.0.1"), 300)}, 72)}
	whole, err := q.response(answer, 1232)
	if err != nil || len(whole) != 12+21+72*16+11 {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	answer.Records = append(answer.Records, answer.Records...)
	cut, err := q.response(answer, 1232)
	if err != nil {
		t.Fatal(err)
	}
	if m := decode(t, cut); !m.truncated || len(m.answers) != 0 || !m.extended || m.question != askA {
		t.Errorf("got %+v", m)
	}
}

func TestRecordsThatCannotBeWritten(t *testing.T) {
	q, err := parseQuery(query(0, [4]uint16{1}, askA))
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range []Record{
		{Owner: "a..b"}, {Owner: long(64)}, {Owner: strings.Repeat("a.", 127) + "a"}, {Owner: `a\046b`},
		{Asked: true, Data: make([]byte, 1<<16)},
	} {
		if _, err := q.response(Answer{Records: []Record{record}}, 512); err == nil {
			t.Errorf("%.60q was written", fmt.Sprint(record))
		}
	}
	if _, err := Pointer(".", 1); err == nil {
		t.Error("a pointer to no name was written")
	}
}

// decoded is a response as this test reads it.
type decoded struct {
	id                  uint16
	code                Code
	truncated, extended bool
	question            string
	answers, authority  []string // type and data
}

// decode reads a response by itself, down to its last byte.
func decode(t testing.TB, message []byte) decoded {
	t.Helper()
	if len(message) < headerSize {
		t.Fatalf("%d bytes", len(message))
	}
	word := func(at int) uint16 { return binary.BigEndian.Uint16(message[at:]) }
	m := decoded{id: word(0), code: Code(word(2) & 15), truncated: word(2)&bitTruncated != 0}
	if word(2)&bitResponse == 0 || word(2)&bitRecursionAvailable == 0 {
		t.Errorf("flags %#x", word(2))
	}
	at := headerSize
	if word(4) == 1 {
		_, end, err := readName(message, at)
		if err != nil {
			t.Fatal(err)
		}
		m.question = string(message[at : end+4])
		at = end + 4
	}
	for section, number := range []uint16{word(6), word(8), word(10)} {
		for range number {
			_, end, err := readName(message, at)
			if err != nil {
				t.Fatal(err)
			}
			size := int(word(end + 8))
			record := fmt.Sprintf("%d %x", word(end), message[end+10:end+10+size])
			switch section {
			case 0:
				m.answers = append(m.answers, record)
			case 1:
				m.authority = append(m.authority, record)
			default:
				m.extended = true
				m.code |= Code(message[end+4]) << 4
			}
			at = end + 10 + size
		}
	}
	if at != len(message) {
		t.Errorf("%d of %d bytes are none of the sections'", len(message)-at, len(message))
	}
	return m
}

func FuzzQuery(f *testing.F) {
	for _, seed := range [][]byte{
		query(bitRecursionDesired, [4]uint16{1, 0, 0, 1}, askA, opt),
		query(0, [4]uint16{1, 0, 0, 1}, askA, optV1),
		query(0, [4]uint16{1, 0, 1, 1}, askA, soa, cookie),
		query(0, [4]uint16{1}, "\x01a\xc0\x0c\x00\x01\x00\x01"),
		query(2<<11, [4]uint16{}, ""),
		query(0, [4]uint16{1}, strings.Repeat("\x01a", 127), "\x00\x00\xff\x00\x01"),
	} {
		f.Add(seed, uint16(512))
	}
	f.Fuzz(func(t *testing.T, message []byte, records uint16) {
		s := &Server{options: Options{Handler: func(asked Question) Answer {
			if len(asked.Name) > 4*maxNameBytes {
				t.Errorf("a name of %d bytes", len(asked.Name))
			}
			record := Address(netip.MustParseAddr("127.64.0.1"), 300)
			return Answer{
				Records:   slices.Repeat([]Record{record}, int(records%4096)),
				Authority: []Record{Authority(60)},
			}
		}}}
		for _, isPacket := range []bool{true, false} {
			response := s.answer(slices.Clone(message), isPacket)
			if response == nil {
				continue
			}
			limit := 1<<16 - 1
			if isPacket {
				limit = maxUDP
			}
			if len(response) > limit {
				t.Errorf("a response of %d bytes", len(response))
			}
			m := decode(t, response)
			if m.id != binary.BigEndian.Uint16(message) {
				t.Errorf("got id %d", m.id)
			}
			if m.question != "" && !strings.HasPrefix(string(message[headerSize:]), m.question) {
				t.Errorf("got the question %q", m.question)
			}
		}
	})
}
