package kms

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
)

// credentials are AWS's example ones.
var credentials = Credentials{
	AccessKeyID:     "AKIAIOSFODNN7EXAMPLE",
	SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
	SessionToken:    "session-token",
}

// allowedPCR0 is what the policy of the service's key wants.
var allowedPCR0 = bytes.Repeat([]byte{7}, 48)

// service is in the place of KMS: "sealed:TEXT" is TEXT encrypted.
type service struct {
	t      *testing.T
	nsm    *nsmtest.Server
	reply  func(plaintext []byte, key *rsa.PublicKey) (status int, body string)
	mutex  sync.Mutex
	bodies []map[string]any
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
		return
	}
	if problem := checkSigned(r, body); problem != "" {
		s.t.Error(problem)
		w.Header().Set("X-Amzn-Errortype", "InvalidSignatureException")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var parsed struct {
		CiphertextBlob []byte
		Recipient      struct {
			KeyEncryptionAlgorithm string
			AttestationDocument    []byte
		}
	}
	var whole map[string]any
	if json.Unmarshal(body, &parsed) != nil || json.Unmarshal(body, &whole) != nil {
		s.t.Errorf("got %s", body)
	}
	s.mutex.Lock()
	s.bodies = append(s.bodies, whole)
	s.mutex.Unlock()
	key, pcr0, err := s.read(parsed.Recipient.AttestationDocument)
	if err != nil || parsed.Recipient.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" {
		s.t.Errorf("recipient: %v, %s", err, body)
		return
	}
	if !bytes.Equal(pcr0, allowedPCR0) {
		w.Header().Set("X-Amzn-Errortype", "AccessDeniedException:http://internal.amazon.com/coral/")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"message":"not authorized to perform: kms:Decrypt"}`)
		return
	}
	plaintext, found := strings.CutPrefix(string(parsed.CiphertextBlob), "sealed:")
	if !found {
		w.Header().Set("X-Amzn-Requestid", "a-request")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"__type":"com.amazonaws.kms#InvalidCiphertextException","Message":"not\u0007ours"}`)
		return
	}
	status, answer := s.reply([]byte(plaintext), key)
	w.Header().Set("Location", "https://kms.example.com/elsewhere") // for redirects
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

