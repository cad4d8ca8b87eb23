package sniff

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// extension is one extension of a hand-made ClientHello.
type extension struct {
	number uint16
	body   []byte
}

// names returns the body of a server_name extension: pairs of a type and a
// name.
func names(pairs ...any) extension {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for i := 0; i < len(pairs); i += 2 {
			b.AddUint8(uint8(pairs[i].(int)))
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(pairs[i+1].(string))) })
		}
	})
	return extension{extServerName, b.BytesOrPanic()}
}

func serverName(name string) extension { return names(0, name) }

// message returns a ClientHello, without a record around it.
func message(version uint16, extensions ...extension) []byte {
	var b cryptobyte.Builder
	b.AddUint8(clientHello)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(version)
		b.AddBytes(make([]byte, 32))
		b.AddUint8(0)
		b.AddBytes([]byte{0, 2, 0x13, 0x01, 1, 0})
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, e := range extensions {
				b.AddUint16(e.number)
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.body) })
			}
		})
	})
	return b.BytesOrPanic()
}

// record returns a handshake record. Its length is cut to 16 bits.
func record(payload []byte) []byte {
	n := len(payload)
	return append([]byte{recordHandshake, majorVersion, 1, byte(n >> 8), byte(n)}, payload...)
}

func made(extensions ...extension) []byte { return record(message(0x0303, extensions...)) }

// edited returns a well-formed hello with one byte set.
func edited(at int, to byte) []byte {
	b := made(serverName("edit.example"))
	b[at] = to
	return b
}

func strange(n int) []extension {
	var all []extension
	for i := range n {
		all = append(all, extension{uint16(1000 + i), nil})
	}
	return all
}

var refusals = []struct {
	name  string
	bytes []byte
	want  Why
}{
	{"SSL 2.0 hello", []byte("\x80\x2e\x01\x03\x01"), WhySSLv2},
	{"HTTP", []byte("GET / HTTP/1.1"), WhyNotHandshake},
	{"alert record first", []byte("\x15\x03\x01\x00\x02\x01\x00"), WhyNotHandshake},
	{"change_cipher_spec in between", append(record(message(0x0303)[:10]), 20, 3, 3, 0, 1, 1), WhyNotHandshake},
	{"record of another major version", []byte("\x16\x04"), WhyVersion},
	{"hello of SSL 3.0", record(message(0x0300)), WhyVersion},
	{"hello of another major version", record(message(0x0403)), WhyVersion},
	{"only versions that are none of TLS", made(extension{extSupportedVersions, []byte{4, 0x0a, 0x0a, 0x03, 0x00}}), WhyVersion},
	{"empty record first", []byte("\x16\x03\x01\x00\x00"), WhyEmptyRecord},
	{"empty record in between", append(record(message(0x0303)[:10]), 22, 3, 1, 0, 0), WhyEmptyRecord},
	{"record over 16 KiB", []byte("\x16\x03\x01\x40\x01"), WhyRecordOverflow},
	{"ServerHello", []byte("\x16\x03\x01\x00\x04\x02"), WhyNotClientHello},
	{"message over 64 KiB", []byte("\x16\x03\x01\x40\x00\x01\x01\x00\x00"), WhyTooLong},
	{"message that fits but for its record headers", []byte("\x16\x03\x01\x40\x00\x01\x00\xff\xfc"), WhyTooLong},
	{"another message in the same record", record(append(message(0x0303), 1, 0, 0, 0)), WhyTrailing},
	{"session id of 33 bytes", edited(43, 33), WhyMalformed},
	{"odd cipher suites", edited(45, 1), WhyMalformed},
	{"no cipher suites", edited(45, 0), WhyMalformed},
	{"no compression methods", edited(48, 0), WhyMalformed},
	{"extensions longer than the message", edited(51, 200), WhyMalformed},
	{"extensions shorter than the message", edited(51, 1), WhyMalformed},
	{"server_name longer than its extension", edited(60, 200), WhyMalformed},
	{"same extension twice", made(serverName("a.example"), serverName("a.example")), WhyDuplicate},
	{"second server name last", made(serverName("allowed.example"), extension{23, nil}, serverName("evil.example")), WhyDuplicate},
	{"unknown extension twice", made(extension{4000, nil}, extension{4000, nil}), WhyDuplicate},
	{"unknown extensions without end", made(strange(maxStrange + 1)...), WhyExtensions},
	{"empty server_name extension", made(extension{extServerName, nil}), WhyMalformed},
	{"no name in the list", made(names()), WhyNameList},
	{"two names in the list", made(names(0, "allowed.example", 0, "evil.example")), WhyNameList},
	{"name of another type", made(names(1, "a.example")), WhyNameList},
	{"name of another type behind", made(names(0, "a.example", 1, "x")), WhyNameList},
	{"bytes behind the list", made(extension{extServerName, append(serverName("a.example").body, 0)}), WhyMalformed},
	{"empty name", made(serverName("")), WhyName},
	{"NUL in the name", made(serverName("evil.example\x00.allowed.example")), WhyName},
	{"space in the name", made(serverName("a .example")), WhyName},
	{"newline in the name", made(serverName("a.example\n")), WhyName},
	{"slash in the name", made(serverName("evil.example/.allowed.example")), WhyName},
	{"port in the name", made(serverName("a.example:443")), WhyName},
	{"name in UTF-8", made(serverName("b\u00fccher.example")), WhyName},
	{"name of 256 bytes", made(serverName(strings.Repeat("a.", 128))), WhyName},
	{"IPv4 address", made(serverName("192.0.2.1")), WhyNameAddress},
	{"IPv4 address with a dot behind", made(serverName("192.0.2.1.")), WhyNameAddress},
	{"IPv4 address as one number", made(serverName("3221225985")), WhyNameAddress},
	{"IPv4 address in hexadecimal", made(serverName("0xC0.0x0.0x2.0x1")), WhyNameAddress},
	{"bare hexadecimal prefix", made(serverName("127.0x")), WhyNameAddress},
	{"IPv6 address", made(serverName("2001:db8::1")), WhyName},
	{"empty ALPN list", made(extension{extALPN, []byte{0, 0}}), WhyMalformed},
	{"empty protocol", made(extension{extALPN, []byte{0, 1, 0}}), WhyMalformed},
	{"odd supported_versions", made(extension{extSupportedVersions, []byte{3, 3, 4, 3}}), WhyMalformed},
	{"pre_shared_key before another", made(extension{extPreSharedKey, nil}, extension{23, nil}), WhyMalformed},
}

