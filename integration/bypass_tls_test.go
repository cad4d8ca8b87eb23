package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// ext is one extension of a ClientHello.
type ext struct {
	id   uint16
	body []byte
}

func u16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

func sized(parts ...[]byte) []byte {
	b := bytes.Join(parts, nil)
	return append(u16(len(b)), b...)
}

func sni(names ...string) ext {
	var list []byte
	for _, n := range names {
		list = append(append(list, 0), sized([]byte(n))...)
	}
	return ext{0, sized(list)}
}

// message is a ClientHello as a handshake message.
func message(exts ...ext) []byte {
	exts = append(exts, ext{43, []byte{4, 3, 4, 3, 3}}, ext{10, sized([]byte{0, 29})}, ext{13, sized([]byte{4, 3})})
	var all []byte
	for _, e := range exts {
		all = append(append(all, u16(int(e.id))...), sized(e.body)...)
	}
	body := slices.Concat([]byte{3, 3}, make([]byte, 32), []byte{0}, sized([]byte{0x13, 1}), []byte{1, 0}, sized(all))
	return append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}

func tlsRecord(kind byte, body []byte) []byte {
	return slices.Concat([]byte{kind, 3, 1}, sized(body))
}

func hello(exts ...ext) []byte { return tlsRecord(22, message(exts...)) }

// strange are extensions that no server knows and every server skips.
func strange(n int) (list []ext) {
	for i := range n {
		list = append(list, ext{uint16(0x4000 + i), nil})
	}
	return list
}

func split(m []byte, size int) (b []byte) {
	for chunk := range slices.Chunk(m, size) {
		b = append(b, tlsRecord(22, chunk)...)
	}
	return b
}

var evil = sni("evil.test")

// hostileHellos are ClientHellos that name, to some reader, another host than
// the allowed one. The first of the reasons is that of the TLS door.
var hostileHellos = map[string]struct {
	bytes   []byte
	reasons []string
}{
	"another name":                           {hello(evil), []string{"no_rule", "name_mismatch"}},
	"another name in capitals":               {hello(sni("EVIL.TEST")), []string{"no_rule", "name_mismatch"}},
	"no name":                                {hello(), []string{"no_name"}},
	"no extensions at all":                   {tlsRecord(22, bareHello()), []string{"no_name"}},
	"an address as name":                     {hello(sni("127.78.0.66")), []string{"malformed_name"}},
	"an IPv6 address as name":                {hello(sni("::1")), []string{"malformed_name"}},
	"a NUL in the name":                      {hello(sni("hlg.tokbox.com\x00.evil.test")), []string{"malformed_name"}},
	"a NUL behind the allowed name":          {hello(sni("hlg.tokbox.com\x00")), []string{"malformed_name"}},
	"a space in the name":                    {hello(sni("hlg.tokbox.com ")), []string{"malformed_name"}},
	"an empty name":                          {hello(sni("")), []string{"malformed_name"}},
	"an empty list of names":                 {hello(ext{0, sized(nil)}), []string{"malformed_name"}},
	"two names, the allowed one first":       {hello(sni("hlg.tokbox.com", "evil.test")), []string{"malformed_name"}},
	"two names, the allowed one last":        {hello(sni("evil.test", "hlg.tokbox.com")), []string{"malformed_name"}},
	"a name of another type first":           {hello(ext{0, sized(append([]byte{1}, sized([]byte("evil.test"))...), append([]byte{0}, sized([]byte("hlg.tokbox.com"))...))}), []string{"malformed_name"}},
	"two SNI extensions":                     {hello(sni("hlg.tokbox.com"), evil), []string{"malformed_request"}},
	"two SNI extensions, turned round":       {hello(evil, sni("hlg.tokbox.com")), []string{"malformed_request"}},
	"two trailing dots":                      {hello(sni("hlg.tokbox.com..")), []string{"malformed_name", "name_mismatch"}},
	"another name behind 40 strange ones":    {hello(append(strange(40), evil)...), []string{"malformed_request"}},
	"another name in two records":            {split(message(evil), 40), []string{"no_rule", "name_mismatch"}},
	"another name in records of one byte":    {split(message(evil), 1), []string{"no_rule", "name_mismatch"}},
	"another name over 16 KiB":               {split(message(ext{0x4444, make([]byte, 20_000)}, evil), 1<<14), []string{"no_rule", "name_mismatch"}},
	"over 64 KiB":                            {split(big(message(ext{0x4444, make([]byte, 65_450)}, evil)), 1<<14), []string{"malformed_request"}},
	"an empty record in front":               {append(tlsRecord(22, nil), hello(evil)...), []string{"malformed_request"}},
	"an empty record inside":                 {slices.Concat(tlsRecord(22, message(evil)[:20]), tlsRecord(22, nil), tlsRecord(22, message(evil)[20:])), []string{"malformed_request"}},
	"a record of 16 KiB and one":             {tlsRecord(22, append(message(evil), make([]byte, 1<<14)...)), []string{"malformed_request"}},
	"an alert between two records":           {slices.Concat(tlsRecord(22, message(evil)[:20]), tlsRecord(21, []byte{1, 0}), tlsRecord(22, message(evil)[20:])), []string{"malformed_request"}},
	"a second message in the record":         {tlsRecord(22, append(message(evil), 1, 0, 0, 0)), []string{"malformed_request"}},
	"a length that is too long":              {tlsRecord(22, lied(message(evil), 8)), []string{"malformed_request"}},
	"a length that is too short":             {tlsRecord(22, lied(message(evil), -8)), []string{"malformed_request"}},
	"another handshake message first":        {append(tlsRecord(22, []byte{0, 0, 0, 0}), hello(evil)...), []string{"malformed_request"}},
	"the allowed name outside of a real ECH": {hello(sni("cloudflare-ech.com"), ext{0xfe0d, make([]byte, 200)}), []string{"no_rule", "name_mismatch"}},
}

