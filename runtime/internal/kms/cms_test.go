package kms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// enclaveKey is one key for all tests: making it takes longer than most of them.
var enclaveKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		panic(err)
	}
	return key
})

// Elements, written with definite and with indefinite length.

func der(tag byte, content ...string) string {
	joined := strings.Join(content, "")
	switch size := len(joined); {
	case size < 0x80:
		return string([]byte{tag, byte(size)}) + joined
	case size < 0x100:
		return string([]byte{tag, 0x81, byte(size)}) + joined
	default:
		return string([]byte{tag, 0x82, byte(size >> 8), byte(size)}) + joined
	}
}

func indefinite(tag byte, content ...string) string {
	return string([]byte{tag, 0x80}) + strings.Join(content, "") + "\x00\x00"
}

// parts of a message; tests change one.
type parts struct {
	outer, version, oaep, key, algorithm, iv, content string
	recipients                                        func(parts) string
	write                                             func(tag byte, content ...string) string
}

func sha256Identifier() string { return der(0x30, der(0x06, oidSHA256), der(0x05)) }

func oaepIdentifier(extra ...string) string {
	return oaepWith(sha256Identifier(), sha256Identifier(), extra...)
}

func oaepWith(hash, maskHash string, extra ...string) string {
	return der(0x30, der(0x06, oidOAEP), der(0x30,
		der(0xa0, hash), der(0xa1, der(0x30, der(0x06, oidMGF1), maskHash)), strings.Join(extra, "")))
}

// seal encrypts as KMS does, and returns the message's parts in the form that KMS gave them when this was
// written: indefinite lengths outside, one recipient by its key's hash, the content as a constructed string.
func seal(t testing.TB, key *rsa.PublicKey, plaintext []byte) parts {
	t.Helper()
	count := 16 - len(plaintext)%16
	return sealPadded(t, key, append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(count)}, count)...), 32)
}

// sealPadded encrypts whole blocks with a key of a number of bytes.
func sealPadded(t testing.TB, key *rsa.PublicKey, content []byte, size int) parts {
	t.Helper()
	contentKey, iv := make([]byte, size), make([]byte, 16)
	for _, random := range [][]byte{contentKey, iv} {
		if _, err := rand.Read(random); err != nil {
			t.Fatal(err)
		}
	}
	encryptedKey, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, contentKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		t.Fatal(err)
	}
	encrypted := make([]byte, len(content))
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(encrypted, content)
	return parts{
		outer: der(0x06, oidEnvelopedData), version: der(0x02, "\x02"), oaep: oaepIdentifier(),
		key: der(0x04, string(encryptedKey)), algorithm: der(0x06, oidAES256CBC), iv: der(0x04, string(iv)),
		content: indefinite(0xa0, der(0x04, string(encrypted))), recipients: parts.recipient, write: indefinite,
	}
}

func (p parts) recipient() string {
	return der(0x30, der(0x02, "\x02"), der(0x80, strings.Repeat("k", 32)), p.oaep, p.key)
}

func (p parts) message() []byte {
	return []byte(p.write(0x30, p.outer, p.write(0xa0, p.write(0x30, p.version, der(0x31, p.recipients(p)),
		p.write(0x30, der(0x06, oidData), der(0x30, p.algorithm, p.iv), p.content)))))
}

func TestWhatKMSSealsIsOpened(t *testing.T) {
	for _, size := range []int{0, 1, 15, 16, 17, 4096} {
		plaintext := bytes.Repeat([]byte("p"), size)
		for name, write := range map[string]func(byte, ...string) string{"indefinite": indefinite, "definite": der} {
			sealed := seal(t, &enclaveKey().PublicKey, plaintext)
			sealed.write = write
			opened, err := openEnvelope(enclaveKey(), sealed.message())
			if err != nil || !bytes.Equal(opened, plaintext) {
				t.Errorf("%d bytes, %s: got %d bytes, %v", size, name, len(opened), err)
			}
		}
	}
}

