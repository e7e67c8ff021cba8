package nsm

import (
	"bytes"
	"testing"

	"cagebuild.dev/runtime/internal/cbor"
)

// fixedLink answers everything with the same.
type fixedLink []byte

func (f fixedLink) exchange([]byte) ([]byte, error) { return f, nil }
func (f fixedLink) close() error                    { return nil }

func FuzzAnswers(f *testing.F) {
	for _, value := range []any{
		cbor.Map{{Key: "Error", Value: "InternalError"}},
		cbor.Map{{Key: "Attestation", Value: cbor.Map{{Key: "document", Value: []byte{1}}}}},
		cbor.Map{{Key: "GetRandom", Value: cbor.Map{{Key: "random", Value: []byte{1, 2}}}}},
		cbor.Map{{Key: "DescribePCR", Value: cbor.Map{{Key: "lock", Value: true}, {Key: "data", Value: []byte{1}}}}},
		cbor.Map{{Key: "DescribeNSM", Value: cbor.Map{
			{Key: "version_major", Value: uint64(1)}, {Key: "version_minor", Value: uint64(0)},
			{Key: "version_patch", Value: uint64(0)}, {Key: "module_id", Value: "i"}, {Key: "digest", Value: "SHA384"},
			{Key: "max_pcrs", Value: uint64(32)}, {Key: "locked_pcrs", Value: []any{uint64(0)}},
		}}},
	} {
		data, err := cbor.Encode(value)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, response []byte) {
		device := &Device{link: fixedLink(response)}
		if document, err := device.Attest(Request{}); err == nil && len(document) == 0 {
			t.Fatal("an empty document")
		}
		if random, err := device.Random(3); err == nil && len(random) != 3 {
			t.Fatalf("%d random bytes", len(random))
		}
		if value, _, err := device.PCR(0); err == nil && (len(value) == 0 || len(value) > maxDigest) {
			t.Fatalf("a register of %d bytes", len(value))
		}
		if description, err := device.Describe(); err == nil {
			for _, index := range description.Locked {
				if index >= description.MaxPCRs {
					t.Fatalf("locked register %d of %d", index, description.MaxPCRs)
				}
			}
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0xa0})
	f.Fuzz(func(t *testing.T, data []byte) {
		reader := bytes.NewReader(data)
		message, err := ReadFrame(reader, 64)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteFrame(&again, message); err != nil {
			t.Fatal(err)
		}
		if rest := data[len(data)-reader.Len():]; !bytes.Equal(append(again.Bytes(), rest...), data) {
			t.Fatalf("%x was read as %x", data, message)
		}
	})
}
