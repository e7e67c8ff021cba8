// Package kms asks AWS KMS to decrypt something for this enclave and for nobody else.
//
// The request carries an attestation document with a public key of the enclave. KMS checks the document's
// signature and, by the conditions of the key's policy, its PCRs, and encrypts the plaintext to that public
// key; so neither who carries the answer nor who holds the credentials can read it. The answer's format is
// CMS (RFC 5652), in BER.
package kms

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"cagebuild.dev/runtime/internal/nsm"
)

const (
	keyBits     = 2048    // what KMS takes for RSAES_OAEP_SHA_256 and fits into a document
	maxAnswer   = 1 << 16 // of KMS: 4 KiB of plaintext twice encoded, and names
	maxAtOnce   = 16
	maxIdle     = time.Minute
	maxDuration = 30 * time.Second
)

// Decrypter makes calls. Attester has to be set; the rest may be left as it is. Its methods may be called at
// the same time.
type Decrypter struct {
	// Attester makes the documents, over the public key (SubjectPublicKeyInfo in DER).
	Attester nsm.Attester
	// Allowed says whether egress lets a name or address and a port through. Nil asks nobody: then what is
	// denied fails as a name that isn't found.
	Allowed func(host string, port uint16) bool
	// Roots loads the certificate authorities, when they are first needed. Nil: the system's.
	Roots func() (*x509.CertPool, error)
	// Dial opens a TCP connection. Nil: the system's resolver and network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	once   sync.Once
	slots  chan struct{}
	mutex  sync.Mutex
	key    *rsa.PrivateKey
	client *http.Client
}

// Request says what to decrypt. KeyID, Context and GrantTokens may be empty.
type Request struct {
	Region      string
	Ciphertext  []byte // as Encrypt or GenerateDataKey of KMS made it, at most 6144 bytes
	KeyID       string // id, ARN or alias; given, KMS decrypts with no other key
	Context     map[string]string
	GrantTokens []string
	Credentials Credentials
	Endpoint    string // https://HOST[:PORT] instead of the region's own
}

// Result is what KMS decrypted.
type Result struct {
	Plaintext []byte
	KeyID     string // ARN of the key that did it
}

// ServiceError is an answer of KMS that isn't the plaintext.
type ServiceError struct {
	Status    int    // of HTTP
	Type      string // such as AccessDeniedException
	Message   string
	RequestID string
}

func (e *ServiceError) Error() string {
	return fmt.Sprintf("kms: %s: %s", e.Type, e.Message)
}

// DeniedError says that no rule of egress lets the request out.
type DeniedError struct{ Destination string }

func (e *DeniedError) Error() string {
	return fmt.Sprintf("egress is denied: egress.allow has no rule for %q", e.Destination)
}

// RequestError is a mistake in the request, found before anything was sent.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e *RequestError) Unwrap() error { return e.Err }