func TestAStringInPiecesOfPiecesIsJoined(t *testing.T) {
	sealed := seal(t, &enclaveKey().PublicKey, []byte("some text of two blocks"))
	whole, err := parseBER([]byte(sealed.content))
	if err != nil {
		t.Fatal(err)
	}
	octets := string(whole.children[0].content)
	sealed.content = indefinite(0xa0, der(0x04, octets[:1]), indefinite(0x24, der(0x04, octets[1:9]), der(0x04)),
		der(0x24, der(0x04, octets[9:])))
	opened, err := openEnvelope(enclaveKey(), sealed.message())
	if err != nil || string(opened) != "some text of two blocks" {
		t.Errorf("got %q, %v", opened, err)
	}
}

func TestOtherMessagesAreRefused(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		t.Fatal(err)
	}
	sha1 := der(0x30, der(0x06, "\x2b\x0e\x03\x02\x1a"), der(0x05))
	for name, test := range map[string]struct {
		change func(*parts)
		want   string
	}{
		"another content type":   {func(p *parts) { p.outer = der(0x06, oidData) }, "not enveloped data"},
		"another version":        {func(p *parts) { p.version = der(0x02, "\x03") }, "neither version"},
		"two recipients":         {func(p *parts) { p.recipients = func(p parts) string { return p.recipient() + p.recipient() } }, "2 elements"},
		"no recipient":           {func(p *parts) { p.recipients = func(parts) string { return "" } }, "0 elements"},
		"key agreement":          {func(p *parts) { p.recipients = func(parts) string { return der(0xa1) } }, "got tag 0xa1"},
		"RSA by PKCS #1 v1.5":    {func(p *parts) { p.oaep = der(0x30, der(0x06, "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"), der(0x05)) }, "RSAES-OAEP"},
		"OAEP by default, SHA-1": {func(p *parts) { p.oaep = der(0x30, der(0x06, oidOAEP), der(0x30)) }, "parameters"},
		"a hash that is SHA-1":   {func(p *parts) { p.oaep = oaepWith(sha1, sha256Identifier()) }, "RSAES-OAEP without SHA-256"},
		"a mask by SHA-1":        {func(p *parts) { p.oaep = oaepWith(sha256Identifier(), sha1) }, "without MGF1 with SHA-256"},
		"a label": {func(p *parts) {
			p.oaep = oaepIdentifier(der(0xa2, der(0x30, der(0x06, oidPSpecified), der(0x04, "x"))))
		}, "label"},
		"AES-128":         {func(p *parts) { p.algorithm = der(0x06, "\x60\x86\x48\x01\x65\x03\x04\x01\x02") }, "AES-256-CBC"},
		"a short vector":  {func(p *parts) { p.iv = der(0x04, "short") }, "5 bytes"},
		"no content":      {func(p *parts) { p.content = der(0x80) }, errSealed.Error()},
		"half a block":    {func(p *parts) { p.content = der(0x80, "12345678") }, errSealed.Error()},
		"another content": {func(p *parts) { p.content = der(0x80, strings.Repeat("x", 32)) }, errSealed.Error()},
		"a number inside": {func(p *parts) { p.content = der(0xa0, der(0x02, "\x01")) }, "octet string"},
	} {
		sealed := seal(t, &enclaveKey().PublicKey, []byte("text"))
		test.change(&sealed)
		if opened, err := openEnvelope(enclaveKey(), sealed.message()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %q, %v; expected an error with %q", name, opened, err, test.want)
		}
	}
	sealed := seal(t, &other.PublicKey, []byte("text"))
	if _, err := openEnvelope(enclaveKey(), sealed.message()); err != errSealed {
		t.Errorf("another's key: got %v, expected %v", err, errSealed)
	}
}

func TestContentThatIsWrongInsideIsRefused(t *testing.T) {
	block := strings.Repeat("x", 15)
	for name, test := range map[string]struct {
		content string
		size    int
	}{
		"a key of AES-128":        {block + "\x01", 16},
		"padding of nothing":      {block + "\x00", 32},
		"padding above a block":   {strings.Repeat("\x11", 32), 32},
		"padding above the whole": {block + "\xff", 32},
		"padding that differs":    {block[1:] + "\x01\x02", 32},
	} {
		sealed := sealPadded(t, &enclaveKey().PublicKey, []byte(test.content), test.size)
		if opened, err := openEnvelope(enclaveKey(), sealed.message()); err != errSealed {
			t.Errorf("%s: got %q, %v; expected %v", name, opened, err, errSealed)
		}
	}
}

