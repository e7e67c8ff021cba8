// Package nsm asks the Nitro Secure Module, the device that attests what runs in an enclave, and gives random
// bytes.
//
// A request and its answer are one CBOR value each, as in aws-nitro-enclaves-nsm-api (src/api/mod.rs): an
// operation without arguments is its name, one with arguments a map from its name to a map of them. The answer
// is the same, or a map from "Error" to the error's name. They go to the device by an ioctl, and to a stand-in
// for it by a unix socket, where each has its length in front: four bytes, big-endian.
package nsm

import (
	"fmt"
	"strings"
	"sync"

	"cagebuild.dev/runtime/internal/cbor"
)

// Path is where the kernel has the device.
const Path = "/dev/nsm"

// Limits of the device (NSM_REQUEST_MAX_SIZE and NSM_RESPONSE_MAX_SIZE of linux/nsm.h) and of what a document
// may hold, in bytes.
const (
	MaxRequest   = 0x1000
	MaxResponse  = 0x3000
	MaxNonce     = 512
	MaxUserData  = 512
	MaxPublicKey = 1024
)

// Request is what an attestation document is to say besides. What is nil isn't in it.
type Request struct {
	Nonce     []byte // of whoever wants to know that the document is fresh
	PublicKey []byte // whose private half is in the enclave alone
	UserData  []byte
}

// Check says which field is too long.
func (r Request) Check() error {
	for _, field := range []struct {
		name  string
		value []byte
		most  int
	}{
		{"nonce", r.Nonce, MaxNonce},
		{"public key", r.PublicKey, MaxPublicKey},
		{"user data", r.UserData, MaxUserData},
	} {
		if len(field.value) > field.most {
			return fmt.Errorf("the %s has %d bytes, at most %d can be attested",
				field.name, len(field.value), field.most)
		}
	}
	return nil
}

// Attester makes attestation documents: a COSE_Sign1 each.
type Attester interface {
	Attest(request Request) ([]byte, error)
}

// Error is the name of an error that the device answers with, such as InvalidArgument.
type Error string

// The errors of aws-nitro-enclaves-nsm-api.
const (
	InvalidArgument  Error = "InvalidArgument"
	InvalidIndex     Error = "InvalidIndex"
	InvalidResponse  Error = "InvalidResponse"
	ReadOnlyIndex    Error = "ReadOnlyIndex"
	InvalidOperation Error = "InvalidOperation"
	BufferTooSmall   Error = "BufferTooSmall"
	InputTooLarge    Error = "InputTooLarge"
	InternalError    Error = "InternalError"
)

func (e Error) Error() string { return "the device answered " + string(e) }

// Device is an open device, or a stand-in. It may be used from several goroutines, and answers one at a time.
type Device struct {
	mutex sync.Mutex
	link  link
}

// link carries one request and its answer.
type link interface {
	exchange(request []byte) ([]byte, error)
	close() error
}

// Open opens a device by its path, or a stand-in by unix://PATH. If there is no device, the error is an
// fs.ErrNotExist; a stand-in is looked for by each request.
func Open(path string) (*Device, error) {
	if socket, found := strings.CutPrefix(path, "unix://"); found {
		if !strings.HasPrefix(socket, "/") {
			return nil, fmt.Errorf("nsm: %.200q is no unix:// and an absolute path", path)
		}
		return &Device{link: standIn(socket)}, nil
	}
	link, err := openCharacterDevice(path)
	if err != nil {
		return nil, fmt.Errorf("nsm: %w", err)
	}
	return &Device{link: link}, nil
}

// Close ends the use of the device.
func (d *Device) Close() error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.link.close()
}

// call asks for an operation. Its answer has to be a map. Nil arguments mean that it has none.
func (d *Device) call(operation string, arguments cbor.Map) (cbor.Map, error) {
	answer, err := d.exchange(operation, arguments)
	if err != nil {
		return nil, fmt.Errorf("nsm: %s: %w", operation, err)
	}
	return answer, nil
}

func (d *Device) exchange(operation string, arguments cbor.Map) (cbor.Map, error) {
	message := any(operation)
	if arguments != nil {
		message = cbor.Map{{Key: operation, Value: arguments}}
	}
	request, err := cbor.Encode(message)
	if err != nil {
		return nil, err
	}
	if len(request) > MaxRequest {
		return nil, fmt.Errorf("a request of %d bytes, at most %d", len(request), MaxRequest)
	}
	d.mutex.Lock()
	response, err := d.link.exchange(request)
	d.mutex.Unlock()
	if err != nil {
		return nil, err
	}
	return open(response, operation)
}

// open takes an answer to an operation out of what was around it.
func open(response []byte, operation string) (cbor.Map, error) {
	value, err := cbor.Decode(response)
	if err != nil {
		return nil, err
	}
	outer, isMap := value.(cbor.Map)
	if !isMap || len(outer) != 1 {
		return nil, fmt.Errorf("got %.100q, expected a map with one entry", fmt.Sprint(value))
	}
	switch inner := outer[0].Value.(type) {
	case string:
		if outer[0].Key == "Error" {
			return nil, Error(inner)
		}
	case cbor.Map:
		if outer[0].Key == operation {
			return inner, nil
		}
	}
	return nil, fmt.Errorf("got an answer to %.50q", fmt.Sprint(outer[0].Key))
}

// field takes a value out of an answer. It has to be there, and be of that type.
func field[T any](answer cbor.Map, name string) (T, error) {
	value, found := answer.Get(name)
	typed, fits := value.(T)
	if !found {
		return typed, fmt.Errorf("nsm: the answer has no %s", name)
	}
	if !fits {
		return typed, fmt.Errorf("nsm: the answer's %s is a %T, expected a %T", name, value, typed)
	}
	return typed, nil
}

// bytesOf takes bytes out of an answer, between least and most of them.
func bytesOf(answer cbor.Map, name string, least, most int) ([]byte, error) {
	value, err := field[[]byte](answer, name)
	if err == nil && (len(value) < least || len(value) > most) {
		err = fmt.Errorf("nsm: the answer's %s has %d bytes, expected %d to %d", name, len(value), least, most)
	}
	return value, err
}

func numberOf(answer cbor.Map, name string) (uint16, error) {
	value, err := field[uint64](answer, name)
	if err == nil && value > 1<<16-1 {
		err = fmt.Errorf("nsm: the answer's %s is %d, expected at most %d", name, value, 1<<16-1)
	}
	return uint16(value), err
}
