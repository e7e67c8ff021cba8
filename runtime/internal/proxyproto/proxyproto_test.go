package proxyproto

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
)

const magic = "0d0a0d0a000d0a515549540a"

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func port(text string) netip.AddrPort {
	if text == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(text)
}

// vectors are headers laid out by hand after section 2.2 of the specification.
var vectors = map[string]struct{ header, peer, own string }{
	"TCP over IPv4": {
		magic + "21 11 000c c0000201 c6336402 d431 01bb", "192.0.2.1:54321", "198.51.100.2:443",
	},
	"TCP over IPv6": {
		magic + "21 21 0024 20010db8000000000000000000000001 20010db8000000000000000000000002 d431 01bb",
		"[2001:db8::1]:54321", "[2001:db8::2]:443",
	},
	"local": {magic + "20 00 0000", "", ""},
}

func TestHeadersAreWrittenAndRead(t *testing.T) {
	for name, vector := range vectors {
		header := unhex(t, vector.header)
		peer, own := port(vector.peer), port(vector.own)
		var written bytes.Buffer
		if err := Write(&written, peer, own); err != nil || !bytes.Equal(written.Bytes(), header) {
			t.Errorf("%s: got %x, %v; expected %x", name, written.Bytes(), err, header)
		}
		reader := iotest.OneByteReader(io.MultiReader(bytes.NewReader(header), strings.NewReader("GET /")))
		gotPeer, gotOwn, err := Read(reader)
		if err != nil || gotPeer != peer || gotOwn != own {
			t.Errorf("%s: got %v, %v, %v", name, gotPeer, gotOwn, err)
		}
		if rest, err := io.ReadAll(reader); err != nil || string(rest) != "GET /" {
			t.Errorf("%s: left %q, %v", name, rest, err)
		}
	}
}

func TestAddressesOfDifferentKindsAreWrittenAsIPv6(t *testing.T) {
	for _, test := range []struct{ peer, own, header string }{
		{
			"192.0.2.1:1", "[2001:db8::2]:2",
			magic + "21 21 0024 00000000000000000000ffffc0000201 20010db8000000000000000000000002 0001 0002",
		},
		{
			"[fe80::1%eth0]:1", "198.51.100.2:2",
			magic + "21 21 0024 fe800000000000000000000000000001 00000000000000000000ffffc6336402 0001 0002",
		},
		{"[::ffff:192.0.2.1]:1", "198.51.100.2:2", magic + "21 11 000c c0000201 c6336402 0001 0002"},
		{"192.0.2.1:1", "", magic + "20 00 0000"},
		{"", "192.0.2.1:1", magic + "20 00 0000"},
	} {
		if got := Append(nil, port(test.peer), port(test.own)); !bytes.Equal(got, unhex(t, test.header)) {
			t.Errorf("%s, %s: got %x, expected %s", test.peer, test.own, got, test.header)
		}
	}
}

