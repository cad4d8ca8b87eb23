package sniff

import (
	"testing"
)

var classes = []struct {
	name, bytes string
	want        Kind
}{
	{"nothing", "", KindNeedMore},
	{"TLS 1.0 record of a ClientHello", "\x16\x03\x01\x02\x00\x01", KindTLS},
	{"first byte of TLS", "\x16", KindNeedMore},
	{"handshake type without a version of TLS", "\x16\x02", KindOpaque},
	{"SSL 2.0 ClientHello", "\x80\x2e\x01\x03\x01", KindOpaque},
	{"TLS alert first", "\x15\x03\x01", KindOpaque},
	{"STUN Allocate as Chromium sends it", "\x00\x03\x00\x08\x21\x12\xa4\x42", KindSTUN},
	{"STUN Binding", "\x00\x01\x00\x00\x21\x12\xa4\x42 and more", KindSTUN},
	{"STUN before the end of its cookie", "\x00\x01\x00\x00\x21\x12\xa4", KindNeedMore},
	{"STUN with a length that is no multiple of four", "\x00\x01\x00\x01", KindOpaque},
	{"STUN with another cookie", "\x00\x01\x00\x00\x21\x13", KindOpaque},
	{"TURN ChannelData, never the first message", "\x40\x00\x00\x04abcd", KindOpaque},
	{"RDP", "\x03\x00\x00\x13\x0e\xe0", KindOpaque},
	{"TDS PRELOGIN", "\x12\x01\x00\x2f", KindOpaque},
	{"LDAP", "\x30\x0c\x02\x01", KindOpaque},
	{"SOCKS5 greeting", "\x05\x01\x00", KindSOCKS5},
	{"first byte of SOCKS5", "\x05", KindSOCKS5},
	{"SOCKS4 CONNECT", "\x04\x01\x01\xbb", KindSOCKS4},
	{"first byte of SOCKS4", "\x04", KindNeedMore},
	{"SOCKS4 with no such command", "\x04\x07", KindOpaque},
	{"GET", "GET / HTTP/1.1\r\n", KindHTTP},
	{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\n", KindHTTP},
	{"the longest registered method", "UPDATEREDIRECTREF ", KindHTTP},
	{"M-SEARCH", "M-SEARCH * HTTP/1.1\r\n", KindHTTP},
	{"lower-case method", "get / HTTP/1.1\r\n", KindHTTP},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", KindHTTP},
	{"method without its end", "GET", KindNeedMore},
	{"space first", " GET /", KindOpaque},
	{"line without a space", "QUIT\r\n", KindOpaque},
	{"SSH", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", KindOpaque},
	{"a word with no end in sight", "AAAAAAAAAAAAAAAAAAAAA", KindOpaque},
	{"high bytes", "\xff\xfe", KindOpaque},
}

func TestClassify(t *testing.T) {
	for _, c := range classes {
		if got := Classify([]byte(c.bytes)); got != c.want {
			t.Errorf("%s: Classify(%q) = %v, want %v", c.name, c.bytes, got, c.want)
		}
	}
}

func TestKindsHaveWords(t *testing.T) {
	words := map[string]bool{}
	for k := KindNeedMore; k <= KindOpaque; k++ {
		if words[k.String()] {
			t.Errorf("two kinds are called %q", k)
		}
		words[k.String()] = true
	}
}

// FuzzClassify checks that the answer depends on the bytes and not on how they
// arrive, and comes within MaxClassify bytes.
func FuzzClassify(f *testing.F) {
	for _, c := range classes {
		f.Add([]byte(c.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := Classify(b)
		if whole == KindNeedMore && len(b) >= MaxClassify {
			t.Fatalf("Classify(%q) needs more than %d bytes", b, MaxClassify)
		}
		for i := range b {
			if part := Classify(b[:i]); part != KindNeedMore && part != whole {
				t.Fatalf("Classify(%q) = %v, but %v of its first %d bytes", b, whole, part, i)
			}
		}
	})
}