// read verifies a document.
func (s *service) read(document []byte) (key *rsa.PublicKey, pcr0 []byte, err error) {
	verified, err := nsmtest.Verify(document, s.nsm.Root)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(verified.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	key, isRSA := parsed.(*rsa.PublicKey)
	if !isRSA || key.N.BitLen() != 2048 {
		return nil, nil, errors.New("no RSA key of 2048 bits")
	}
	return key, verified.PCRs[0], nil
}

// checkSigned signs once more what has arrived, header by header as it was said to be signed.
func checkSigned(r *http.Request, body []byte) string {
	again, err := http.NewRequest(r.Method, "https://"+r.Host+r.RequestURI, nil)
	if err != nil {
		return err.Error()
	}
	at, err := time.Parse(timeFormat, r.Header.Get("X-Amz-Date"))
	if err != nil {
		return err.Error()
	}
	_, signed, _ := strings.Cut(r.Header.Get("Authorization"), "SignedHeaders=")
	signed, _, _ = strings.Cut(signed, ",")
	if signed != "content-type;host;x-amz-date;x-amz-security-token;x-amz-target" {
		return "signed headers: " + signed
	}
	for _, name := range strings.Split(signed, ";") {
		if name != "host" {
			again.Header.Set(name, r.Header.Get(name))
		}
	}
	sign(again, body, credentials, "eu-west-1", "kms", at)
	if got, want := r.Header.Get("Authorization"), again.Header.Get("Authorization"); got != want {
		return fmt.Sprintf("got %s, expected %s", got, want)
	}
	if r.Header.Get("X-Amz-Target") != "TrentService.Decrypt" || r.URL.String() != "/" {
		return "got " + r.Header.Get("X-Amz-Target") + " of " + r.URL.String()
	}
	return ""
}

// sealing answers as KMS does.
func (s *service) sealing(plaintext []byte, key *rsa.PublicKey) (int, string) {
	text, err := json.Marshal(map[string]any{
		"CiphertextForRecipient": seal(s.t, key, plaintext).message(),
		"EncryptionAlgorithm":    "SYMMETRIC_DEFAULT",
		"KeyId":                  "arn:aws:kms:eu-west-1:111122223333:key/a",
		"Plaintext":              nil,
	})
	if err != nil {
		s.t.Error(err)
	}
	return http.StatusOK, string(text)
}

// start serves TLS on loopback; the name that a region has leads there.
func start(t *testing.T) (*service, *Decrypter) {
	t.Helper()
	leak.Check(t)
	device, err := nsmtest.Listen(filepath.Join(t.TempDir(), "nsm.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(device.Close)
	device.SetPCR(0, allowedPCR0)
	attester, err := nsm.Open(device.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = attester.Close() })
	kms := &service{t: t, nsm: device}
	kms.reply = kms.sealing
	server := httptest.NewUnstartedServer(kms)
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	// httptest's certificate is for example.com and its subdomains.
	authority := x509.NewCertPool()
	authority.AddCert(server.Certificate())
	decrypter := &Decrypter{
		Attester: attester,
		Roots:    func() (*x509.CertPool, error) { return authority, nil },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "kms.example.com:443" {
				return nil, &net.DNSError{Err: "no such host", Name: address, IsNotFound: true}
			}
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		},
	}
	t.Cleanup(decrypter.Close)
	return kms, decrypter
}

// sealed is a request that succeeds.
func sealed(text string) Request {
	return Request{
		Region: "eu-west-1", Ciphertext: []byte("sealed:" + text), Credentials: credentials,
		Endpoint: "https://kms.example.com",
	}
}

func TestDecrypt(t *testing.T) {
	kms, decrypter := start(t)
	request := sealed("a secret")
	request.KeyID, request.GrantTokens = "alias/cage", []string{"token"}
	request.Context = map[string]string{"purpose": "täst"}
	result, err := decrypter.Decrypt(t.Context(), request)
	if err != nil || string(result.Plaintext) != "a secret" || result.KeyID != "arn:aws:kms:eu-west-1:111122223333:key/a" {
		t.Fatalf("got %+v, %v", result, err)
	}
	sent := kms.bodies[0]
	if sent["KeyId"] != "alias/cage" || fmt.Sprint(sent["GrantTokens"], sent["EncryptionContext"]) != "[token] map[purpose:täst]" {
		t.Errorf("sent %v", sent)
	}
	if _, err := decrypter.Decrypt(t.Context(), sealed("another")); err != nil {
		t.Fatal(err)
	}
	if sent := kms.bodies[1]; len(sent) != 2 {
		t.Errorf("sent %v, expected the ciphertext and the recipient alone", sent)
	}
}

func TestManyAtOnce(t *testing.T) {
	_, decrypter := start(t)
	var group sync.WaitGroup
	for number := range 3 * maxAtOnce {
		group.Go(func() {
			text := fmt.Sprint("secret ", number)
			result, err := decrypter.Decrypt(t.Context(), sealed(text))
			if err != nil || string(result.Plaintext) != text {
				t.Errorf("got %+v, %v", result, err)
			}
		})
	}
	group.Wait()
}

func TestWhatGoesWrongIsSaid(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*service, *Decrypter, *Request)
		want   string
	}{
		"KMS refuses": {func(_ *service, _ *Decrypter, r *Request) { r.Ciphertext = []byte("other") },
			"kms: InvalidCiphertextException: not?ours"},
		"egress denies": {func(_ *service, d *Decrypter, r *Request) {
			d.Allowed = func(host string, port uint16) bool { return host != "kms.eu-west-1.amazonaws.com" || port != 443 }
			r.Endpoint = ""
		}, `egress is denied: egress.allow has no rule for "kms.eu-west-1.amazonaws.com:443"`},
		"the name isn't found": {func(_ *service, _ *Decrypter, r *Request) { r.Endpoint = "" },
			"kms.eu-west-1.amazonaws.com:443 has no address: egress.allow may have no rule for it"},
		"another's certificate": {func(_ *service, d *Decrypter, _ *Request) {
			d.Roots = func() (*x509.CertPool, error) { return x509.NewCertPool(), nil }
		}, "certificate signed by unknown authority"},
		"no authorities": {func(_ *service, d *Decrypter, _ *Request) {
			d.Roots = Roots([]string{"A=b", "SSL_CERT_FILE=/nowhere/ca.pem"})
		}, "certificate authorities (SSL_CERT_FILE): open /nowhere/ca.pem"},
		"the device fails": {func(s *service, _ *Decrypter, _ *Request) { s.nsm.Fail(nsm.InternalError) },
			"attestation document: nsm: Attestation: the device answered InternalError"},
		"another enclave": {func(s *service, _ *Decrypter, _ *Request) { s.nsm.SetPCR(0, make([]byte, 48)) },
			"kms: AccessDeniedException: not authorized to perform: kms:Decrypt"},
		"plaintext instead": {func(s *service, _ *Decrypter, _ *Request) {
			s.reply = func([]byte, *rsa.PublicKey) (int, string) { return 200, `{"Plaintext":"c2VjcmV0"}` }
		}, "without a ciphertext for the enclave"},
		"for somebody else": {func(s *service, _ *Decrypter, _ *Request) {
			s.reply = func(text []byte, _ *rsa.PublicKey) (int, string) { return s.sealing(text, &enclaveKey().PublicKey) }
		}, errSealed.Error()},
		"not JSON": {func(s *service, _ *Decrypter, _ *Request) {
			s.reply = func([]byte, *rsa.PublicKey) (int, string) { return 200, `<html>` }
		}, "answer of kms.example.com:443: invalid character"},
		"an error that isn't JSON": {func(s *service, _ *Decrypter, _ *Request) {
			s.reply = func([]byte, *rsa.PublicKey) (int, string) { return 503, "<html>" }
		}, "kms: Service Unavailable: the answer isn't JSON"},
		"a redirect": {func(s *service, _ *Decrypter, _ *Request) {
			s.reply = func([]byte, *rsa.PublicKey) (int, string) { return 307, "{}" }
		}, "kms: Temporary Redirect: "},
		"too much": {func(s *service, _ *Decrypter, _ *Request) {
			s.reply = func([]byte, *rsa.PublicKey) (int, string) { return 200, strings.Repeat(" ", maxAnswer+1) }
		}, "longer than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			kms, decrypter := start(t)
			request := sealed("text")
			test.change(kms, decrypter, &request)
			result, err := decrypter.Decrypt(t.Context(), request)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %+v, %v; expected an error with %q", result, err, test.want)
			}
		})
	}
}