func bareHello() []byte {
	body := slices.Concat([]byte{3, 1}, make([]byte, 32), []byte{0}, sized([]byte{0, 0x2f}), []byte{1, 0})
	return append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}

// big mends the length of a message whose extensions are over 64 KiB.
func big(m []byte) []byte {
	n := len(m) - 4
	m[1], m[2], m[3] = byte(n>>16), byte(n>>8), byte(n)
	return m
}

// lied changes the length that a message gives itself.
func lied(m []byte, by int) []byte {
	binary.BigEndian.PutUint16(m[2:], uint16(len(m)-4+by))
	return m
}

// cuts are ways to send the same bytes.
var cuts = map[string]func(n int) []int{
	"in one piece":     func(n int) []int { return []int{n} },
	"byte by byte":     func(n int) []int { return slices.Repeat([]int{1}, min(n, 300)) },
	"the first alone":  func(n int) []int { return []int{1, n - 1} },
	"cut at the fifth": func(n int) []int { return []int{5, n - 5} },
}

// sendCut writes b in pieces, each in a segment of its own.
func sendCut(c net.Conn, b []byte, sizes []int) {
	for _, n := range sizes {
		n = min(n, len(b))
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
	c.Write(b)
}

// refusedTLS wants a fatal alert and then the end.
func refusedTLS(t *testing.T, c net.Conn) {
	t.Helper()
	b, err := io.ReadAll(c)
	if len(b) == 0 && strings.Contains(t.Name(), "too_long") {
		return // the TLS door resets a client that never finishes its hello
	}
	if len(b) != 7 || b[0] != 21 || b[5] != 2 {
		t.Errorf("answer % x, %v; want a fatal TLS alert", b, err)
	}
}

// The same bytes get the same verdict at the TLS door, whatever the segments.
func TestHostileHellosAtTheTLSDoor(t *testing.T) {
	s := newSiege(t, "")
	for name, tc := range hostileHellos {
		for how, cut := range cuts {
			t.Run(name+" "+how, func(t *testing.T) {
				before, mark := s.denials(), s.house.all()
				c := s.dial(t, "sni")
				sendCut(c, tc.bytes, cut(len(tc.bytes)))
				refusedTLS(t, c)
				s.denied(t, before, tc.reasons[0])
				s.quiet(t, mark)
			})
		}
	}
	for name, first := range map[string]string{
		"SSLv2": "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", "an alert first": "\x15\x03\x01\x00\x02\x01\x00",
		"application data first": "\x17\x03\x03\x00\x01a", "HTTP": "GET / HTTP/1.1\r\nHost: hlg.tokbox.com\r\n\r\n", "SSH": "SSH-2.0-x\r\n",
		"TLS of another major version": "\x16\x02\x00\x00\x10",
	} {
		t.Run(name, func(t *testing.T) {
			before, mark := s.denials(), s.house.all()
			c := s.dial(t, "sni")
			io.WriteString(c, first)
			io.ReadAll(c)
			s.denied(t, before, "protocol", "malformed_request")
			s.quiet(t, mark)
		})
	}
}

// An allowed name outside does not carry another one inside, on 443 and on a
// port where other protocols than TLS are allowed too.
func TestHostileHellosInsideTunnels(t *testing.T) {
	s := newSiege(t, "")
	doors := map[string]func(t *testing.T, port uint16) net.Conn{
		"CONNECT": func(t *testing.T, port uint16) net.Conn { return s.tunnelTo(t, fmt.Sprintf("hlg.tokbox.com:%d", port)) },
		"SOCKS": func(t *testing.T, port uint16) net.Conn {
			c, reply := s.socks(t, 3, "hlg.tokbox.com", port)
			if reply != 0 {
				t.Fatalf("SOCKS reply %d", reply)
			}
			return c
		},
	}
	for name, tc := range hostileHellos {
		for door, open := range doors {
			for _, port := range []uint16{443, 8443} {
				if port != 443 && slices.Contains(tc.reasons, "no_name") {
					continue // allowed there
				}
				t.Run(fmt.Sprintf("%s in %s on %d", name, door, port), func(t *testing.T) {
					before, mark := s.denials(), s.house.all()
					c := open(t, port)
					sendCut(c, tc.bytes, []int{3, 4})
					refusedTLS(t, c)
					s.denied(t, before, tc.reasons[len(tc.reasons)-1])
					s.quiet(t, mark)
				})
			}
		}
	}
}

// A client that stops within its first bytes is not judged by those alone: the
// rest could name another host.
func TestStallWithinTheFirstBytes(t *testing.T) {
	s := newSiege(t, "    - {name: starttls, to: {hosts: [\"*.tokbox.com\"], ports: [8080], app: smtp}}\n")
	for _, tc := range []struct {
		name, target string
		first, rest  string
		reasons      []string
	}{
		{"one byte of TLS on 443", "hlg.tokbox.com:443", "\x16", string(hello(evil)[1:]), []string{"malformed_request"}},
		{"one byte of TLS on 8443", "hlg.tokbox.com:8443", "\x16", string(hello(evil)[1:]), []string{"malformed_request"}},
		{"half a hello on 8443", "hlg.tokbox.com:8443", string(hello(evil)[:30]), string(hello(evil)[30:]), []string{"malformed_request"}},
		{"a letter of HTTP on 443", "hlg.tokbox.com:443", "G", "ET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", []string{"protocol"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before, mark := s.denials(), s.house.all()
			c := s.tunnelTo(t, tc.target)
			io.WriteString(c, tc.first)
			stall := time.NewTimer(2500 * time.Millisecond) // longer than handshake_timeout
			<-stall.C
			io.WriteString(c, tc.rest)
			io.ReadAll(c)
			s.denied(t, before, tc.reasons...)
			s.quiet(t, mark)
		})
	}
}

// TLS inside an allowed tunnel inside TLS to the proxy, and a hello that comes
// long after the tunnel was opened, are judged as any other.
func TestHelloInsideTLSToTheProxy(t *testing.T) {
	s := newSiege(t, "")
	before, mark := s.denials(), s.house.all()
	c := tls.Client(s.dial(t, "secure"), &tls.Config{RootCAs: s.ca.Pool(), ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}})
	fmt.Fprint(c, "CONNECT hlg.tokbox.com:443 HTTP/1.1\r\nHost: hlg.tokbox.com:443\r\n\r\n")
	answer := make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n"))
	if _, err := io.ReadFull(c, answer); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Fatalf("CONNECT: %q %v", answer, err)
	}
	late := time.NewTimer(2500 * time.Millisecond)
	<-late.C
	c.Write(hello(evil))
	refusedTLS(t, c)
	s.denied(t, before, "name_mismatch")
	s.quiet(t, mark)
}

// What follows CONNECT in the same segment is kept, and judged.
func TestEarlyDataBehindConnect(t *testing.T) {
	s := newSiege(t, "")
	before, mark := s.denials(), s.house.all()
	answer := s.ask(t, "CONNECT hlg.tokbox.com:443 HTTP/1.1\r\nHost: x\r\n\r\n"+string(hello(evil)))
	if !strings.HasPrefix(answer, "HTTP/1.1 200") || !strings.HasSuffix(answer, "\x15\x03\x03\x00\x02\x02\x31") {
		t.Errorf("answer %q; want 200 and an alert", answer)
	}
	s.denied(t, before, "name_mismatch")
	s.quiet(t, mark)
	s.ask(t, "CONNECT hlg.tokbox.com:443 HTTP/1.1\r\nHost: x\r\n\r\n"+string(hello(sni("hlg.tokbox.com"))))
	if got := strings.TrimPrefix(s.house.all(), mark); got != string(hello(sni("hlg.tokbox.com"))) {
		t.Errorf("the upstream heard %q; want the hello, whole", got)
	}
}
