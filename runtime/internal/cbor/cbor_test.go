package cbor

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// vectors are from RFC 8949, appendix A.
var vectors = map[string]any{
	"00":                 uint64(0),
	"17":                 uint64(23),
	"1818":               uint64(24),
	"18ff":               uint64(255),
	"1903e8":             uint64(1000),
	"1a000f4240":         uint64(1000000),
	"1b000000e8d4a51000": uint64(1000000000000),
	"1bffffffffffffffff": uint64(18446744073709551615),
	"20":                 int64(-1),
	"3903e7":             int64(-1000),
	"3b7fffffffffffffff": int64(-1 << 63),
	"f4":                 false,
	"f5":                 true,
	"f6":                 nil,
	"40":                 []byte{},
	"4401020304":         []byte{1, 2, 3, 4},
	"60":                 "",
	"6449455446":         "IETF",
	"62c3bc":             "ü",
	"80":                 []any{},
	"8301820203820405":   []any{uint64(1), []any{uint64(2), uint64(3)}, []any{uint64(4), uint64(5)}},
	"a0":                 Map{},
	"a201020304":         Map{{uint64(1), uint64(2)}, {uint64(3), uint64(4)}},
	"a26161016162820203": Map{{"a", uint64(1)}, {"b", []any{uint64(2), uint64(3)}}},
	"826161a161626163":   []any{"a", Map{{"b", "c"}}},
	"c11a514b67b0":       Tag{1, uint64(1363896240)},
	"d818456449455446":   Tag{24, []byte("dIETF")},
}

// lenient are other forms that are read, as RFC 8949 allows them.
var lenient = map[string]any{
	"1800":                       uint64(0),
	"1b0000000000000001":         uint64(1),
	"5f42010243030405ff":         []byte{1, 2, 3, 4, 5},
	"5fff":                       []byte{},
	"7f657374726561646d696e67ff": "streaming",
	"9fff":                       []any{},
	"9f018202039f0405ffff":       []any{uint64(1), []any{uint64(2), uint64(3)}, []any{uint64(4), uint64(5)}},
	"bf61610161629f0203ffff":     Map{{"a", uint64(1)}, {"b", []any{uint64(2), uint64(3)}}},
	"bfff":                       Map{},
	"a2616201616102":             Map{{"b", uint64(1)}, {"a", uint64(2)}},
	"a220010002":                 Map{{int64(-1), uint64(1)}, {uint64(0), uint64(2)}},
	"bf6346756ef563416d7421ff":   Map{{"Fun", true}, {"Amt", int64(-2)}},
	"9a00000001f6":               []any{nil},
	"d28443a10126a0f640":         Tag{18, []any{[]byte{0xa1, 1, 0x26}, Map{}, nil, []byte{}}},
	"826161bf61626163ff":         []any{"a", Map{{"b", "c"}}},
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheVectorsOfTheRFC(t *testing.T) {
	for text, want := range vectors {
		data := unhex(t, text)
		if got, err := Decode(data); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, %v; expected %#v", text, got, err, want)
		}
		if got, err := Encode(want); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%#v: got %x, %v; expected %s", want, got, err, text)
		}
	}
}