// Decrypt asks KMS. The errors above are told apart from what else may go wrong on the way: names that
// aren't found, connections, certificates, an answer that isn't for this enclave.
func (d *Decrypter) Decrypt(ctx context.Context, request Request) (Result, error) {
	server, err := request.check()
	if err != nil {
		return Result{}, &RequestError{err}
	}
	if d.Allowed != nil && !d.Allowed(server.host, server.port) {
		return Result{}, &DeniedError{server.String()}
	}
	ctx, cancel := context.WithTimeout(ctx, maxDuration)
	defer cancel()
	d.once.Do(func() { d.slots = make(chan struct{}, maxAtOnce) })
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	key, client, err := d.prepare()
	if err != nil {
		return Result{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return Result{}, err
	}
	document, err := d.Attester.Attest(nsm.Request{PublicKey: public})
	if err != nil {
		return Result{}, fmt.Errorf("attestation document: %w", err)
	}
	reply, err := call(ctx, client, server, request, document)
	if err != nil {
		return Result{}, err
	}
	if len(reply.CiphertextForRecipient) == 0 {
		return Result{}, fmt.Errorf("%s answered without a ciphertext for the enclave", server)
	}
	plaintext, err := openEnvelope(key, reply.CiphertextForRecipient)
	if err != nil {
		return Result{}, fmt.Errorf("ciphertext for the enclave: %w", err)
	}
	return Result{Plaintext: plaintext, KeyID: reply.KeyID}, nil
}

// Close closes idle connections. The Decrypter remains usable.
func (d *Decrypter) Close() {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.client != nil {
		d.client.CloseIdleConnections()
	}
}

// prepare makes what calls share, at the first one: a cage that never asks pays nothing. What failed is
// tried again by the next call.
func (d *Decrypter) prepare() (*rsa.PrivateKey, *http.Client, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.client == nil {
		roots := d.Roots
		if roots == nil {
			roots = systemRoots
		}
		pool, err := roots()
		if err != nil {
			return nil, nil, err
		}
		d.client = newClient(pool, d.Dial)
	}
	if d.key == nil {
		key, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			return nil, nil, err
		}
		d.key = key
	}
	return d.key, d.client, nil
}

// newClient takes nothing from the environment and follows nobody elsewhere.
func newClient(roots *x509.CertPool, dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  20 * time.Second,
			MaxResponseHeaderBytes: 1 << 14,
			MaxIdleConnsPerHost:    2,
			MaxIdleConns:           4,
			IdleConnTimeout:        maxIdle,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// The JSON of KMS's API; bytes are in base64.
type (
	decryptRequest struct {
		CiphertextBlob    []byte
		KeyID             string            `json:"KeyId,omitempty"`
		EncryptionContext map[string]string `json:",omitempty"`
		GrantTokens       []string          `json:",omitempty"`
		Recipient         recipientInfo
	}
	recipientInfo struct {
		KeyEncryptionAlgorithm string
		AttestationDocument    []byte
	}
	decryptReply struct {
		CiphertextForRecipient []byte
		KeyID                  string `json:"KeyId"`
	}
)

// call sends one signed request.
func call(
	ctx context.Context, client *http.Client, server endpoint, request Request, document []byte,
) (decryptReply, error) {
	body, err := json.Marshal(decryptRequest{
		CiphertextBlob:    request.Ciphertext,
		KeyID:             request.KeyID,
		EncryptionContext: request.Context,
		GrantTokens:       request.GrantTokens,
		Recipient: recipientInfo{
			KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_256",
			AttestationDocument:    document,
		},
	})
	if err != nil {
		return decryptReply{}, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, server.url(), bytes.NewReader(body))
	if err != nil {
		return decryptReply{}, err
	}
	post.Header.Set("Content-Type", "application/x-amz-json-1.1")
	post.Header.Set("X-Amz-Target", "TrentService.Decrypt")
	sign(post, body, request.Credentials, request.Region, "kms", time.Now())
	post.Header.Set("User-Agent", "cagebuild")
	answer, err := client.Do(post)
	if err != nil {
		return decryptReply{}, explain(server, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return decryptReply{}, fmt.Errorf("answer of %s: %w", server, err)
	}
	if len(text) > maxAnswer {
		return decryptReply{}, fmt.Errorf("answer of %s: longer than %d bytes", server, maxAnswer)
	}
	if answer.StatusCode != http.StatusOK {
		return decryptReply{}, serviceError(answer, text)
	}
	var reply decryptReply
	if err := json.Unmarshal(text, &reply); err != nil {
		return decryptReply{}, fmt.Errorf("answer of %s: %w", server, err)
	}
	return reply, nil
}

// explain adds what a name without an address means here: the enclave's resolver refuses what isn't allowed.
func explain(server endpoint, err error) error {
	var resolution *net.DNSError
	if errors.As(err, &resolution) {
		return fmt.Errorf("%s has no address: egress.allow may have no rule for it: %w", server, err)
	}
	return fmt.Errorf("%s can't be asked: %w", server, err)
}
