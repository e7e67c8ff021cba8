package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/transport"
)

// Limits of what is taken from a guest, in bytes.
const (
	MaxMetrics  = 1 << 20
	maxHeader   = 16 << 10
	maxHealth   = 256 << 10
	maxDocument = 64 << 10 // an attestation document has at most 16 KiB
	maxRequest  = 64 << 10 // a certificate signing request
	maxProblem  = 1 << 10
	maxLogLine  = 8 << 10
)

// answerTimeout is how long the guest may take for an answer as a whole. An attestation takes the device some
// milliseconds, a key more.
const answerTimeout = 30 * time.Second

// Client asks a guest over control streams. It keeps none open.
type Client struct{ guest transport.Address }

// New returns a Client of the guest that listens at an address.
func New(guest transport.Address) *Client { return &Client{guest: guest} }

// StatusError is an answer that says no.
type StatusError struct {
	Code    int
	Message string // the guest's, on one line, printable
}

func (e *StatusError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the guest answered %d %s", e.Code, http.StatusText(e.Code))
	}
	return fmt.Sprintf("the guest answered %d: %s", e.Code, e.Message)
}

// ask makes one request and returns the answer, whose body the caller closes. Any status but those wanted is a
// *StatusError.
func (c *Client) ask(ctx context.Context, method, path, kind string, body []byte, wanted ...int) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://guest"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := exchange(ctx, c.guest, request)
	if err != nil {
		return nil, fmt.Errorf("guest at %v: %s", c.guest, describe(err))
	}
	if slices.Contains(wanted, response.StatusCode) {
		return response, nil
	}
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxProblem))
	return nil, &StatusError{Code: response.StatusCode, Message: problem(text)}
}

// problem is what {"error": "…"} says, or else the answer itself.
func problem(body []byte) string {
	var said struct {
		Error string `json:"error"`
	}
	text := string(body)
	if json.Unmarshal(body, &said) == nil && said.Error != "" {
		text = said.Error
	}
	return cut(journal.Printable(strings.TrimSpace(text)))
}

// describe is an error's text, bounded and printable: errors quote what the other side has sent.
func describe(err error) string { return cut(journal.Printable(err.Error())) }

func cut(text string) string {
	if len(text) > maxProblem {
		text = strings.ToValidUTF8(text[:maxProblem], "") + "…"
	}
	return text
}

// whole makes one request and reads all of an answer that may have up to most bytes.
func (c *Client) whole(ctx context.Context, method, path, kind string, body []byte, most int, wanted ...int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	response, err := c.ask(ctx, method, path, kind, body, wanted...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, int64(most)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("guest at %v: the answer breaks off: %s", c.guest, describe(err))
	case len(data) > most:
		return nil, fmt.Errorf("guest at %v: the answer has more than %d bytes", c.guest, most)
	}
	return data, nil
}

// Health asks how the app is.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	data, err := c.whole(ctx, http.MethodGet, "/v1/health", "", nil, maxHealth, http.StatusOK, http.StatusServiceUnavailable)
	if err != nil {
		return nil, err
	}
	return ParseHealth(data)
}

// Metrics asks for the guest's metrics, as it writes them.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.whole(ctx, http.MethodGet, "/v1/metrics", "", nil, MaxMetrics, http.StatusOK)
}

// Attestation asks for an attestation document: COSE_Sign1 bytes with the nonce, and the public key that is named
// ("tls" or "secrets"), if any.
func (c *Client) Attestation(ctx context.Context, nonce []byte, key string) ([]byte, error) {
	query := url.Values{"nonce": {hex.EncodeToString(nonce)}}
	if key != "" {
		query.Set("key", key)
	}
	return c.whole(ctx, http.MethodGet, "/v1/attestation?"+query.Encode(), "", nil, maxDocument, http.StatusOK)
}

// CSR asks for a certificate signing request for names, and returns it as PEM. It is checked to be one, signed by its
// key.
func (c *Client) CSR(ctx context.Context, names []string) ([]byte, error) {
	body, err := json.Marshal(map[string][]string{"names": names})
	if err != nil {
		return nil, err
	}
	data, err := c.whole(ctx, http.MethodPost, "/v1/csr", "application/json", body, maxRequest, http.StatusOK)
	if err != nil {
		return nil, err
	}
	return cleanRequest(data)
}

// SetCertificate hands over a chain of certificates (PEM) for the enclave's own key.
func (c *Client) SetCertificate(ctx context.Context, chain []byte) error {
	_, err := c.whole(ctx, http.MethodPut, "/v1/certificate", "application/x-pem-file", chain, 0, http.StatusNoContent)
	return err
}

// SealedType is the Content-Type of secrets that are encrypted to the enclave's key.
const SealedType = "application/vnd.cagebuild.sealed"

// PutSecrets delivers secrets: JSON, or sealed.
func (c *Client) PutSecrets(ctx context.Context, data []byte, sealed bool) error {
	kind := "application/json"
	if sealed {
		kind = SealedType
	}
	_, err := c.whole(ctx, http.MethodPut, "/v1/secrets", kind, data, 0, http.StatusNoContent)
	return err
}

// Stop asks the enclave to end.
func (c *Client) Stop(ctx context.Context) error {
	_, err := c.whole(ctx, http.MethodPost, "/v1/stop", "", nil, maxProblem, http.StatusAccepted)
	return err
}

// Logs calls line with each line of the enclave's log, printable, until the log ends (with follow: the enclave), line
// fails, or the context ends.
func (c *Client) Logs(ctx context.Context, follow bool, line func(string) error) error {
	path := "/v1/logs"
	if follow {
		path += "?follow=1"
	}
	response, err := c.ask(ctx, http.MethodGet, path, "", nil, http.StatusOK)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	reader := bufio.NewReaderSize(response.Body, maxLogLine)
	for {
		text, err := reader.ReadSlice('\n') // a line that is longer than the buffer comes in pieces
		if len(text) > 0 {
			if err := line(logLine(text)); err != nil {
				return err
			}
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			return fmt.Errorf("guest at %v: the log breaks off: %s", c.guest, describe(err))
		}
	}
}

func logLine(text []byte) string {
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if !utf8.ValidString(line) {
		line = strings.ToValidUTF8(line, "\uFFFD")
	}
	return journal.Printable(line)
}
