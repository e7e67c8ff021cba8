package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Object identifiers, as their content is encoded.
const (
	oidData          = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01" // 1.2.840.113549.1.7.1
	oidEnvelopedData = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" // 1.2.840.113549.1.7.3
	oidOAEP          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07" // 1.2.840.113549.1.1.7
	oidMGF1          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" // 1.2.840.113549.1.1.8
	oidSHA256        = "\x60\x86\x48\x01\x65\x03\x04\x02\x01" // 2.16.840.1.101.3.4.2.1
	oidAES256CBC     = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a" // 2.16.840.1.101.3.4.1.42
	oidPSpecified    = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x09" // 1.2.840.113549.1.1.9
)

// envelope is what of an EnvelopedData is needed to open it.
type envelope struct {
	key     []byte // the content's key, encrypted
	iv      []byte // 16 bytes
	content []byte // encrypted
}

// errSealed is the one answer to everything that decryption itself finds wrong, so that it tells nothing
// about the key.
var errSealed = errors.New("not encrypted to this enclave's key, or damaged")

// openEnvelope decrypts a CMS message (RFC 5652) as KMS makes it: EnvelopedData for one recipient, the key
// by RSAES-OAEP with SHA-256, the content by AES-256 in CBC mode. Nothing else is taken.
func openEnvelope(key *rsa.PrivateKey, message []byte) ([]byte, error) {
	sealed, err := parseEnvelope(message)
	if err != nil {
		return nil, err
	}
	contentKey, err := rsa.DecryptOAEP(sha256.New(), nil, key, sealed.key, nil)
	if err != nil || len(contentKey) != 32 {
		return nil, errSealed
	}
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		return nil, errSealed
	}
	if len(sealed.content) == 0 || len(sealed.content)%aes.BlockSize != 0 {
		return nil, errSealed
	}
	plaintext := make([]byte, len(sealed.content))
	cipher.NewCBCDecrypter(block, sealed.iv).CryptBlocks(plaintext, sealed.content)
	return unpad(plaintext)
}

// unpad takes away the 1 to 16 bytes that say their own number (RFC 5652, section 6.3).
func unpad(padded []byte) ([]byte, error) {
	count := int(padded[len(padded)-1])
	if count == 0 || count > aes.BlockSize || count > len(padded) {
		return nil, errSealed
	}
	for _, octet := range padded[len(padded)-count:] {
		if int(octet) != count {
			return nil, errSealed
		}
	}
	return padded[:len(padded)-count], nil
}

// parseEnvelope reads
//
//	ContentInfo ::= SEQUENCE { envelopedData OID, [0] EXPLICIT EnvelopedData }
//	EnvelopedData ::= SEQUENCE { version, SET OF RecipientInfo, EncryptedContentInfo }
//
// without certificates or attributes.
func parseEnvelope(message []byte) (envelope, error) {
	parsed, err := parseBER(message)
	if err != nil {
		return envelope{}, err
	}
	info, err := parsed.fields(tagSequence, 2, 2)
	if err != nil {
		return envelope{}, fmt.Errorf("content info: %w", err)
	}
	if !info[0].is(tagOID, oidEnvelopedData) {
		return envelope{}, errors.New("content info: not enveloped data")
	}
	wrapped, err := info[1].fields(contextTag|constructed, 1, 1)
	if err != nil {
		return envelope{}, fmt.Errorf("content: %w", err)
	}
	data, err := wrapped[0].fields(tagSequence, 3, 3)
	if err != nil {
		return envelope{}, fmt.Errorf("enveloped data: %w", err)
	}
	if !isVersion(data[0]) {
		return envelope{}, errors.New("enveloped data: neither version 0 nor 2")
	}
	var found envelope
	if found.key, err = recipient(data[1]); err != nil {
		return envelope{}, fmt.Errorf("recipient: %w", err)
	}
	if found.iv, found.content, err = encryptedContent(data[2]); err != nil {
		return envelope{}, fmt.Errorf("encrypted content: %w", err)
	}
	return found, nil
}