func TestAnEmptyLabelMayBeWrittenOut(t *testing.T) {
	sealed := seal(t, &enclaveKey().PublicKey, []byte("text"))
	sealed.oaep = oaepIdentifier(der(0xa2, der(0x30, der(0x06, oidPSpecified), der(0x04))))
	if opened, err := openEnvelope(enclaveKey(), sealed.message()); err != nil || string(opened) != "text" {
		t.Errorf("got %q, %v", opened, err)
	}
}

func TestBERThatIsWrongIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "too early",
		"\x30":                             "too early",
		"\x30\x80":                         "too early",
		"\x30\x80\x00":                     "too early",
		"\x30\x02\x04":                     "2 bytes where 1",
		"\x30\x03\x04\x02x":                "2 bytes where 1",
		"\x04\x80\x00\x00":                 "primitive element of indefinite length",
		"\x00\x00":                         "end of contents",
		"\x30\x02\x00\x00":                 "end of contents",
		"\x1f\x01\x00":                     "tag number",
		"\x04\x85\x00\x00\x00\x00\x00":     "a length of 5 bytes",
		"\x04\x84\xff\xff\xff\xff":         "4294967295 bytes where 0",
		"\x04\xff":                         "a length of 127 bytes",
		"\x04\x82\x01":                     "a length of 2 bytes",
		"\x05\x00\x05\x00":                 "2 bytes follow",
		strings.Repeat("\x30\x80", 17):     "deeper than 16",
		strings.Repeat("\x30\x80", 100000): "deeper than 16",
	} {
		if _, err := parseBER([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, expected an error with %q", text, err, want)
		}
	}
	if parsed, err := parseBER([]byte("\x04\x83\x00\x00\x01x")); err != nil || !parsed.is(0x04, "x") {
		t.Errorf("a length longer than it need be: got %v, %v", parsed, err)
	}
}

// openssl is another's writer of such messages.
func TestWhatOpenSSLSealsIsOpened(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("the command openssl isn't installed")
	}
	key, folder := enclaveKey(), t.TempDir()
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "enclave"},
		NotAfter: time.Now().Add(time.Hour), SubjectKeyId: []byte("key")}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	recipient := filepath.Join(folder, "recipient.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	if err := os.WriteFile(recipient, text, 0o600); err != nil {
		t.Fatal(err)
	}
	plaintext := bytes.Repeat([]byte("0123456789\n"), 900) // more than a piece of a stream
	for _, how := range []string{"", "-stream", "-keyid", "-stream -keyid"} {
		words := append([]string{"cms", "-encrypt", "-binary", "-aes256", "-outform", "DER"}, strings.Fields(how)...)
		words = append(words, "-recip", recipient, "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256")
		command := exec.Command(openssl, words...)
		command.Stdin = bytes.NewReader(plaintext)
		var complaints bytes.Buffer
		command.Stderr = &complaints
		message, err := command.Output()
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", words, err, &complaints)
		}
		if strings.Contains(how, "-stream") != (message[1] == 0x80) {
			t.Fatalf("openssl %q: begins with % x", how, message[:2])
		}
		opened, err := openEnvelope(key, message)
		if err != nil || !bytes.Equal(opened, plaintext) {
			t.Errorf("openssl %q: got %d bytes, %v", how, len(opened), err)
		}
	}
}

func FuzzEnvelope(f *testing.F) {
	sealed := seal(f, &enclaveKey().PublicKey, []byte("text"))
	f.Add(sealed.message())
	sealed.write = der
	f.Add(sealed.message())
	f.Add([]byte("\x30\x80\x24\x80\x04\x01x\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if parsed, err := parseBER(data); err == nil && count(parsed) > len(data) {
			t.Errorf("%d elements of %d bytes", count(parsed), len(data))
		}
		found, err := parseEnvelope(data)
		if err == nil && len(found.iv) != 16 {
			t.Errorf("a vector of %d bytes", len(found.iv))
		}
		if err == nil && len(found.key) < 512 {
			_, _ = openEnvelope(enclaveKey(), data)
		}
	})
}

func count(e element) int {
	total := 1
	for _, child := range e.children {
		total += count(child)
	}
	return total
}
