package certificate

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"testing"

	"cagebuild.dev/runtime/internal/cbor"
)

func TestTheExtensionIsAnOctetStringWithARecord(t *testing.T) {
	extension, err := Wrap([]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	// OCTET STRING, 47 bytes: an array of 2, a text of 40 bytes, a byte string of 3.
	want := "042f" + "82" + "7828" + hex.EncodeToString([]byte(MediaType)) + "43010203"
	if got := hex.EncodeToString(extension.Value); got != want {
		t.Errorf("got %s, expected %s", got, want)
	}
	if extension.Critical || extension.Id.String() != "1.3.6.1.5.5.7.1.35" {
		t.Errorf("got %+v", extension)
	}
}

// with is a certificate with an extension, as far as Unwrap looks.
func with(extensions ...pkix.Extension) *x509.Certificate {
	return &x509.Certificate{Extensions: extensions}
}

func encoded(t testing.TB, value any) []byte {
	t.Helper()
	data, err := cbor.Encode(value)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := asn1.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

func TestADocumentIsUnwrapped(t *testing.T) {
	other := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{1}}
	extension, err := Wrap([]byte("document"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Unwrap(with(other, extension)); err != nil || string(got) != "document" {
		t.Errorf("got %q, %v", got, err)
	}
	marked := pkix.Extension{Id: Extension, Value: encoded(t, []any{MediaType, []byte("document"), uint64(4)})}
	if got, err := Unwrap(with(marked)); err != nil || string(got) != "document" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Unwrap(with(other)); !errors.Is(err, ErrNoEvidence) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoDocumentIsAnError(t *testing.T) {
	for name, value := range map[string][]byte{
		"nothing":        {},
		"another type":   {0x0c, 1, 'a'},
		"JSON":           append([]byte{0x0c, 4}, "[\"\"]"...),
		"no CBOR":        {0x04, 1, 0xff},
		"more behind":    append(encoded(t, []any{MediaType, []byte{1}}), 5, 0),
		"a map":          encoded(t, cbor.Map{}),
		"one part":       encoded(t, []any{MediaType}),
		"four parts":     encoded(t, []any{MediaType, []byte{1}, uint64(4), uint64(5)}),
		"another media":  encoded(t, []any{"application/eat+cwt", []byte{1}}),
		"a number first": encoded(t, []any{uint64(18), []byte{1}}),
		"a text":         encoded(t, []any{MediaType, "document"}),
	} {
		if got, err := Unwrap(with(pkix.Extension{Id: Extension, Value: value})); err == nil {
			t.Errorf("%s: got %x", name, got)
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	f.Add(encoded(f, []any{MediaType, []byte("document")}))
	f.Add(encoded(f, []any{MediaType, []byte("document"), uint64(4)}))
	f.Fuzz(func(t *testing.T, value []byte) {
		document, err := unwrap(value)
		if err != nil {
			return
		}
		extension, err := Wrap(document)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := unwrap(extension.Value); err != nil || !bytes.Equal(again, document) {
			t.Fatalf("%x became %x, %v", document, again, err)
		}
	})
}
