package secrets

import (
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"
	"strings"
)

// A sealed bundle is
//
//	bytes 0 to 6   "CAGESEC"
//	byte 7         the version, 1
//	bytes 8 to 39  the encapsulated key
//	the rest       the bundle's JSON, encrypted, and 16 bytes of tag
//
// By version 1 that is HPKE (RFC 9180) in base mode, single-shot, with DHKEM(X25519, HKDF-SHA256) (0x0020),
// HKDF-SHA256 (0x0001) and AES-256-GCM (0x0002); info is "cagebuild secrets v1", which binds the version, and
// there is no additional data. The public key is X25519's, 32 bytes.
const (
	header = "CAGESEC\x01"
	info   = "cagebuild secrets v1"
	encap  = 32
	tag    = 16
)

// MaxSealed is how long a sealed bundle may be, in bytes.
const MaxSealed = len(header) + encap + MaxJSON + tag

// Content types of a bundle.
const (
	MediaTypeJSON   = "application/json"
	MediaTypeSealed = "application/vnd.cagebuild.sealed"
)

func generateKey() (hpke.PrivateKey, error) {
	return hpke.DHKEM(ecdh.X25519()).GenerateKey()
}

// Seal encrypts a bundle's JSON to an enclave. The public key is to be taken from an attestation document
// that has been verified, or else this hides nothing.
func Seal(publicKey, bundle []byte) ([]byte, error) {
	if _, err := Parse(bundle); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	key, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(publicKey)
	if err != nil {
		return nil, fmt.Errorf("public key of %d bytes: %w", len(publicKey), err)
	}
	encrypted, err := hpke.Seal(key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info), bundle)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return append([]byte(header), encrypted...), nil
}

func open(key hpke.PrivateKey, sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) > MaxSealed:
		return nil, fmt.Errorf("got %d bytes, expected at most %d", len(sealed), MaxSealed)
	case len(sealed) < len(header)+encap+tag || !strings.HasPrefix(string(sealed[:len(header)]), header):
		return nil, errNotSealed
	}
	opened, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info), sealed[len(header):])
	if err != nil {
		return nil, errKey
	}
	return opened, nil
}

var (
	errNotSealed = errors.New("not a bundle sealed for this version")
	errKey       = errors.New("sealed to another key, or damaged; the key is another one each time the enclave starts")
)
