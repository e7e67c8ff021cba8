package nsm

import (
	"fmt"

	"cagebuild.dev/runtime/internal/cbor"
)

// Attest has the device sign a document. The error may be an Error.
func (d *Device) Attest(request Request) ([]byte, error) {
	if err := request.Check(); err != nil {
		return nil, fmt.Errorf("nsm: %w", err)
	}
	answer, err := d.call("Attestation", cbor.Map{
		{Key: "user_data", Value: optional(request.UserData)},
		{Key: "nonce", Value: optional(request.Nonce)},
		{Key: "public_key", Value: optional(request.PublicKey)},
	})
	if err != nil {
		return nil, err
	}
	return bytesOf(answer, "document", 1, MaxResponse)
}

func optional(value []byte) any {
	if value == nil {
		return nil
	}
	return value
}

// Description is what the device says about itself.
type Description struct {
	ModuleID string   // such as i-1234567890abcdef0-enc1234567890abcde
	Version  string   // of its interface: major.minor.patch
	Digest   string   // the hash of its registers, such as SHA384
	MaxPCRs  uint16   // how many registers there are
	Locked   []uint16 // those that don't change any more, which is what a document has
}

// Describe asks the device about itself.
func (d *Device) Describe() (Description, error) {
	answer, err := d.call("DescribeNSM", nil)
	if err != nil {
		return Description{}, err
	}
	var parts [3]uint16
	for index, name := range []string{"version_major", "version_minor", "version_patch"} {
		if parts[index], err = numberOf(answer, name); err != nil {
			return Description{}, err
		}
	}
	description := Description{Version: fmt.Sprintf("%d.%d.%d", parts[0], parts[1], parts[2])}
	if description.ModuleID, err = field[string](answer, "module_id"); err != nil {
		return Description{}, err
	}
	if description.Digest, err = field[string](answer, "digest"); err != nil {
		return Description{}, err
	}
	if description.MaxPCRs, err = numberOf(answer, "max_pcrs"); err != nil {
		return Description{}, err
	}
	locked, err := field[[]any](answer, "locked_pcrs")
	if err != nil {
		return Description{}, err
	}
	for _, value := range locked {
		index, isNumber := value.(uint64)
		if !isNumber || index >= uint64(description.MaxPCRs) {
			return Description{}, fmt.Errorf("nsm: %.50q is no register, there are %d",
				fmt.Sprint(value), description.MaxPCRs)
		}
		description.Locked = append(description.Locked, uint16(index))
	}
	return description, nil
}

// maxDigest is how long a register may be, in bytes: that of SHA512.
const maxDigest = 64

// PCR reads one register, and whether it is locked.
func (d *Device) PCR(index uint16) (value []byte, locked bool, err error) {
	answer, err := d.call("DescribePCR", cbor.Map{{Key: "index", Value: uint64(index)}})
	if err != nil {
		return nil, false, err
	}
	if value, err = bytesOf(answer, "data", 1, maxDigest); err != nil {
		return nil, false, err
	}
	locked, err = field[bool](answer, "lock")
	return value, locked, err
}

// maxPCRs is how many registers are read, whatever the device says. It has 32.
const maxPCRs = 64

// PCRs reads the locked registers, which are those of a document.
func (d *Device) PCRs() (map[uint16][]byte, error) {
	description, err := d.Describe()
	if err != nil {
		return nil, err
	}
	if len(description.Locked) > maxPCRs {
		return nil, fmt.Errorf("nsm: %d registers, at most %d", len(description.Locked), maxPCRs)
	}
	values := map[uint16][]byte{}
	for _, index := range description.Locked {
		value, _, err := d.PCR(index)
		if err != nil {
			return nil, err
		}
		values[index] = value
	}
	return values, nil
}

// MaxRandom is how many bytes Random gives at once.
const MaxRandom = 1 << 16

// Random returns so many random bytes. The device makes 256 at a time.
func (d *Device) Random(count int) ([]byte, error) {
	if count < 0 || count > MaxRandom {
		return nil, fmt.Errorf("nsm: %d random bytes, expected 0 to %d", count, MaxRandom)
	}
	random := make([]byte, 0, count)
	for len(random) < count {
		answer, err := d.call("GetRandom", nil)
		if err != nil {
			return nil, err
		}
		next, err := bytesOf(answer, "random", 1, MaxResponse)
		if err != nil {
			return nil, err
		}
		random = append(random, next[:min(len(next), count-len(random))]...)
	}
	return random, nil
}