func TestAWriterThatFailsIsAnError(t *testing.T) {
	reader, writer := io.Pipe()
	_ = reader.Close()
	if err := Write(writer, netip.AddrPort{}, netip.AddrPort{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

func TestWhatNamesNoAddressIsRead(t *testing.T) {
	for name, text := range map[string]string{
		"unix sockets":              magic + "21 31 00d8" + strings.Repeat("2f61", 108),
		"unix sockets and one more": magic + "21 31 00db" + strings.Repeat("2f61", 108) + "040000",
		"unspecified":               magic + "21 00 0000",
		"unspecified with data":     magic + "21 00 0005 0102030405",
		"local with addresses":      magic + "20 11 000c c0000201 c6336402 d431 01bb",
		"local with half of them":   magic + "20 11 0003 c00002",
		"local of another family":   magic + "20 ff 0000",
		"the longest":               magic + "20 00 1000" + strings.Repeat("00", 4096),
	} {
		reader := bytes.NewReader(append(unhex(t, text), "rest"...))
		peer, own, err := Read(reader)
		if err != nil || peer.IsValid() || own.IsValid() || reader.Len() != len("rest") {
			t.Errorf("%s: got %v, %v, %v, %d bytes left", name, peer, own, err, reader.Len())
		}
	}
}

// withExtensions is a header over IPv4 with something behind the addresses.
func withExtensions(t testing.TB, text string) []byte {
	extensions := unhex(t, text)
	header := unhex(t, magic+"21 11 0000 c0000201 c6336402 d431 01bb")
	binary.BigEndian.PutUint16(header[14:], uint16(12+len(extensions)))
	return append(header, extensions...)
}

func withSum(t testing.TB) []byte {
	header := withExtensions(t, "01 0002 6832  03 0004 00000000  04 0000")
	sum := crc32.Checksum(header, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(header[len(header)-7:], sum)
	return header
}

func TestExtensionsAreSkipped(t *testing.T) {
	for name, header := range map[string][]byte{
		"ALPN, authority":    withExtensions(t, "01 0002 6832  02 0003 612e62"),
		"unknown":            withExtensions(t, "ef 0000"),
		"a sum that's right": withSum(t),
	} {
		peer, own, err := Read(bytes.NewReader(header))
		if err != nil || peer != port("192.0.2.1:54321") || own != port("198.51.100.2:443") {
			t.Errorf("%s: got %v, %v, %v", name, peer, own, err)
		}
	}
}

func TestWhatIsWrongIsRefused(t *testing.T) {
	wrongSum := withSum(t)
	wrongSum[16] ^= 1
	for name, test := range map[string]struct {
		header []byte
		want   string
	}{
		"nothing":                 {nil, "EOF"},
		"half a signature":        {unhex(t, magic[:12]), "unexpected EOF"},
		"version 1":               {[]byte("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n"), "signature"},
		"no header at all":        {[]byte("GET / HTTP/1.1\r\n\r\n"), "signature"},
		"one bit of it":           {unhex(t, "0d0a0d0a000d0a515549540b 20 00 0000"), "signature"},
		"version 1 in binary":     {unhex(t, magic+"11 11 0000"), "version and command"},
		"version 3":               {unhex(t, magic+"31 11 0000"), "version and command"},
		"an unknown command":      {unhex(t, magic+"22 11 0000"), "version and command"},
		"UDP":                     {unhex(t, magic+"21 12 000c c0000201 c6336402 d431 01bb"), "stream"},
		"an unknown family":       {unhex(t, magic+"21 41 0000"), "stream"},
		"an unknown protocol":     {unhex(t, magic+"21 13 0000"), "stream"},
		"too long":                {unhex(t, magic+"20 00 1001"), "at most 4096"},
		"no addresses":            {unhex(t, magic+"21 11 0000"), "addresses alone"},
		"half an address":         {unhex(t, magic+"21 11 000b c0000201 c6336402 d431 01"), "addresses alone"},
		"half an address of IPv6": {unhex(t, magic+"21 21 000c c0000201 c6336402 d431 01bb"), "addresses alone"},
		"half a path":             {unhex(t, magic+"21 31 000c 000000000000000000000000"), "addresses alone"},
		"less than it says":       {unhex(t, magic+"21 11 000c c0000201"), "unexpected EOF"},
		"nothing of what it says": {unhex(t, magic+"21 11 000c"), "unexpected EOF"},
		"half an extension":       {withExtensions(t, "04 00"), "left over"},
		"an extension cut off":    {withExtensions(t, "04 0003 0000"), "extension 0x04"},
		"a sum of two bytes":      {withExtensions(t, "03 0002 0000"), "CRC-32C of 2 bytes"},
		"a sum that's wrong":      {wrongSum, "CRC-32C is"},
	} {
		peer, own, err := Read(bytes.NewReader(test.header))
		if err == nil || !strings.Contains(err.Error(), test.want) || peer.IsValid() || own.IsValid() {
			t.Errorf("%s: got %v, %v, %v; expected %q", name, peer, own, err, test.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, vector := range vectors {
		f.Add(unhex(f, vector.header))
	}
	f.Add(withExtensions(f, "01 0002 6832"))
	f.Add(withSum(f))
	f.Add(unhex(f, magic+"21 31 00d8"+strings.Repeat("00", 216)))
	f.Fuzz(func(t *testing.T, data []byte) {
		reader := bytes.NewReader(data)
		peer, own, err := Read(reader)
		if err != nil {
			if peer.IsValid() || own.IsValid() {
				t.Fatalf("got %v, %v with %v", peer, own, err)
			}
			return
		}
		length := fixed + int(binary.BigEndian.Uint16(data[fixed-2:]))
		if took := len(data) - reader.Len(); took != length || length > fixed+MaxLength {
			t.Fatalf("%d bytes were read of a header of %d", took, length)
		}
		// What was read is written, and read again, as the same.
		again, againOwn, err := Read(bytes.NewReader(Append(nil, peer, own)))
		if err != nil || again != peer || againOwn != own {
			t.Fatalf("%v, %v became %v, %v, %v", peer, own, again, againOwn, err)
		}
	})
}

func FuzzAppend(f *testing.F) {
	f.Add([]byte{192, 0, 2, 1}, []byte{198, 51, 100, 2}, uint16(1), uint16(2))
	f.Add(bytes.Repeat([]byte{1}, 16), []byte{198, 51, 100, 2}, uint16(0), uint16(65535))
	f.Fuzz(func(t *testing.T, from, to []byte, fromPort, toPort uint16) {
		fromAddr, _ := netip.AddrFromSlice(from)
		toAddr, _ := netip.AddrFromSlice(to)
		peer, own := netip.AddrPortFrom(fromAddr, fromPort), netip.AddrPortFrom(toAddr, toPort)
		gotPeer, gotOwn, err := Read(bytes.NewReader(Append(nil, peer, own)))
		if err != nil {
			t.Fatal(err)
		}
		if !peer.IsValid() || !own.IsValid() {
			peer, own = netip.AddrPort{}, netip.AddrPort{}
		} else {
			peer = netip.AddrPortFrom(fromAddr.Unmap(), fromPort)
			own = netip.AddrPortFrom(toAddr.Unmap(), toPort)
		}
		if gotPeer != peer || gotOwn != own {
			t.Fatalf("%v, %v became %v, %v", peer, own, gotPeer, gotOwn)
		}
	})
}
