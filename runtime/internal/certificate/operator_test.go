package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newAuthority makes one that another one signs; a root, if there is none.
func newAuthority(t testing.TB, parent *authority) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	if parent == nil {
		parent = a
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	a.certificate = parent.sign(t, template, &a.key.PublicKey)
	return a
}

func (a *authority) sign(t testing.TB, template *x509.Certificate, key any) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	}
	parent := a.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func toPEM(certificates ...*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, certificate := range certificates {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	}
	return text.Bytes()
}

func (f fixture) request(t testing.TB, names ...string) *x509.CertificateRequest {
	t.Helper()
	text, err := f.Request(names)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		t.Fatalf("got %s", text)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	return request
}

func TestARequestHasTheNamesAndTheKey(t *testing.T) {
	f := start(t, "")
	request := f.request(t, "API.example.com", "*.example.org", "192.0.2.1", "2001:db8::1")
	if got := strings.Join(request.DNSNames, " "); got != "api.example.com *.example.org" {
		t.Errorf("got the names %s", got)
	}
	if len(request.IPAddresses) != 2 || !request.IPAddresses[1].Equal(net.ParseIP("2001:db8::1")) {
		t.Errorf("got the addresses %v", request.IPAddresses)
	}
	if request.Subject.CommonName != "api.example.com" || !f.key.PublicKey.Equal(request.PublicKey) {
		t.Errorf("got %v", request.Subject)
	}
	long := strings.Repeat("a.", 40) + "example.com"
	if request := f.request(t, long); request.Subject.CommonName != "" || request.DNSNames[0] != long {
		t.Errorf("got %v", request.Subject)
	}
}

func TestNamesThatAreNoneAreNotRequested(t *testing.T) {
	f := start(t, "")
	for _, name := range []string{
		"", ".", "a..b", "-a", "a-", "a_b", "a.*.b", "*", "*.", "**.a", "a.", "a b", "a\nb", "a\x00", "ä.example",
		"http://a", "a:443", strings.Repeat("a", 64), strings.Repeat("a.", 127),
	} {
		if text, err := f.Request([]string{"a.example", name}); err == nil {
			t.Errorf("%q: got %s", name, text)
		}
	}
	for _, count := range []int{0, MaxNames + 1} {
		if _, err := f.Request(make([]string, count)); err == nil {
			t.Errorf("%d names were taken", count)
		}
	}
}

func TestTheOperatorsCertificateIsForItsNames(t *testing.T) {
	f := start(t, "")
	root := newAuthority(t, nil)
	between := newAuthority(t, root)
	request := f.request(t, "api.example.com", "*.example.org", "192.0.2.1")
	leaf := between.sign(t, &x509.Certificate{
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, request.PublicKey)
	text := append([]byte("# for the cage\n"), toPEM(leaf, between.certificate, root.certificate)...)
	if err := f.Install(text); err != nil {
		t.Fatal(err)
	}
	own := f.leaf(t, "pay")
	for name, want := range map[string]*x509.Certificate{
		"api.example.com": leaf, "API.Example.com": leaf, "x.example.org": leaf,
		"": own, "pay": own, "example.org": own, "x.y.example.org": own, "evilapi.example.com": own,
	} {
		if got := f.leaf(t, name); !got.Equal(want) {
			t.Errorf("%q: got the certificate of %v", name, got.DNSNames)
		}
	}
	for address, want := range map[string]*x509.Certificate{"192.0.2.1": leaf, "192.0.2.2": own} {
		hello := &tls.ClientHelloInfo{Conn: local{address: address}}
		if got, err := f.Get(hello); err != nil || !got.Leaf.Equal(want) {
			t.Errorf("%s: got %v, %v", address, got.Leaf.DNSNames, err)
		}
	}
	got, _ := f.Get(&tls.ClientHelloInfo{ServerName: "api.example.com"})
	if len(got.Certificate) != 3 || got.PrivateKey != f.key {
		t.Errorf("got a chain of %d", len(got.Certificate))
	}
	// The self-signed one goes on being renewed, and another chain replaces this one.
	if err := f.renew(); err != nil || !f.leaf(t, "api.example.com").Equal(leaf) {
		t.Errorf("got %v", err)
	}
	other := root.sign(t, &x509.Certificate{DNSNames: []string{"b.example"}}, request.PublicKey)
	if err := f.Install(toPEM(other)); err != nil || !f.leaf(t, "b.example").Equal(other) ||
		f.leaf(t, "api.example.com").Equal(leaf) {
		t.Errorf("got %v", err)
	}
}

// local is a connection to an address.
type local struct {
	net.Conn
	address string
}

func (l local) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(l.address), Port: 443} }

