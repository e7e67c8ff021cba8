package nsm_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/cbor"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
)

func start(t testing.TB) (*nsmtest.Server, *nsm.Device) {
	t.Helper()
	leak.Check(t)
	server, err := nsmtest.Listen(filepath.Join(t.TempDir(), "nsm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	device, err := nsm.Open(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	return server, device
}

func TestADocumentSaysWhatWasAskedFor(t *testing.T) {
	server, device := start(t)
	pcr := bytes.Repeat([]byte{7}, sha512.Size384)
	server.SetPCR(0, pcr)
	made := time.UnixMilli(time.Now().UnixMilli()).UTC()
	server.SetClock(func() time.Time { return made })
	request := nsm.Request{
		Nonce:     bytes.Repeat([]byte("n"), nsm.MaxNonce),
		PublicKey: bytes.Repeat([]byte("k"), nsm.MaxPublicKey),
		UserData:  bytes.Repeat([]byte("u"), nsm.MaxUserData),
	}
	document, err := device.Attest(request)
	if err != nil {
		t.Fatal(err)
	}
	got, err := nsmtest.Verify(document, server.Root)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Nonce, request.Nonce) || !bytes.Equal(got.PublicKey, request.PublicKey) ||
		!bytes.Equal(got.UserData, request.UserData) || !bytes.Equal(got.PCRs[0], pcr) || !got.Time.Equal(made) {
		t.Errorf("got %+v", got)
	}
	if at, err := nsm.Timestamp(document); err != nil || !at.Equal(made) {
		t.Errorf("got %v, %v; expected %v", at, err, made)
	}
	if document, err = device.Attest(nsm.Request{}); err != nil {
		t.Fatal(err)
	}
	got, err = nsmtest.Verify(document, server.Root)
	if err != nil || got.Nonce != nil || got.PublicKey != nil || got.UserData != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAForgedDocumentIsNotVerified(t *testing.T) {
	server, device := start(t)
	other, _ := start(t)
	document, err := device.Attest(nsm.Request{Nonce: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nsmtest.Verify(document, other.Root); err == nil {
		t.Error("another root was taken")
	}
	at := bytes.Index(document, []byte("0123456789abcdef"))
	document[at] ^= 1
	if _, err := nsmtest.Verify(document, server.Root); err == nil {
		t.Error("another nonce was taken")
	}
}

func TestFieldsThatAreTooLongAreNotSent(t *testing.T) {
	server, device := start(t)
	for name, request := range map[string]nsm.Request{
		"nonce":      {Nonce: make([]byte, nsm.MaxNonce+1)},
		"public key": {PublicKey: make([]byte, nsm.MaxPublicKey+1)},
		"user data":  {UserData: make([]byte, nsm.MaxUserData+1)},
	} {
		if _, err := device.Attest(request); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if server.Documents() != 0 {
		t.Errorf("%d documents were signed", server.Documents())
	}
}

func TestRegisters(t *testing.T) {
	server, device := start(t)
	server.SetPCR(3, []byte(strings.Repeat("3", 48)))
	server.SetPCR(20, []byte(strings.Repeat("x", 48)))
	description, err := device.Describe()
	if err != nil || description.ModuleID != nsmtest.ModuleID || description.Version != "1.0.0" ||
		description.Digest != "SHA384" || description.MaxPCRs != 32 || len(description.Locked) != 16 {
		t.Errorf("got %+v, %v", description, err)
	}
	all, err := device.PCRs()
	if err != nil || len(all) != 16 || string(all[3]) != strings.Repeat("3", 48) {
		t.Errorf("got %v, %v", all, err)
	}
	value, locked, err := device.PCR(20)
	if err != nil || locked || string(value) != strings.Repeat("x", 48) {
		t.Errorf("got %q, %v, %v", value, locked, err)
	}
	if _, _, err := device.PCR(32); !errors.Is(err, nsm.InvalidIndex) {
		t.Errorf("got %v", err)
	}
}

func TestRandomBytes(t *testing.T) {
	_, device := start(t)
	for _, count := range []int{0, 1, 256, 257, 1000} {
		one, err := device.Random(count)
		if err != nil || len(one) != count {
			t.Fatalf("%d: got %d, %v", count, len(one), err)
		}
		if other, err := device.Random(count); count > 16 && (err != nil || bytes.Equal(one, other)) {
			t.Errorf("%d: got the same twice, %v", count, err)
		}
	}
	for _, count := range []int{-1, nsm.MaxRandom + 1} {
		if _, err := device.Random(count); err == nil {
			t.Errorf("%d was taken", count)
		}
	}
}

func TestErrorsOfTheDeviceHaveTheirNames(t *testing.T) {
	server, device := start(t)
	for _, name := range []nsm.Error{nsm.InvalidArgument, nsm.InternalError, nsm.BufferTooSmall, "Unheard"} {
		server.Fail(name)
		if _, err := device.Attest(nsm.Request{}); !errors.Is(err, name) || !strings.Contains(err.Error(), string(name)) {
			t.Errorf("got %v, expected %v", err, name)
		}
	}
	server.Fail("")
	if _, err := device.Attest(nsm.Request{}); err != nil {
		t.Error(err)
	}
}

func TestManyAskAtOnce(t *testing.T) {
	server, device := start(t)
	var all sync.WaitGroup
	for index := range byte(50) {
		all.Go(func() {
			nonce := bytes.Repeat([]byte{index}, 16)
			document, err := device.Attest(nsm.Request{Nonce: nonce})
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := nsmtest.Verify(document, server.Root); err != nil || !bytes.Equal(got.Nonce, nonce) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	all.Wait()
}

func TestNoDevice(t *testing.T) {
	if _, err := nsm.Open(filepath.Join(t.TempDir(), "nsm")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := nsm.Open("unix://nsm"); err == nil {
		t.Error("a relative path was taken")
	}
	device, err := nsm.Open("unix://" + filepath.Join(t.TempDir(), "nsm"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := device.Attest(nsm.Request{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// What isn't the device's driver refuses the ioctl, which shows that it gets there.
func TestADeviceOfAnotherKindRefusesTheRequest(t *testing.T) {
	device, err := nsm.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := device.Attest(nsm.Request{}); !errors.Is(err, syscall.ENOTTY) {
		t.Errorf("got %v", err)
	}
	if err := device.Close(); err != nil {
		t.Error(err)
	}
	if _, err := device.Attest(nsm.Request{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// stub answers every request with the same bytes.
func stub(t *testing.T, response []byte) *nsm.Device {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "nsm"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = nsm.ReadFrame(conn, nsm.MaxRequest)
			_, _ = conn.Write(response)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	device, err := nsm.Open("unix://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return device
}

func TestAnswersThatAreWrongAreErrors(t *testing.T) {
	leak.Check(t)
	encoded := func(value any) []byte {
		data, err := cbor.Encode(value)
		if err != nil {
			t.Fatal(err)
		}
		var frame bytes.Buffer
		_ = nsm.WriteFrame(&frame, data)
		return frame.Bytes()
	}
	answer := func(name string, value any) []byte { return encoded(cbor.Map{{Key: name, Value: value}}) }
	attestation := func(device *nsm.Device) error { _, err := device.Attest(nsm.Request{}); return err }
	random := func(device *nsm.Device) error { _, err := device.Random(1); return err }
	describe := func(device *nsm.Device) error { _, err := device.Describe(); return err }
	register := func(device *nsm.Device) error { _, _, err := device.PCR(0); return err }
	description := func(change string, to any) []byte {
		fields := cbor.Map{
			{Key: "version_major", Value: uint64(1)}, {Key: "version_minor", Value: uint64(0)},
			{Key: "version_patch", Value: uint64(0)}, {Key: "module_id", Value: "i"}, {Key: "digest", Value: "SHA384"},
			{Key: "max_pcrs", Value: uint64(32)}, {Key: "locked_pcrs", Value: []any{uint64(0)}},
		}
		for index := range fields {
			if fields[index].Key == change {
				fields[index].Value = to
			}
		}
		return answer("DescribeNSM", fields)
	}
	for name, test := range map[string]struct {
		ask      func(*nsm.Device) error
		response []byte
	}{
		"nothing":              {attestation, nil},
		"half a length":        {attestation, []byte{0, 0}},
		"half a message":       {attestation, []byte{0, 0, 0, 9, 0xa0}},
		"too long":             {attestation, []byte{0, 0, 0x30, 1}},
		"much too long":        {attestation, []byte{0xff, 0xff, 0xff, 0xff}},
		"empty":                {attestation, []byte{0, 0, 0, 0}},
		"no CBOR":              {attestation, []byte{0, 0, 0, 1, 0xff}},
		"a number":             {attestation, encoded(uint64(1))},
		"a text":               {attestation, encoded("Attestation")},
		"an empty map":         {attestation, encoded(cbor.Map{})},
		"another operation":    {attestation, answer("GetRandom", cbor.Map{})},
		"a number for a map":   {attestation, answer("Attestation", uint64(1))},
		"a text for a map":     {attestation, answer("Attestation", "InternalError")},
		"no document":          {attestation, answer("Attestation", cbor.Map{})},
		"text for a document":  {attestation, answer("Attestation", cbor.Map{{Key: "document", Value: "x"}})},
		"an empty document":    {attestation, answer("Attestation", cbor.Map{{Key: "document", Value: []byte{}}})},
		"a number as error":    {attestation, answer("Error", uint64(1))},
		"no random bytes":      {random, answer("GetRandom", cbor.Map{{Key: "random", Value: []byte{}}})},
		"an empty register":    {register, answer("DescribePCR", cbor.Map{{Key: "lock", Value: true}, {Key: "data", Value: []byte{}}})},
		"a long register":      {register, answer("DescribePCR", cbor.Map{{Key: "lock", Value: true}, {Key: "data", Value: make([]byte, 65)}})},
		"a lock of another":    {register, answer("DescribePCR", cbor.Map{{Key: "lock", Value: nil}, {Key: "data", Value: make([]byte, 48)}})},
		"a version above all":  {describe, description("version_major", uint64(1<<16))},
		"a version as text":    {describe, description("version_patch", "0")},
		"a module as bytes":    {describe, description("module_id", []byte("i"))},
		"a digest as number":   {describe, description("digest", uint64(384))},
		"no number of PCRs":    {describe, description("max_pcrs", nil)},
		"locked as a number":   {describe, description("locked_pcrs", uint64(1))},
		"locked below 0":       {describe, description("locked_pcrs", []any{int64(-1)})},
		"locked above all":     {describe, description("locked_pcrs", []any{uint64(32)})},
		"locked far above all": {describe, description("locked_pcrs", []any{uint64(1<<16 + 1)})},
	} {
		device := stub(t, test.response)
		if err := test.ask(device); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	if err := describe(stub(t, description("", nil))); err != nil {
		t.Error(err)
	}
}

// unsigned is the form of a document that QEMU's device makes, which has neither algorithm nor signature.
func unsigned(t testing.TB, payload any) []byte {
	t.Helper()
	encoded, err := cbor.Encode(payload)
	if err != nil {
		t.Fatal(err)
	}
	document, err := cbor.Encode([]any{[]byte{0xa1, 1, 0x20}, cbor.Map{}, encoded, make([]byte, 64)})
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func TestTheTimestampOfAnUnsignedDocument(t *testing.T) {
	document := unsigned(t, cbor.Map{{Key: "timestamp", Value: uint64(1_700_000_000_123)}})
	want := time.Date(2023, 11, 14, 22, 13, 20, 123_000_000, time.UTC)
	for _, data := range [][]byte{document, append([]byte{0xd2}, document...)} {
		if got, err := nsm.Timestamp(data); err != nil || !got.Equal(want) {
			t.Errorf("got %v, %v; expected %v", got, err, want)
		}
	}
}

func TestDocumentsWithoutATimestampAreErrors(t *testing.T) {
	hexed := func(text string) []byte {
		data, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, document := range map[string][]byte{
		"nothing":        {},
		"a map":          {0xa0},
		"three parts":    {0x83, 0x40, 0xa0, 0x40},
		"another tag":    append([]byte{0xd1}, unsigned(t, cbor.Map{{Key: "timestamp", Value: uint64(1)}})...),
		"no payload":     hexed("8440a0f640"),
		"empty payload":  hexed("8440a04040"),
		"a number in it": unsigned(t, uint64(1)),
		"none":           unsigned(t, cbor.Map{}),
		"below 0":        unsigned(t, cbor.Map{{Key: "timestamp", Value: int64(-1)}}),
		"a text":         unsigned(t, cbor.Map{{Key: "timestamp", Value: "1"}}),
		"nanoseconds":    unsigned(t, cbor.Map{{Key: "timestamp", Value: uint64(1_700_000_000_123_456_789)}}),
		"too large":      unsigned(t, cbor.Map{{Key: "x", Value: make([]byte, nsm.MaxResponse)}, {Key: "timestamp", Value: uint64(1)}}),
	} {
		if got, err := nsm.Timestamp(document); err == nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

type fixedSource struct{ err error }

func (s fixedSource) Random(count int) ([]byte, error) {
	return bytes.Repeat([]byte{1}, count), s.err
}

func TestTheKernelIsSeeded(t *testing.T) {
	if syscall.Geteuid() != 0 {
		t.Skip("takes root: the kernel counts entropy from nobody else")
	}
	if err := nsm.SeedKernel(fixedSource{}); errors.Is(err, syscall.EPERM) {
		t.Skip("takes CAP_SYS_ADMIN, as in an enclave: run outside of a container")
	} else if err != nil {
		t.Error(err)
	}
}

func TestWithoutRandomBytesTheKernelIsNotSeeded(t *testing.T) {
	if err := nsm.SeedKernel(fixedSource{nsm.InternalError}); !errors.Is(err, nsm.InternalError) {
		t.Errorf("got %v", err)
	}
}

func FuzzTimestamp(f *testing.F) {
	f.Add(unsigned(f, cbor.Map{{Key: "timestamp", Value: uint64(1_700_000_000_123)}}))
	f.Fuzz(func(t *testing.T, document []byte) {
		got, err := nsm.Timestamp(document)
		if err == nil && (got.Year() < 1970 || got.Year() > 9999) {
			t.Fatalf("got %v", got)
		}
	})
}
