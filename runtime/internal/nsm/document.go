package nsm

import (
	"fmt"
	"time"

	"cagebuild.dev/runtime/internal/cbor"
)

// coseSign1 is the tag that may be around a document (RFC 9052, section 4.2). The device leaves it out.
const coseSign1 = 18

// Timestamp reads when a document was made, to the millisecond, in UTC. It verifies nothing: the answer is
// worth what the way is on which the document came. From the device's own hand, that is the hypervisor's clock.
func Timestamp(document []byte) (time.Time, error) {
	payload, err := payloadOf(document)
	if err != nil {
		return time.Time{}, fmt.Errorf("attestation document: %w", err)
	}
	value, _ := payload.Get("timestamp")
	milliseconds, isNumber := value.(uint64)
	if !isNumber || milliseconds > maxTimestamp {
		return time.Time{}, fmt.Errorf("attestation document: the timestamp is %.50q, expected milliseconds since 1970",
			fmt.Sprint(value))
	}
	return time.UnixMilli(int64(milliseconds)).UTC(), nil
}

// maxTimestamp is the end of the year 9999, which is how far certificates and RFC 3339 reach.
const maxTimestamp = 253402300799999

// payloadOf takes what is signed out of a COSE_Sign1: an array of the protected headers, the others, the
// payload and the signature.
func payloadOf(document []byte) (cbor.Map, error) {
	if len(document) > MaxResponse {
		return nil, fmt.Errorf("has %d bytes, at most %d", len(document), MaxResponse)
	}
	value, err := cbor.Decode(document)
	if err != nil {
		return nil, err
	}
	if tag, isTag := value.(cbor.Tag); isTag && tag.Number == coseSign1 {
		value = tag.Value
	}
	parts, isArray := value.([]any)
	if !isArray || len(parts) != 4 {
		return nil, fmt.Errorf("is no COSE_Sign1, which is an array of 4")
	}
	encoded, isBytes := parts[2].([]byte)
	if !isBytes {
		return nil, fmt.Errorf("the payload is a %T, expected bytes", parts[2])
	}
	inner, err := cbor.Decode(encoded)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	payload, isMap := inner.(cbor.Map)
	if !isMap {
		return nil, fmt.Errorf("the payload is a %T, expected a map", inner)
	}
	return payload, nil
}