func TestRefusals(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			_, n, err := ParseClientHello(c.bytes)
			bad := (*HelloError)(nil)
			if !errors.As(err, &bad) || bad.Why != c.want || n != 0 {
				t.Fatalf("got %d, %v; want %s", n, err, c.want)
			}
			if bad.Alert == 0 {
				t.Error("no alert to answer")
			}
			for i := range c.bytes {
				if got := verdict(c.bytes[:i]); got != ErrNeedMore.Error() && got != err.Error() {
					t.Fatalf("first %d bytes: %s", i, got)
				}
			}
		})
	}
}

func TestAcceptedThoughUnusual(t *testing.T) {
	bare := message(0x0301)
	bare = bare[:len(bare)-2] // without the field of extensions
	bare[3] -= 2
	for _, c := range []struct {
		name  string
		bytes []byte
		want  string // fields of the Hello
	}{
		{"TLS 1.0 without extensions", record(bare), `"" 0301 false`},
		{"empty list of extensions", made(), `"" 0303 false`},
		{"GREASE among the versions", made(extension{extSupportedVersions, []byte{6, 0x7a, 0x7a, 3, 4, 3, 3}}), `"" 0304 false`},
		{"GREASE ECH", made(serverName("a.example"), extension{extECH, make([]byte, 200)}), `"a.example" 0303 true`},
		{"trailing dot, which policy strips", made(serverName("a.example.")), `"a.example." 0303 false`},
		{"digits and letters", made(serverName("1.2.3.4a")), `"1.2.3.4a" 0303 false`},
		{"label that begins like a hexadecimal number", made(serverName("a.0xyz")), `"a.0xyz" 0303 false`},
		{"as many unknown extensions as may be", made(strange(maxStrange)...), `"" 0303 false`},
		{"pre_shared_key last", made(serverName("a.example"), extension{extPreSharedKey, nil}), `"a.example" 0303 false`},
	} {
		h, n, err := ParseClientHello(c.bytes)
		if err != nil || n != len(c.bytes) {
			t.Errorf("%s: %d, %v", c.name, n, err)
		}
		if got := fmt.Sprintf("%q %04x %v", h.ServerName, h.MaxVersion, h.ECH); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
