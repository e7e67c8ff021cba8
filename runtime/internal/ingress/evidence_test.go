package ingress

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"cagebuild.dev/runtime/internal/certificate"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/nsm/nsmtest"
)

// check verifies a document as a client does: signed by the device, for the key of the connection, with the nonce.
func (c *cage) check(document []byte, leaf *x509.Certificate, nonce []byte) {
	c.t.Helper()
	got, err := nsmtest.Verify(document, c.device.Root)
	if err != nil {
		c.t.Fatal(err)
	}
	if !bytes.Equal(got.PublicKey, leaf.RawSubjectPublicKeyInfo) || !bytes.Equal(got.Nonce, nonce) {
		c.t.Errorf("the document is for key %x, nonce %x; expected %x, %x",
			got.PublicKey, got.Nonce, leaf.RawSubjectPublicKeyInfo, nonce)
	}
}

func random(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.Read(data)
	return data
}

func TestADocumentForTheConnectionsKeyWithTheClientsNonce(t *testing.T) {
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			port := httpApp(t, func(http.ResponseWriter, *http.Request) { t.Error("the app was asked") }, nil)
			c := newCage(t, nil, terminate(port, protocol))
			client, address := c.client(version), "https://"+c.front(port)+AttestationPath+"?nonce="
			for _, size := range []int{minNonce, 17, 32, maxNonce} {
				nonce := random(size)
				for _, text := range []string{
					hex.EncodeToString(nonce), strings.ToUpper(hex.EncodeToString(nonce)),
					base64.RawURLEncoding.EncodeToString(nonce), url.QueryEscape(base64.URLEncoding.EncodeToString(nonce)),
				} {
					response, body := get(t, client, address+text)
					if response.StatusCode != 200 || response.Header.Get("Content-Type") != certificate.MediaType ||
						response.Header.Get("Cache-Control") != "no-store" {
						t.Fatalf("%s: got %d, %v, %q", text, response.StatusCode, response.Header, body)
					}
					c.check([]byte(body), response.TLS.PeerCertificates[0], nonce)
				}
			}
			// The certificate itself has one too, without a nonce.
			response, _ := get(t, client, address)
			leaf := response.TLS.PeerCertificates[0]
			document, err := certificate.Unwrap(leaf)
			if err != nil {
				t.Fatal(err)
			}
			c.check(document, leaf, nil)
		})
	}
}

func TestRequestsForDocumentsThatAreWrong(t *testing.T) {
	port := httpApp(t, func(http.ResponseWriter, *http.Request) { t.Error("the app was asked") }, nil)
	c := newCage(t, nil, terminate(port, "http"))
	client, address := c.client(1), "https://"+c.front(port)+AttestationPath
	good := strings.Repeat("0a", minNonce)
	for query, want := range map[string]string{
		"":                                  "expected the query",
		"?nonce":                            "has 0 bytes",
		"?nonce=":                           "has 0 bytes",
		"?nonce=" + good + "&nonce=" + good: "expected the query",
		"?nonce=" + good + "&x=1":           "expected the query",
		"?nonce=" + good + ";x":             "can't be read",
		"?nonce=%zz":                        "can't be read",
		"?nonce=" + good[2:]:                "has 15 bytes",
		"?nonce=" + strings.Repeat("0a", maxNonce+1): "has 513 bytes",
		"?nonce=" + strings.Repeat("_", 10_000):      "has 7500 bytes",
		"?nonce=" + good + "!":                       "neither",
		"?nonce=" + good + "%2F":                     "neither",
		"?nonce=" + strings.Repeat("_", 21) + "B":    "neither", // bits that nobody reads
		"?Nonce=" + good:                             "expected the query",
	} {
		response, body := get(t, client, address+query)
		if response.StatusCode != http.StatusBadRequest || !strings.Contains(body, want) ||
			response.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%.60s: got %d, %q; expected %q", query, response.StatusCode, body, want)
		}
	}
	response, err := client.Post(address+"?nonce="+good, "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if body := bodyOf(t, response); response.StatusCode != 405 || response.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: got %d, %q", response.StatusCode, body)
	}
	response, err = client.Head(address + "?nonce=" + good)
	if err != nil {
		t.Fatal(err)
	}
	if body := bodyOf(t, response); response.StatusCode != 200 || body != "" || response.ContentLength < 1000 {
		t.Errorf("HEAD: got %d, %d bytes", response.StatusCode, response.ContentLength)
	}
}