func TestOtherFormsAreRead(t *testing.T) {
	for text, want := range lenient {
		if got, err := Decode(unhex(t, text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, %v; expected %#v", text, got, err, want)
		}
	}
}

func TestWhatIsWrongIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "ends too early",
		"18":                     "ends too early",
		"1b00000000":             "ends too early",
		"41":                     "ends too early",
		"5bffffffffffffffff":     "ends too early",
		"5b7fffffffffffffff00":   "ends too early",
		"7affffffff":             "ends too early",
		"81":                     "ends too early",
		"9bffffffffffffffff00":   "ends too early",
		"9f00":                   "ends too early",
		"a100":                   "ends too early",
		"bf00":                   "ends too early",
		"bf00ff":                 "begins no item",
		"c0":                     "ends too early",
		"5f4100":                 "ends too early",
		"5f00ff":                 "in pieces",
		"5f6100ff":               "in pieces",
		"5f5f4100ffff":           "in pieces",
		"7f61c361bcff":           "isn't UTF-8", // each piece has to be
		"61ff":                   "isn't UTF-8",
		"0000":                   "1 bytes follow",
		"1c":                     "begins no item",
		"1f":                     "begins no item",
		"3f":                     "begins no item",
		"df00":                   "begins no item",
		"ff":                     "begins no item",
		"81ff":                   "begins no item",
		"3b8000000000000000":     "below -2^63",
		"f7":                     "simple value",
		"f814":                   "simple value",
		"f816":                   "simple value",
		"f90000":                 "fraction",
		"fa00000000":             "fraction",
		"fb0000000000000000":     "fraction",
		"f9f4f4":                 "fraction",
		"a200010002":             "twice",
		"a20001180002":           "twice", // in another form
		"a2616101616102":         "twice",
		"a2616101 7f6161ff02":    "twice",
		"a14000":                 "a key is",
		"a18000":                 "a key is",
		"a1f600":                 "a key is",
		strings.Repeat("81", 17): "levels",
		strings.Repeat("c1", 17): "levels",
		strings.Repeat("a100", MaxDepth+1) + "00":      "levels",
		strings.Repeat("9f", 1_000_000):                "levels",
		"9f" + strings.Repeat("00", MaxItems) + "ff":   "more than 4096 values",
		"bf" + strings.Repeat("0000", MaxItems) + "ff": "twice",
	} {
		got, err := Decode(unhex(t, strings.ReplaceAll(text, " ", "")))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: got %v, %v; expected %q", text, got, err, want)
		}
	}
}

func TestTheLimitsThemselvesAreAllowed(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("81", MaxDepth) + "00",
		"9f" + strings.Repeat("00", MaxItems-1) + "ff",
	} {
		if _, err := Decode(unhex(t, text)); err != nil {
			t.Errorf("%.40s: %v", text, err)
		}
	}
}

func TestWhatHasNoFormIsNotWritten(t *testing.T) {
	deep := any(uint64(0))
	for range MaxDepth + 1 {
		deep = []any{deep}
	}
	for _, value := range []any{
		1, int64(0), 1.5, "\xff", struct{}{}, []string{"a"}, deep, make([]any, MaxItems),
		Map{{[]byte("a"), nil}}, Map{{"a", nil}, {"a", nil}}, Map{{"a", 1}}, Map{{"\xff", nil}}, Tag{1, 1},
	} {
		if data, err := Encode(value); err == nil {
			t.Errorf("%#v: got %x", value, data)
		}
	}
}

func TestAMapIsWrittenInOrder(t *testing.T) {
	data, err := Encode(Map{{"bb", nil}, {int64(-1), nil}, {"a", nil}, {uint64(100), nil}, {uint64(10), nil}})
	// RFC 8949, 4.2.1: 10, 100, -1, "a", "bb" by their bytes.
	if want := "a50af61864f620f66161f6626262f6"; err != nil || hex.EncodeToString(data) != want {
		t.Errorf("got %x, %v; expected %s", data, err, want)
	}
}

func TestGet(t *testing.T) {
	m := Map{{"a", true}, {uint64(1), nil}}
	if value, found := m.Get("a"); !found || value != true {
		t.Errorf("got %v, %v", value, found)
	}
	if value, found := m.Get(uint64(1)); !found || value != nil {
		t.Errorf("got %v, %v", value, found)
	}
	if _, found := m.Get("b"); found {
		t.Error("found what isn't there")
	}
}

func FuzzDecode(f *testing.F) {
	for text := range vectors {
		f.Add(unhex(f, text))
	}
	for text := range lenient {
		f.Add(unhex(f, text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		value, err := Decode(data)
		if err != nil {
			return
		}
		written, err := Encode(value)
		if err != nil {
			t.Fatalf("%x was read as %#v, which can't be written: %v", data, value, err)
		}
		// No form is shorter, and from here on nothing changes any more.
		if len(written) > len(data) {
			t.Fatalf("%x became %x", data, written)
		}
		again, err := Decode(written)
		if err != nil {
			t.Fatalf("%x: %v", written, err)
		}
		if rewritten, err := Encode(again); err != nil || !bytes.Equal(rewritten, written) {
			t.Fatalf("%x became %x, %v", written, rewritten, err)
		}
	})
}