func TestRequestsAreCheckedBeforeAnythingIsSent(t *testing.T) {
	kms, decrypter := start(t)
	for want, change := range map[string]func(*Request){
		"region: ":                     func(r *Request) { r.Region = "eu-west-1.evil.com/" },
		"ciphertext: got 0":            func(r *Request) { r.Ciphertext = nil },
		"ciphertext: got 614":          func(r *Request) { r.Ciphertext = make([]byte, 6145) },
		"key_id: ":                     func(r *Request) { r.KeyID = "a b" },
		"grant_tokens: got":            func(r *Request) { r.GrantTokens = make([]string, 11) },
		"grant_tokens: one":            func(r *Request) { r.GrantTokens = []string{""} },
		"encryption_context: got 8193": func(r *Request) { r.Context = map[string]string{"n": strings.Repeat("v", 8192)} },
		"encryption_context: is":       func(r *Request) { r.Context = map[string]string{"n": "\xff"} },
		"access_key_id":                func(r *Request) { r.Credentials.AccessKeyID = "x\r\nHost: evil" },
		"secret_access_key":            func(r *Request) { r.Credentials.SecretAccessKey = "" },
		"session_token":                func(r *Request) { r.Credentials.SessionToken = "a\nb" },
		"endpoint: ":                   func(r *Request) { r.Endpoint = "http://kms.example.com" },
	} {
		request := sealed("text")
		change(&request)
		_, err := decrypter.Decrypt(t.Context(), request)
		var wrong *RequestError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, expected an error with %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "evil") && want != "region: " {
			t.Errorf("%v repeats a credential", err)
		}
	}
	if len(kms.bodies) > 0 {
		t.Errorf("sent %v", kms.bodies)
	}
}

func TestEndpoints(t *testing.T) {
	for _, test := range []struct{ text, region, want, url string }{
		{"", "eu-west-1", "kms.eu-west-1.amazonaws.com:443", "https://kms.eu-west-1.amazonaws.com/"},
		{"", "us-gov-west-1", "kms.us-gov-west-1.amazonaws.com:443", "https://kms.us-gov-west-1.amazonaws.com/"},
		{"", "cn-north-1", "kms.cn-north-1.amazonaws.com.cn:443", "https://kms.cn-north-1.amazonaws.com.cn/"},
		{"", "eusc-de-east-1", "kms.eusc-de-east-1.amazonaws.eu:443", "https://kms.eusc-de-east-1.amazonaws.eu/"},
		{"https://KMS.Example.com:443/", "eu-west-1", "kms.example.com:443", "https://kms.example.com/"},
		{"https://localhost:8443", "eu-west-1", "localhost:8443", "https://localhost:8443/"},
		{"https://[2001:DB8::1]", "eu-west-1", "[2001:db8::1]:443", "https://[2001:db8::1]/"},
	} {
		got, err := parseEndpoint(test.text, test.region)
		if err != nil || got.String() != test.want || got.url() != test.url {
			t.Errorf("%+v: got %v, %s, %v", test, got, got.url(), err)
		}
	}
	for _, text := range []string{
		"kms.example.com", "https://", "https://:443", "https://a:0", "https://a:65536", "https://a/path", "https://a/?q",
		"https://a#b", "https://user@a", "ftp://a", "https://a b", "https://" + strings.Repeat("a", 600),
	} {
		if got, err := parseEndpoint(text, "eu-west-1"); err == nil {
			t.Errorf("%.40q: got %v", text, got)
		}
	}
	for _, name := range []string{"", "eu", "EU-WEST-1", "eu-west-1 ", "eu-west-", "eu-west-1\n", "us-iso-east-1"} {
		if got, err := parseEndpoint("", name); err == nil {
			t.Errorf("region %q: got %v", name, got)
		}
	}
}

