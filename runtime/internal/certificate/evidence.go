package certificate

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"

	"cagebuild.dev/runtime/internal/cbor"
)

// MediaType is that of an attestation document: a COSE_Sign1 (RFC 9052, section 2).
const MediaType = `application/cose; cose-type="cose-sign1"`

// Extension is id-pe-cmw, the certificate extension for a Conceptual Message Wrapper (RFC 9999, before
// draft-ietf-rats-msg-wrap, section "Transporting CMW in X.509 Messages").
var Extension = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 35}

// Wrap makes the extension that holds a document: an OCTET STRING with a CBOR record of the media type and
// the document. It isn't critical, for clients that don't know it are served too.
func Wrap(document []byte) (pkix.Extension, error) {
	record, err := cbor.Encode([]any{MediaType, document})
	if err != nil {
		return pkix.Extension{}, err
	}
	value, err := asn1.Marshal(record)
	if err != nil {
		return pkix.Extension{}, err
	}
	return pkix.Extension{Id: Extension, Value: value}, nil
}

// ErrNoEvidence says that a certificate has no attestation document.
var ErrNoEvidence = errors.New("the certificate has no attestation document")

// Unwrap takes the document out of a certificate. It verifies nothing.
func Unwrap(certificate *x509.Certificate) ([]byte, error) {
	for _, extension := range certificate.Extensions {
		if extension.Id.Equal(Extension) {
			document, err := unwrap(extension.Value)
			if err != nil {
				return nil, fmt.Errorf("the certificate's attestation document: %w", err)
			}
			return document, nil
		}
	}
	return nil, ErrNoEvidence
}

func unwrap(value []byte) ([]byte, error) {
	var encoded []byte
	rest, err := asn1.Unmarshal(value, &encoded)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes follow", len(rest))
	}
	decoded, err := cbor.Decode(encoded)
	if err != nil {
		return nil, err
	}
	// A third part, if there is one, says what kind of message it is.
	record, isArray := decoded.([]any)
	if !isArray || len(record) < 2 || len(record) > 3 {
		return nil, errors.New("is no record of a type and a value")
	}
	if record[0] != MediaType {
		return nil, fmt.Errorf("has the type %.100q, expected %q", fmt.Sprint(record[0]), MediaType)
	}
	document, isBytes := record[1].([]byte)
	if !isBytes {
		return nil, fmt.Errorf("is a %T, expected bytes", record[1])
	}
	return document, nil
}
