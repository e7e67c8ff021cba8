// Package proxyproto reads and writes the header of the PROXY protocol, version 2, which tells a server behind
// a proxy whose connection it is (haproxy: doc/proxy-protocol.txt, section 2.2).
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
)

// MaxLength is how long what follows the fixed part may be, in bytes. Addresses take 216 at most; the rest
// is for what is skipped.
const MaxLength = 4096

// signature begins every header.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

// fixed is the length of the signature, the version and command, the family and protocol, and the length.
const fixed = len(signature) + 4

// Version 2, in the upper half of a byte, with a command.
const (
	local   = 0x20 // the connection is the proxy's own
	proxied = 0x21
)

// Families, in the upper half of a byte, with the protocol: a stream.
const (
	unspecified = 0x00
	tcp4        = 0x11
	tcp6        = 0x21
	unixStream  = 0x31
)

// unixSize is that of two socket paths.
const unixSize = 2 * 108

// Write sends a header: that peer connected to local. Where one of them isn't valid it says that nobody
// knows (the command LOCAL), which a server takes as a connection of the proxy itself. An IPv4 address that
// meets an IPv6 one is written as that. Zones are left out, for there is no place for them.
func Write(to io.Writer, peer, local netip.AddrPort) error {
	_, err := to.Write(Append(nil, peer, local))
	return err
}

// Append appends what Write sends.
func Append(header []byte, peer, own netip.AddrPort) []byte {
	header = append(header, signature...)
	if !peer.IsValid() || !own.IsValid() {
		return append(header, local, unspecified, 0, 0)
	}
	from, to := peer.Addr().Unmap(), own.Addr().Unmap()
	if from.Is4() && to.Is4() {
		header = append(header, proxied, tcp4, 0, 12)
		header = append(header, from.AsSlice()...)
		header = append(header, to.AsSlice()...)
	} else {
		from16, to16 := from.As16(), to.As16()
		header = append(header, proxied, tcp6, 0, 36)
		header = append(header, from16[:]...)
		header = append(header, to16[:]...)
	}
	header = binary.BigEndian.AppendUint16(header, peer.Port())
	return binary.BigEndian.AppendUint16(header, own.Port())
}

// Read reads a header, and nothing behind it. The addresses aren't valid where the header names none: the
// command LOCAL, an unspecified family, unix sockets. What may follow the addresses is checked for its form
// and skipped. Whoever calls sets a deadline.
func Read(from io.Reader) (peer, own netip.AddrPort, err error) {
	peer, own, err = read(from)
	if err != nil {
		return netip.AddrPort{}, netip.AddrPort{}, fmt.Errorf("PROXY header: %w", err)
	}
	return peer, own, nil
}

func read(from io.Reader) (peer, own netip.AddrPort, err error) {
	header := make([]byte, fixed)
	if _, err := io.ReadFull(from, header); err != nil {
		return peer, own, err
	}
	if string(header[:len(signature)]) != signature {
		return peer, own, errors.New("the signature of version 2 is missing")
	}
	command, family := header[len(signature)], header[len(signature)+1]
	if command != local && command != proxied {
		return peer, own, fmt.Errorf("version and command are 0x%02x, expected 0x%02x or 0x%02x", command, local, proxied)
	}
	length := binary.BigEndian.Uint16(header[fixed-2:])
	if length > MaxLength {
		return peer, own, fmt.Errorf("%d bytes follow, at most %d", length, MaxLength)
	}
	header = append(header, make([]byte, length)...)
	rest := header[fixed:]
	if _, err := io.ReadFull(from, rest); err != nil {
		return peer, own, noEOF(err)
	}
	if command == local {
		// Whatever family it names, there is nothing in it for a receiver.
		return peer, own, nil
	}
	var size int
	switch family {
	case unspecified:
		// Nobody knows the addresses' length, so nothing can be said about what is behind them.
		return peer, own, nil
	case tcp4:
		size = 12
	case tcp6:
		size = 36
	case unixStream:
		size = unixSize
	default:
		return peer, own, fmt.Errorf("family and protocol are 0x%02x, expected a stream", family)
	}
	if len(rest) < size {
		return peer, own, fmt.Errorf("%d bytes follow, the addresses alone have %d", len(rest), size)
	}
	if family != unixStream {
		peer, own = addresses(rest[:size])
	}
	return peer, own, checkExtensions(header, fixed+size)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// addresses splits source address, destination address, source port and destination port.
func addresses(data []byte) (peer, own netip.AddrPort) {
	size := (len(data) - 4) / 2
	from, _ := netip.AddrFromSlice(data[:size])
	to, _ := netip.AddrFromSlice(data[size : 2*size])
	return netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(data[2*size:])),
		netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(data[2*size+2:]))
}

// typeCRC32C is PP2_TYPE_CRC32C: a sum of the whole header, whose own bytes count as zero.
const typeCRC32C = 0x03

// checkExtensions walks over what follows the addresses: a type, a length in two bytes, the value.
func checkExtensions(header []byte, at int) error {
	for at < len(header) {
		if len(header)-at < 3 {
			return fmt.Errorf("%d bytes are left over", len(header)-at)
		}
		kind, size := header[at], int(binary.BigEndian.Uint16(header[at+1:]))
		at += 3
		if len(header)-at < size {
			return fmt.Errorf("extension 0x%02x has %d bytes, %d are there", kind, size, len(header)-at)
		}
		if kind == typeCRC32C {
			if err := checkSum(header, at, size); err != nil {
				return err
			}
		}
		at += size
	}
	return nil
}

func checkSum(header []byte, at, size int) error {
	if size != crc32.Size {
		return fmt.Errorf("a CRC-32C of %d bytes", size)
	}
	want := binary.BigEndian.Uint32(header[at:])
	zeroed := bytes.Clone(header)
	clear(zeroed[at : at+size])
	if got := crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli)); got != want {
		return fmt.Errorf("the CRC-32C is 0x%08x, expected 0x%08x", got, want)
	}
	return nil
}
