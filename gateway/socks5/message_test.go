package socks5

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// maxRequest is the length of the longest request: a name of 255 bytes.
const maxRequest = 5 + 255 + 2

// FuzzParseRequest checks that the verdict depends on the bytes and not on how
// they arrive, and that a request says again what was read from it.
func FuzzParseRequest(f *testing.F) {
	for _, address := range []string{name("a.example"), name("x"), "\x01\xc0\x00\x02\x01", "\x04aaaabbbbccccdddd", "\x02aaaa", name("")} {
		f.Add([]byte(request5(commandConnect, address, 443)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := parseRequest(b)
		if err == errNeedMore && len(b) >= maxRequest {
			t.Fatalf("%d bytes are not enough", len(b))
		}
		for i := range min(len(b), maxRequest+1) {
			part, partN, partErr := parseRequest(b[:i])
			if partErr == errNeedMore {
				continue
			}
			if part != r || partN != n || (partErr == nil) != (err == nil) {
				t.Fatalf("%+v, %v; but %+v, %v of the first %d bytes", r, err, part, partErr, i)
			}
		}
		if err != nil {
			return
		}
		address := name(r.host)
		if b[3] != addressName {
			address = string([]byte{b[3]}) + string(netip.MustParseAddr(r.host).AsSlice())
		}
		again := []byte(request5(r.command, address, r.port))
		again[2] = b[2]
		if string(again) != string(b[:n]) {
			t.Fatalf("%q was read as %+v, which is %q", b[:n], r, again)
		}
		if binary.BigEndian.Uint16(b[n-2:]) != r.port {
			t.Fatalf("port %d of %q", r.port, b[:n])
		}
	})
}