func TestWithoutADocumentTheCauseIsSaid(t *testing.T) {
	port := httpApp(t, func(http.ResponseWriter, *http.Request) {}, nil)
	c := newCage(t, nil, terminate(port, "http"))
	c.device.Fail(nsm.InternalError)
	client, address := c.client(1), "https://"+c.front(port)
	response, body := get(t, client, address+AttestationPath+"?nonce="+strings.Repeat("0a", 16))
	if response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "InternalError") {
		t.Errorf("got %d, %q", response.StatusCode, body)
	}
	if response, _ := get(t, client, address+"/"); response.StatusCode != 200 {
		t.Errorf("the app: got %d", response.StatusCode)
	}
}

// slowCertificates make documents when they are allowed to.
type slowCertificates struct {
	*certificate.Store
	release chan struct{}
}

func (s slowCertificates) Attest([]byte) ([]byte, error) {
	<-s.release
	return []byte("document"), nil
}

func TestTooManyWhoAskAreTurnedAway(t *testing.T) {
	port := httpApp(t, func(http.ResponseWriter, *http.Request) {}, nil)
	release := make(chan struct{})
	c := newCage(t, func(o *Options) {
		o.Certificates = slowCertificates{o.Certificates.(*certificate.Store), release}
	}, terminate(port, "http"))
	client, url := c.client(2), "https://"+c.front(port)+AttestationPath+"?nonce="+strings.Repeat("0a", 16)
	var all sync.WaitGroup
	for range maxAsking {
		all.Go(func() {
			if response, err := client.Get(url); err != nil || response.StatusCode != 200 {
				t.Errorf("got %v, %v", response, err)
			} else {
				_ = response.Body.Close()
			}
		})
	}
	eventually(t, "all places are taken", func() bool { return len(c.evidence.places) == maxAsking })
	response, body := get(t, client, url)
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" {
		t.Errorf("got %d, %q", response.StatusCode, body)
	}
	close(release)
	all.Wait()
}

func TestAClientOfAnyProtocolMayAskInItsHandshake(t *testing.T) {
	silent := unused(t)
	c := newCage(t, nil, terminate(silent, "tcp"), terminate(silent+1, "http"))
	for _, port := range []uint16{silent, silent + 1} {
		conn := c.dialTLS(c.front(port), func(config *tls.Config) { config.NextProtos = []string{AttestationProtocol} })
		if got := conn.ConnectionState().NegotiatedProtocol; got != AttestationProtocol {
			t.Fatalf("got %q", got)
		}
		answers := bufio.NewReader(conn)
		for range 3 {
			nonce := random(32)
			_, _ = fmt.Fprintf(conn, "GET %s?nonce=%x HTTP/1.1\r\nHost: a\r\n\r\n", AttestationPath, nonce)
			response, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.check([]byte(bodyOf(t, response)), conn.ConnectionState().PeerCertificates[0], nonce)
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		response, err := http.ReadResponse(answers, nil)
		if err != nil || response.StatusCode != http.StatusNotFound {
			t.Errorf("got %v, %v", response, err)
		}
	}
}

func FuzzNonce(f *testing.F) {
	for _, query := range []string{"nonce=" + strings.Repeat("0a", 16), "nonce=" + strings.Repeat("A", 22), "nonce=a&b"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		nonce, err := nonceOf(&url.URL{RawQuery: query})
		if err != nil {
			return
		}
		if len(nonce) < minNonce || len(nonce) > maxNonce {
			t.Fatalf("got %d bytes", len(nonce))
		}
		again, err := nonceOf(&url.URL{RawQuery: "nonce=" + hex.EncodeToString(nonce)})
		if err != nil || !bytes.Equal(again, nonce) {
			t.Fatalf("got %x, %v", again, err)
		}
	})
}

func FuzzTarget(f *testing.F) {
	for _, target := range []string{"/", "//a", "/a?b", "/a?", "*", "http://a/b", "/%2f?%zz", `/"`} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		parsed, err := url.ParseRequestURI(target)
		if err != nil || parsed.Opaque != "" {
			return
		}
		parsed.Scheme, parsed.Host = "http", "127.0.0.1:1"
		keepTarget(parsed, target)
		if got := parsed.RequestURI(); strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "//") && got != target {
			t.Fatalf("%q became %q", target, got)
		}
		if got := parsed.RequestURI(); !strings.HasPrefix(got, "/") && got != "*" {
			t.Fatalf("%q became %q", target, got)
		}
	})
}