func TestAChainThatIsWrongIsRefused(t *testing.T) {
	f := start(t, "")
	root := newAuthority(t, nil)
	between, other := newAuthority(t, root), newAuthority(t, nil)
	key := &f.key.PublicKey
	named := func() *x509.Certificate { return &x509.Certificate{DNSNames: []string{"api.example.com"}} }
	good := between.sign(t, named(), key)
	made := func(signer *authority, change func(*x509.Certificate)) []byte {
		template := named()
		change(template)
		return toPEM(signer.sign(t, template, key), between.certificate)
	}
	expired := newAuthority(t, nil)
	expired.certificate = expired.sign(t, &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-3 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
	}, &expired.key.PublicKey)
	privateKey, err := x509.MarshalPKCS8PrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	withKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateKey})
	cutOff := toPEM(good, between.certificate)
	for name, test := range map[string]struct {
		text []byte
		want string
	}{
		"nothing":              {nil, "0 PEM blocks"},
		"no PEM":               {[]byte("hello"), "0 PEM blocks"},
		"too large":            {make([]byte, MaxPEM+1), "at most"},
		"too many":             {bytes.Repeat(toPEM(good), MaxChain+1), "at most 10"},
		"cut off":              {cutOff[:len(cutOff)-30], "could be read"},
		"a key with it":        {append(toPEM(good), withKey...), "private key"},
		"a request":            {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST"}), "CERTIFICATE REQUEST"},
		"no certificate":       {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), "certificate 1"},
		"another key":          {toPEM(between.sign(t, named(), &newKey(t).PublicKey), between.certificate), "this enclave's key"},
		"the root first":       {toPEM(root.certificate, good), "this enclave's key"},
		"another signer":       {toPEM(good, other.certificate), "certificate 1 is not signed"},
		"one left out":         {toPEM(good, root.certificate), "certificate 1 is not signed"},
		"one too many":         {toPEM(good, between.certificate, other.certificate), "certificate 2 is not signed"},
		"itself as signer":     {toPEM(good, good), "is not signed"},
		"an expired authority": {toPEM(expired.sign(t, named(), key), expired.certificate), "certificate 2 is valid"},
		"expired": {made(between, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), "certificate 1 is valid"},
		"not yet valid": {made(between, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		}), "certificate 1 is valid"},
		"an authority": {made(between, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "authority"},
		"no names":     {made(between, func(c *x509.Certificate) { c.DNSNames = nil }), "names"},
		"for clients": {made(between, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), "not for servers"},
		"not for signing": {made(between, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), "may not sign"},
	} {
		if err := f.Install(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, expected %q", name, err, test.want)
		}
	}
	if f.installed.Load() != nil {
		t.Error("something was installed")
	}
	if err := f.Install(toPEM(good, between.certificate)); err != nil {
		t.Error(err)
	}
}

func FuzzInstall(f *testing.F) {
	store, err := New(Options{Name: "pay", Log: func(string, ...any) {}})
	if err != nil {
		f.Fatal(err)
	}
	root := newAuthority(f, nil)
	leaf := root.sign(f, &x509.Certificate{DNSNames: []string{"a.example"}}, &store.key.PublicKey)
	f.Add(toPEM(leaf, root.certificate))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := store.Install(text); err == nil && !store.key.PublicKey.Equal(store.installed.Load().Leaf.PublicKey) {
			t.Fatal("a certificate of another key was installed")
		}
	})
}