func TestRootsAreThoseOfTheImage(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	folder := t.TempDir()
	bundle, empty := filepath.Join(folder, "ca.pem"), filepath.Join(folder, "empty.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for path, content := range map[string][]byte{bundle: text, empty: nil} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool, err := Roots([]string{"PATH=/", "SSL_CERT_FILE=" + bundle})()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	answer, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if _, err := Roots([]string{"SSL_CERT_FILE=" + empty})(); err == nil || !strings.Contains(err.Error(), "no certificate in") {
		t.Errorf("an empty file: got %v", err)
	}
}

func TestHandler(t *testing.T) {
	_, decrypter := start(t)
	decrypter.Allowed = func(host string, _ uint16) bool { return host == "kms.example.com" }
	api := httptest.NewServer(Handler(decrypter))
	defer api.Close()
	good := map[string]any{
		"region": "eu-west-1", "ciphertext": []byte("sealed:a secret"), "endpoint": "https://kms.example.com",
		"credentials": map[string]string{
			"access_key_id": credentials.AccessKeyID, "secret_access_key": credentials.SecretAccessKey,
			"session_token": credentials.SessionToken,
		},
	}
	with := func(name string, value any) string {
		changed := map[string]any{}
		for key, old := range good {
			changed[key] = old
		}
		changed[name] = value
		text, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	key := "arn:aws:kms:eu-west-1:111122223333:key/a"
	for _, test := range []struct {
		name, method, kind, body string
		status                   int
		want                     string
	}{
		{"works", "POST", "application/json; charset=utf-8", with("region", "eu-west-1"), 200,
			`{"key_id":"` + key + `","plaintext":"` + base64.StdEncoding.EncodeToString([]byte("a secret")) + `"}`},
		{"GET", "GET", "application/json", "", 405, `"MethodNotAllowed"`},
		{"a form", "POST", "text/plain", with("region", "eu-west-1"), 415, `"UnsupportedMediaType"`},
		{"not JSON", "POST", "application/json", "{", 400, `"InvalidRequest"`},
		{"two objects", "POST", "application/json", with("region", "eu-west-1") + "{}", 400, "something follows"},
		{"an unknown key", "POST", "application/json", with("plain", true), 400, `unknown field`},
		{"too long", "POST", "application/json", with("key_id", strings.Repeat("k", maxBody)), 400, "too large"},
		{"a wrong region", "POST", "application/json", with("region", "x"), 400, "region"},
		{"KMS refuses", "POST", "application/json", with("ciphertext", []byte("x")), 400,
			`{"error":{"message":"not?ours","request_id":"a-request","type":"InvalidCiphertextException"}}`},
		{"denied", "POST", "application/json", with("endpoint", "https://elsewhere.example.com"), 403, `"EgressDenied"`},
	} {
		request, err := http.NewRequest(test.method, api.URL+"/kms/decrypt", strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", test.kind)
		answer, err := api.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != test.status || !strings.Contains(string(text), test.want) {
			t.Errorf("%s: got %d %s, %v", test.name, answer.StatusCode, text, err)
		}
		if strings.Contains(string(text), credentials.SecretAccessKey) {
			t.Errorf("%s: the answer repeats the credentials", test.name)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(`{"region":"eu-west-1","ciphertext":"eA==","credentials":{"access_key_id":"AKIAIOSFODNN7EXAMPLE",` +
		`"secret_access_key":"s"},"endpoint":"https://[::1]:8443/","encryption_context":{"a":"b"}}`)
	f.Add(`{"endpoint":"https://x","grant_tokens":["t"]}{}`)
	f.Fuzz(func(t *testing.T, text string) {
		request, err := readRequest(strings.NewReader(text))
		if err != nil {
			return
		}
		server, err := request.check()
		if err != nil {
			return
		}
		if again, err := parseEndpoint(server.url(), request.Region); err != nil || again != server {
			t.Errorf("%v is read again as %v, %v", server, again, err)
		}
	})
}
