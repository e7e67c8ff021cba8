// Package hosttest is for tests: images without an enclave in them, and a guest without an enclave around it.
package hosttest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// Section is a part of an image: its type and its bytes.
type Section struct {
	Kind uint16
	Data []byte
}

// Build writes sections as an Enclave Image File for x86_64 (aws/aws-nitro-enclaves-image-format: README.md).
func Build(sections ...Section) []byte {
	file := make([]byte, 548)
	copy(file, ".eif\x00\x04")
	binary.BigEndian.PutUint16(file[26:], uint16(len(sections)))
	for number, section := range sections {
		if number < 32 {
			binary.BigEndian.PutUint64(file[28+8*number:], uint64(len(file)))
			binary.BigEndian.PutUint64(file[284+8*number:], uint64(len(section.Data)))
		}
		file = binary.BigEndian.AppendUint16(file, section.Kind)
		file = append(file, 0, 0)
		file = binary.BigEndian.AppendUint64(file, uint64(len(section.Data)))
		file = append(file, section.Data...)
	}
	sum := crc32.Update(crc32.ChecksumIEEE(file[:544]), crc32.IEEETable, file[548:])
	binary.BigEndian.PutUint32(file[544:], sum)
	return file
}

// Metadata is that of a cage, with its lists in JSON.
func Metadata(ingress, egress string) string {
	return fmt.Sprintf(`{"ImageName":"x","CustomMetadata":{"cagebuild":{"version":1,"name":"pay","architecture":"x86_64",
		"memory_mib":512,"cpus":2,"ingress":%s,"egress":%s,"secrets":{"env":[],"files":[]},"logs":true}}}`, ingress, egress)
}

// Image writes an image with metadata into a file, and returns its path.
func Image(t testing.TB, metadata string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cage.eif")
	data := Build(Section{1, []byte("kernel")}, Section{2, []byte("cmdline")}, Section{5, []byte(metadata)},
		Section{3, []byte("ramdisk")})
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
