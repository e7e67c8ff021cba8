package kms

import (
	"errors"
	"fmt"
	"regexp"
	"unicode/utf8"
)

// Limits of KMS's API; those of texts that it doesn't bound are ours.
const (
	maxCiphertext = 6144
	maxKeyID      = 2048
	maxContext    = 8192 // all names and values
	maxTokens     = 10
	maxToken      = 8192
	maxSession    = 16384
)

var (
	accessKeyID = regexp.MustCompile(`^[A-Za-z0-9_]{16,128}$`)
	visible     = regexp.MustCompile(`^[!-~]+$`)
)

// check finds the server of a request that KMS could take. No error repeats what may be secret.
func (r *Request) check() (endpoint, error) {
	server, err := parseEndpoint(r.Endpoint, r.Region)
	if err != nil {
		return endpoint{}, err
	}
	switch {
	case len(r.Ciphertext) == 0 || len(r.Ciphertext) > maxCiphertext:
		return endpoint{}, fmt.Errorf("ciphertext: got %d bytes, expected 1 to %d", len(r.Ciphertext), maxCiphertext)
	case len(r.KeyID) > maxKeyID || (r.KeyID != "" && !visible.MatchString(r.KeyID)):
		return endpoint{}, errors.New("key_id: is no id, ARN or alias")
	case len(r.GrantTokens) > maxTokens:
		return endpoint{}, fmt.Errorf("grant_tokens: got %d, expected at most %d", len(r.GrantTokens), maxTokens)
	}
	for _, token := range r.GrantTokens {
		if len(token) > maxToken || !visible.MatchString(token) {
			return endpoint{}, errors.New("grant_tokens: one is no token")
		}
	}
	if err := checkContext(r.Context); err != nil {
		return endpoint{}, err
	}
	return server, r.Credentials.check()
}

func checkContext(pairs map[string]string) error {
	total := 0
	for name, value := range pairs {
		total += len(name) + len(value)
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return errors.New("encryption_context: is not Unicode")
		}
	}
	if total > maxContext {
		return fmt.Errorf("encryption_context: got %d bytes, expected at most %d", total, maxContext)
	}
	return nil
}

func (c *Credentials) check() error {
	switch {
	case !accessKeyID.MatchString(c.AccessKeyID):
		return errors.New("credentials: access_key_id is none")
	case len(c.SecretAccessKey) > 256 || !visible.MatchString(c.SecretAccessKey):
		return errors.New("credentials: secret_access_key is none")
	case len(c.SessionToken) > maxSession || (c.SessionToken != "" && !visible.MatchString(c.SessionToken)):
		return errors.New("credentials: session_token is none")
	}
	return nil
}
