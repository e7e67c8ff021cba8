package secrets

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func newStore(t testing.TB) *Store {
	t.Helper()
	store, err := NewStore([]string{"TOKEN", "DSN"}, []string{"tls.key"})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestABundleMayComeInParts(t *testing.T) {
	store := newStore(t)
	if got := store.Missing(); !reflect.DeepEqual(got, []string{"DSN", "TOKEN", "tls.key"}) {
		t.Fatalf("missing %q", got)
	}
	for _, step := range []struct {
		bundle  Bundle
		changed bool
		missing []string
	}{
		{Bundle{}, false, []string{"DSN", "TOKEN", "tls.key"}},
		{Bundle{Env: map[string]string{"TOKEN": ""}}, true, []string{"DSN", "tls.key"}},
		{Bundle{Env: map[string]string{"TOKEN": ""}}, false, []string{"DSN", "tls.key"}},
		{Bundle{Files: map[string][]byte{"tls.key": []byte("key")}}, true, []string{"DSN"}},
		{Bundle{Env: map[string]string{"DSN": "db", "TOKEN": "1"}}, true, []string{}},
		{Bundle{Env: map[string]string{"DSN": "db"}, Files: map[string][]byte{"tls.key": []byte("key")}}, false, []string{}},
		{Bundle{Files: map[string][]byte{"tls.key": []byte("new")}}, true, []string{}},
		{Bundle{Env: map[string]string{"DSN": "db", "TOKEN": "2"}}, true, []string{}},
	} {
		if bundle, _ := store.all(); len(store.Missing()) > 0 && !reflect.DeepEqual(bundle, Bundle{}) {
			t.Errorf("%v is handed out while names are missing", bundle)
		}
		changed, err := store.Deliver(step.bundle)
		if err != nil || changed != step.changed || !reflect.DeepEqual(store.Missing(), step.missing) {
			t.Errorf("%v: changed %t, missing %q, %v", step.bundle, changed, store.Missing(), err)
		}
	}
	want := Bundle{Env: map[string]string{"DSN": "db", "TOKEN": "2"}, Files: map[string][]byte{"tls.key": []byte("new")}}
	if got, missing := store.all(); !reflect.DeepEqual(got, want) || missing != nil {
		t.Errorf("got %v, missing %q", got, missing)
	}
}

func TestWhatWasDeliveredIsKeptAsItWas(t *testing.T) {
	store, err := NewStore(nil, []string{"tls.key"})
	if err != nil {
		t.Fatal(err)
	}
	file := []byte("key")
	if _, err := store.Deliver(Bundle{Files: map[string][]byte{"tls.key": file}}); err != nil {
		t.Fatal(err)
	}
	file[0] = 'x'
	if got, _ := store.all(); string(got.Files["tls.key"]) != "key" {
		t.Errorf("got %q", got.Files["tls.key"])
	}
}

func TestWhatIsRefusedChangesNothing(t *testing.T) {
	store := newStore(t)
	if _, err := store.Deliver(Bundle{Env: map[string]string{"TOKEN": "kept"}}); err != nil {
		t.Fatal(err)
	}
	for want, bundle := range map[string]Bundle{
		"env.PATH: the cage lists":      {Env: map[string]string{"TOKEN": "x", "PATH": "/"}},
		"env.tls.key: the cage lists":   {Env: map[string]string{"TOKEN": "x", "tls.key": "a file's name"}},
		"files.TOKEN: the cage lists":   {Env: map[string]string{"TOKEN": "x"}, Files: map[string][]byte{"TOKEN": nil}},
		"env.TOKEN: holds a NUL":        {Env: map[string]string{"TOKEN": "x\x00"}},
		"files.tls.key: got 65537 byte": {Env: map[string]string{"TOKEN": "x"}, Files: map[string][]byte{"tls.key": make([]byte, MaxValue+1)}},
	} {
		if changed, err := store.Deliver(bundle); changed || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %t, %v; expected an error with %q", changed, err, want)
		}
	}
	if got := store.kept.Env["TOKEN"]; got != "kept" || len(store.Missing()) != 2 {
		t.Errorf("got %q, missing %q", got, store.Missing())
	}
}

func TestAllThatIsKeptIsBounded(t *testing.T) {
	var names []string
	for number := range 17 {
		names = append(names, fmt.Sprint("n", number))
	}
	store, err := NewStore(nil, names)
	if err != nil {
		t.Fatal(err)
	}
	for number, name := range names {
		_, err := store.Deliver(Bundle{Files: map[string][]byte{name: make([]byte, MaxValue)}})
		if (err != nil) != (number == 16) {
			t.Errorf("value %d: got %v", number, err)
		}
	}
	if _, err := store.Deliver(Bundle{Files: map[string][]byte{"n0": nil, "n16": make([]byte, MaxValue)}}); err != nil {
		t.Errorf("one that makes room: got %v", err)
	}
}