// isVersion takes 2, and 0, which is written where the recipient is named by a certificate's issuer.
func isVersion(e element) bool {
	return e.is(tagInteger, "\x00") || e.is(tagInteger, "\x02")
}

// recipient reads the encrypted key from
//
//	SET { KeyTransRecipientInfo ::= SEQUENCE { version, rid, AlgorithmIdentifier, encryptedKey } }
//
// Whom rid names is not asked: another's key can't be decrypted.
func recipient(e element) ([]byte, error) {
	all, err := e.fields(tagSet, 1, 1)
	if err != nil {
		return nil, err
	}
	info, err := all[0].fields(tagSequence, 4, 4)
	if err != nil {
		return nil, err
	}
	if !isVersion(info[0]) {
		return nil, errors.New("neither version 0 nor 2")
	}
	if err := checkOAEP(info[2]); err != nil {
		return nil, err
	}
	return info[3].octets(tagOctetString)
}

// checkOAEP reads RSAES-OAEP-params (RFC 4055, section 4.1): [0] hash, [1] mask generation, [2] label. What
// isn't said is SHA-1, or an empty label.
func checkOAEP(e element) error {
	algorithm, err := e.fields(tagSequence, 2, 2)
	if err != nil {
		return err
	}
	if !algorithm[0].is(tagOID, oidOAEP) {
		return errors.New("the key isn't encrypted by RSAES-OAEP")
	}
	params, err := algorithm[1].fields(tagSequence, 2, 3)
	if err != nil {
		return fmt.Errorf("parameters of RSAES-OAEP: %w", err)
	}
	hash, err := params[0].fields(contextTag|constructed, 1, 1)
	if err != nil || !isSHA256(hash[0]) {
		return errors.New("RSAES-OAEP without SHA-256")
	}
	mask, err := params[1].fields(contextTag|constructed|1, 1, 1)
	if err != nil {
		return fmt.Errorf("mask generation: %w", err)
	}
	mgf, err := mask[0].fields(tagSequence, 2, 2)
	if err != nil || !mgf[0].is(tagOID, oidMGF1) || !isSHA256(mgf[1]) {
		return errors.New("RSAES-OAEP without MGF1 with SHA-256")
	}
	if len(params) == 3 && !isEmptyLabel(params[2]) {
		return errors.New("RSAES-OAEP with a label")
	}
	return nil
}

// isSHA256 takes parameters that are absent or NULL: both are written (RFC 4055, section 2.1).
func isSHA256(e element) bool {
	algorithm, err := e.fields(tagSequence, 1, 2)
	return err == nil && algorithm[0].is(tagOID, oidSHA256) && (len(algorithm) == 1 || algorithm[1].is(tagNull, ""))
}

func isEmptyLabel(e element) bool {
	explicit, err := e.fields(contextTag|constructed|2, 1, 1)
	if err != nil {
		return false
	}
	source, err := explicit[0].fields(tagSequence, 2, 2)
	return err == nil && source[0].is(tagOID, oidPSpecified) && source[1].is(tagOctetString, "")
}

// encryptedContent reads SEQUENCE { data OID, AlgorithmIdentifier, [0] IMPLICIT OCTET STRING }.
func encryptedContent(e element) (iv, content []byte, err error) {
	info, err := e.fields(tagSequence, 3, 3)
	if err != nil {
		return nil, nil, err
	}
	if !info[0].is(tagOID, oidData) {
		return nil, nil, errors.New("not data")
	}
	algorithm, err := info[1].fields(tagSequence, 2, 2)
	if err != nil || !algorithm[0].is(tagOID, oidAES256CBC) {
		return nil, nil, errors.New("not encrypted by AES-256-CBC")
	}
	if iv, err = algorithm[1].octets(tagOctetString); err != nil {
		return nil, nil, fmt.Errorf("initialisation vector: %w", err)
	}
	if len(iv) != aes.BlockSize {
		return nil, nil, fmt.Errorf("an initialisation vector of %d bytes, expected %d", len(iv), aes.BlockSize)
	}
	content, err = info[2].octets(contextTag)
	return iv, content, err
}
