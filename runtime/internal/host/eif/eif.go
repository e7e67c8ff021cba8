// Package eif reads what an Enclave Image File says about its cage: the metadata section that cagebuild has
// written. The section is not measured, so nothing that protects the enclave may rest on it: the guest checks
// everything again by its own, measured settings.
//
// Source of the format: aws/aws-nitro-enclaves-image-format: README.md, src/defs/mod.rs.
package eif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	magic        = ".eif"
	version      = 4
	maxSections  = 32
	headerSize   = 548
	sectionSize  = 12 // type, flags, size
	metadataType = 5

	// maxMetadata is how long the section may be. cagebuild's have a few kilobytes.
	maxMetadata = 8 << 20
)

// Offsets of the header's fields, all big-endian.
const (
	atFlags    = 6
	atSections = 26
	atOffsets  = 28
	atSizes    = atOffsets + 8*maxSections
)

// Architecture is "x86_64" or "aarch64", as the flags of the header have it.
type Architecture string

// Metadata reads the metadata section of a file of the given size, and for which architecture the file is.
func Metadata(file io.ReaderAt, size int64) ([]byte, Architecture, error) {
	header := make([]byte, headerSize)
	if size < headerSize {
		return nil, "", fmt.Errorf("is no Enclave Image File: %d bytes, its header alone has %d", size, headerSize)
	}
	if _, err := file.ReadAt(header, 0); err != nil {
		return nil, "", err
	}
	if string(header[:4]) != magic {
		return nil, "", fmt.Errorf("is no Enclave Image File: it begins with %q, expected %q", header[:4], magic)
	}
	if got := binary.BigEndian.Uint16(header[4:]); got != version {
		return nil, "", fmt.Errorf("has version %d of the format, expected %d", got, version)
	}
	architecture := Architecture("x86_64")
	if binary.BigEndian.Uint16(header[atFlags:])&1 != 0 {
		architecture = "aarch64"
	}
	count := int(binary.BigEndian.Uint16(header[atSections:]))
	if count > maxSections {
		return nil, "", fmt.Errorf("has %d sections, at most %d", count, maxSections)
	}
	for number := range count {
		offset := binary.BigEndian.Uint64(header[atOffsets+8*number:])
		length := binary.BigEndian.Uint64(header[atSizes+8*number:])
		kind, err := sectionKind(file, size, offset, length)
		if err != nil {
			return nil, "", fmt.Errorf("section %d: %w", number, err)
		}
		if kind != metadataType {
			continue
		}
		if length > maxMetadata {
			return nil, "", fmt.Errorf("metadata of %d bytes, at most %d", length, maxMetadata)
		}
		data := make([]byte, length)
		if _, err := file.ReadAt(data, int64(offset)+sectionSize); err != nil {
			return nil, "", err
		}
		return data, architecture, nil
	}
	return nil, "", errors.New("has no metadata section")
}

// sectionKind reads a section's header, and checks that it lies within the file and says the same length.
func sectionKind(file io.ReaderAt, size int64, offset, length uint64) (uint16, error) {
	end := uint64(size)
	if offset < headerSize || offset > end || end-offset < sectionSize || end-offset-sectionSize < length {
		return 0, fmt.Errorf("%d bytes at %d are not within the file's %d", length, offset, size)
	}
	var header [sectionSize]byte
	if _, err := file.ReadAt(header[:], int64(offset)); err != nil {
		return 0, err
	}
	if got := binary.BigEndian.Uint64(header[4:]); got != length {
		return 0, fmt.Errorf("has %d bytes by its own header, %d by the file's", got, length)
	}
	return binary.BigEndian.Uint16(header[:]), nil
}

// Load reads the settings of the cage in a file. The error names the file, and what to do next.
func Load(path string) (*Cage, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	status, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !status.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is no regular file", path)
	}
	data, architecture, err := Metadata(file, status.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cage, err := Parse(data)
	switch {
	case errors.Is(err, ErrForeign):
		return nil, fmt.Errorf("%s: %w: take the file that \"invoke build\" has made", path, err)
	case err != nil:
		return nil, fmt.Errorf("%s: metadata: %w", path, err)
	case cage.Architecture != string(architecture):
		return nil, fmt.Errorf("%s: is for %s by its header, for %s by its metadata", path, architecture, cage.Architecture)
	}
	return cage, nil
}