func TestNamesThatCanNotBeListed(t *testing.T) {
	for _, names := range [][2][]string{
		{{"A=B"}, nil}, {{""}, nil}, {{"A\x00"}, nil}, {nil, {"a/b"}}, {nil, {"."}}, {nil, {strings.Repeat("n", 256)}},
		{make([]string, 1025), nil},
	} {
		if _, err := NewStore(names[0], names[1]); err == nil {
			t.Errorf("%.80q: got none, expected an error", names)
		}
	}
}

func TestDeliveriesAtTheSameTime(t *testing.T) {
	store := newStore(t)
	var group sync.WaitGroup
	for number := range 8 {
		group.Go(func() {
			value := fmt.Sprint(number)
			for range 100 {
				if _, err := store.Deliver(Bundle{Env: map[string]string{"TOKEN": value, "DSN": value}}); err != nil {
					t.Error(err)
				}
				_, _ = store.Deliver(Bundle{Files: map[string][]byte{"tls.key": []byte(value)}})
				if got, missing := store.all(); len(missing) > 0 || got.Env["TOKEN"] != got.Env["DSN"] {
					t.Errorf("got %v, missing %q", got, missing)
				}
			}
		})
	}
	group.Wait()
}

func TestSealAndOpen(t *testing.T) {
	store, other := newStore(t), newStore(t)
	text := []byte(`{"env":{"TOKEN":"hunter2"}}`)
	sealed, err := Seal(store.PublicKey(), text)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("hunter2")) || len(sealed) != len(header)+encap+len(text)+tag {
		t.Errorf("got %q", sealed)
	}
	if opened, err := store.Open(sealed); err != nil || !bytes.Equal(opened, text) {
		t.Errorf("got %q, %v", opened, err)
	}
	if _, err := other.Open(sealed); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another's: got %v", err)
	}
	for at := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[at] ^= 1
		if opened, err := store.Open(damaged); err == nil {
			t.Errorf("byte %d damaged: got %q", at, opened)
		}
	}
	for _, size := range []int{0, 7, 8, 39, 55, 56, len(sealed) - 1} {
		if opened, err := store.Open(sealed[:size]); err == nil {
			t.Errorf("%d bytes: got %q", size, opened)
		}
	}
	if _, err := store.Open(append([]byte(header), make([]byte, MaxSealed)...)); err == nil || !strings.Contains(err.Error(), "expected at most") {
		t.Errorf("too long: got %v", err)
	}
}

func TestBodies(t *testing.T) {
	store := newStore(t)
	text := []byte(`{"env":{"TOKEN":"hunter2"}}`)
	sealed, err := Seal(store.PublicKey(), text)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		mediaType string
		body      []byte
		changed   bool
		want      string
	}{
		{"text/plain", text, false, `got "text/plain", expected`},
		{MediaTypeJSON, sealed, false, "bundle: "},
		{MediaTypeSealed, text, false, "sealed secrets: not a bundle"},
		{MediaTypeJSON, []byte(`{"env":{"OTHER":"hunter2"}}`), false, "env.OTHER: the cage lists no such name"},
		{MediaTypeSealed, sealed, true, ""},
		{MediaTypeJSON, text, false, ""},
	} {
		changed, err := store.DeliverBody(test.mediaType, test.body)
		if changed != test.changed || (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %t, %v; expected %t, %q", test.mediaType, changed, err, test.changed, test.want)
		}
	}
	if got := store.kept.Env["TOKEN"]; got != "hunter2" {
		t.Errorf("got %q", got)
	}
}

func TestWhatCanNotBeSealedIsRefused(t *testing.T) {
	store := newStore(t)
	for want, given := range map[string][2][]byte{
		"bundle: ":        {store.PublicKey(), []byte(`{"env":{"TOKEN":1}}`)},
		"key of 31 bytes": {store.PublicKey()[1:], []byte(`{}`)},
		"public key":      {make([]byte, 32), []byte(`{}`)}, // a point of low order
	} {
		if sealed, err := Seal(given[0], given[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %x, %v; expected an error with %q", sealed, err, want)
		}
	}
}

// The bundle was sealed by the HPKE of Python's cryptography 50.0.2, to the key of bytes 0 to 31.
func TestWhatAnotherImplementationSealedIsOpened(t *testing.T) {
	private := make([]byte, 32)
	for at := range private {
		private[at] = byte(at)
	}
	key, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := hex.DecodeString("43414745534543015a8755dac91a3a392a7a67d891e04857269cf08c3529e63bf6caa383b5c09203" +
		"c029f1ca90551d3119701a7351ed89c5cd8b6a55f5438120687b7d7fa8cbc262695519361c1a8d6242cd8194c280e7")
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := open(key, sealed); err != nil || string(opened) != `{"env":{"TOKEN":"from Python"}}` {
		t.Errorf("got %q, %v", opened, err)
	}
}

func FuzzOpen(f *testing.F) {
	store := newStore(f)
	sealed, err := Seal(store.PublicKey(), []byte(`{}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte(header))
	f.Fuzz(func(t *testing.T, data []byte) {
		if opened, err := store.Open(data); err == nil && !bytes.Equal(data, sealed) {
			t.Errorf("opened %x: %q", data, opened)
		}
	})
}
