package httpproxy

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func TestParseHead(t *testing.T) {
	for name, c := range map[string]struct {
		in           string
		form         Form
		host         string
		port         uint16
		path, header string
	}{
		"connect":                      {"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", FormAuthority, "a.test", 443, "", "a.test"},
		"connect with HTTP/1.0":        {"CONNECT a.test:443 HTTP/1.0\r\n\r\n", FormAuthority, "a.test", 443, "", ""},
		"connect, Host without port":   {"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", FormAuthority, "a.test", 443, "", "a.test"},
		"connect, other Host":          {"CONNECT a.test:443 HTTP/1.1\r\nHost: b.test\r\n\r\n", FormAuthority, "a.test", 443, "", "b.test"},
		"connect to IPv6":              {"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n", FormAuthority, "2001:db8::1", 443, "", "2001:db8::1"},
		"connect, length 0":            {"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", FormAuthority, "a.test", 443, "", "a.test"},
		"absolute":                     {"GET http://a.test/x?y=/../z HTTP/1.1\r\nHost: a.test\r\n\r\n", FormAbsolute, "a.test", 80, "/x?y=/../z", "a.test"},
		"absolute without path":        {"GET HTTP://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", FormAbsolute, "a.test", 80, "", "a.test"},
		"absolute with port":           {"GET http://a.test:8080?q HTTP/1.1\r\nhOST:a.test:8080 \r\n\r\n", FormAbsolute, "a.test", 8080, "?q", "a.test"},
		"absolute, not a host name":    {"GET http://a_b!/ HTTP/1.0\r\n\r\n", FormAbsolute, "a_b!", 80, "/", ""},
		"dots that are no dot segment": {"GET http://a.test/a..b/.c/... HTTP/1.0\r\n\r\n", FormAbsolute, "a.test", 80, "/a..b/.c/...", ""},
		"origin":                       {"GET /proxy.pac HTTP/1.1\r\nHost: proxy.test:3128\r\n\r\n", FormOrigin, "", 0, "/proxy.pac", "proxy.test"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := ParseHead(c.in)
			if err != nil {
				t.Fatalf("ParseHead(%q): %v", c.in, err)
			}
			if h.Form != c.form || h.Host != c.host || h.Port != c.port || h.Path != c.path || h.HostField != c.header {
				t.Errorf("ParseHead(%q) = form %d host %q port %d path %q Host %q; want %+v", c.in, h.Form, h.Host, h.Port, h.Path, h.HostField, c)
			}
		})
	}
}

// malformedHeads are shapes that two readers could take for two things, or
// that are no request at all. Each is one way past a gate that was seen
// somewhere.
var malformedHeads = map[string]struct {
	in     string
	status int
}{
	"bare LF line ends":              {"GET http://a.test/ HTTP/1.1\nHost: a.test\n\n", 400},
	"bare LF before the end":         {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: y\n\r\n", 400},
	"bare CR in a value":             {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: y\rz\r\n\r\n", 400},
	"CR CR LF":                       {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\r\n\r\n", 400},
	"folded line":                    {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: y\r\n z\r\n\r\n", 400},
	"first header folded":            {"GET http://a.test/ HTTP/1.1\r\n Host: a.test\r\n\r\n", 400},
	"space before colon":             {"GET http://a.test/ HTTP/1.1\r\nHost : a.test\r\n\r\n", 400},
	"tab in name":                    {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length\t: 3\r\n\r\n", 400},
	"header without colon":           {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX\r\n\r\n", 400},
	"empty header name":              {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n: x\r\n\r\n", 400},
	"NUL in value":                   {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: a\x00b\r\n\r\n", 400},
	"NUL in host":                    {"GET http://a.test\x00.evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"escape sequence in value":       {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: \x1b[2J\r\n\r\n", 400},
	"two Host":                       {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n", 400},
	"no Host":                        {"GET http://a.test/ HTTP/1.1\r\n\r\n", 400},
	"empty Host":                     {"GET http://a.test/ HTTP/1.1\r\nHost:\r\n\r\n", 400},
	"Host with user":                 {"GET http://a.test/ HTTP/1.1\r\nHost: a.test@evil.test\r\n\r\n", 400},
	"Host list":                      {"GET http://a.test/ HTTP/1.1\r\nHost: a.test evil.test\r\n\r\n", 400},
	"Content-Length beside chunked":  {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
	"two Content-Length":             {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400},
	"two equal Content-Length":       {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 400},
	"Content-Length list":            {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3, 3\r\n\r\n", 400},
	"Content-Length with sign":       {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: +3\r\n\r\n", 400},
	"Content-Length too large":       {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
	"Content-Length empty":           {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length:\r\n\r\n", 400},
	"chunked and more":               {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
	"chunked twice":                  {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
	"chunked with a stray byte":      {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400},
	"xchunked":                       {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: xchunked\r\n\r\n", 501},
	"chunked in HTTP/1.0":            {"POST http://a.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
	"HTTP/0.9":                       {"GET http://a.test/\r\n", 400},
	"HTTP/2.0":                       {"GET http://a.test/ HTTP/2.0\r\nHost: a.test\r\n\r\n", 505},
	"HTTP/1.10":                      {"GET http://a.test/ HTTP/1.10\r\nHost: a.test\r\n\r\n", 400},
	"lower-case version":             {"GET http://a.test/ http/1.1\r\nHost: a.test\r\n\r\n", 400},
	"preface of HTTP/2":              {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
	"two spaces":                     {"GET  http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"tab for space":                  {"GET\thttp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"space in target":                {"GET http://a.test/a b HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"raw UTF-8 in target":            {"GET http://ä.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"method that is no token":        {"G(T http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"origin form":                    {"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"asterisk form":                  {"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"https in clear":                 {"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 501},
	"ftp":                            {"GET ftp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 501},
	"authority form without CONNECT": {"GET a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"user in URL":                    {"GET http://a.test@evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400},
	"fragment":                       {"GET http://evil.test#.a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"fragment behind the query":      {"GET http://a.test/?x#y HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"backslash in authority":         {"GET http://evil.test\\.a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"percent-encoded host":           {"GET http://a%2etest/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"empty host in URL":              {"GET http:///x HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"dot segments":                   {"GET http://a.test/open/../closed HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"encoded dot segments":           {"GET http://a.test/open/%2e%2E/closed HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"encoded slash in dot segments":  {"GET http://a.test/open/x%2f..%2f..%2fclosed HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"stray percent sign":             {"GET http://a.test/%zz HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"connect without port":           {"CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"connect with empty port":        {"CONNECT a.test: HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"connect to port 0":              {"CONNECT a.test:0 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"connect to port 65536":          {"CONNECT a.test:65536 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"port that overflows 32 bits":    {"CONNECT a.test:4294967739 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"port with sign":                 {"CONNECT a.test:+443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"port with leading zero":         {"CONNECT a.test:0443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"two ports":                      {"CONNECT a.test:443:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"bare IPv6":                      {"CONNECT 2001:db8::1:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"IPv6 with zone":                 {"CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"brackets around a name":         {"CONNECT [a.test]:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"brackets around IPv4":           {"CONNECT [127.0.0.1]:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"bytes behind the bracket":       {"CONNECT [2001:db8::1]evil.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"connect with path":              {"CONNECT a.test:443/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"connect with URL":               {"CONNECT http://a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"connect with user":              {"CONNECT a.test@evil.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400},
	"connect with body":              {"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello", 400},
	"connect with chunked":           {"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
	"WebSocket upgrade with body":    {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}", 400},
}

// TestMalformedOnTheWire sends each malformed head by a raw connection: the
// answer says so at once, nothing is dialled, and the connection ends.
func TestMalformedOnTheWire(t *testing.T) {
	g := newGate(map[string]string{})
	addr, _ := startDoor(t, g, Options{})
	for name, c := range malformedHeads {
		t.Run(name, func(t *testing.T) {
			w := dialWire(t, addr)
			w.send(c.in)
			resp, body := w.response("GET")
			if resp.StatusCode != c.status {
				t.Errorf("%q: got %d %s; want %d", c.in, resp.StatusCode, body, c.status)
			}
			if !strings.Contains(resp.Header.Get("Proxy-Status"), "sluice; error=http_request_error") || !resp.Close {
				t.Errorf("%q: Proxy-Status %q, close %v", c.in, resp.Header.Get("Proxy-Status"), resp.Close)
			}
			if _, err := w.r.ReadByte(); err == nil {
				t.Errorf("%q: the connection goes on", c.in)
			}
		})
	}
	if g.dials != 0 {
		t.Errorf("%d connections were dialled", g.dials)
	}
}

// TestHeadScanPieces gives each head byte by byte: the verdict is the same as
// in one piece.
func TestHeadScanPieces(t *testing.T) {
	heads := []string{"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "CONNECT a.test:443 HTTP/1.0\r\n\r\n"}
	for _, c := range malformedHeads {
		heads = append(heads, c.in)
	}
	accepted := func(in string, step int) bool {
		var s headScan
		for n := step; ; n += step {
			end, fault := s.next([]byte(in[:min(n, len(in))]))
			switch {
			case end > 0:
				_, err := ParseHead(in[:end])
				return err == nil
			case fault != nil, n >= len(in):
				return false
			}
		}
	}
	for _, in := range heads {
		whole := accepted(in, len(in))
		for _, step := range []int{1, 2, 3, 7} {
			if got := accepted(in, step); got != whole {
				t.Errorf("%q: accepted %v in pieces of %d, %v whole", in, got, step, whole)
			}
		}
	}
}

// FuzzRequestHead holds the parser to what it is for: net/http, which reads
// the message after it, must not see another message.
func FuzzRequestHead(f *testing.F) {
	for _, c := range malformedHeads {
		f.Add(c.in)
	}
	f.Add("POST http://a.test:8080/x?y HTTP/1.1\r\nHost: a.test:8080\r\nTransfer-Encoding: chunked\r\nX: \xff\r\n\r\n")
	f.Add("CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		end, fault := new(headScan).next([]byte(in))
		if fault != nil || end == 0 {
			return
		}
		h, err := ParseHead(in[:end])
		if err != nil {
			if fault := (*HeadError)(nil); !errors.As(err, &fault) || fault.Status < 400 || fault.Detail == "" {
				t.Fatalf("%q: error %#v", in, err)
			}
			return
		}
		rest := bufio.NewReader(strings.NewReader(in[:end]))
		r, err := http.ReadRequest(rest)
		if err != nil {
			t.Fatalf("%q: accepted, but net/http says %v", in, err)
		}
		if rest.Buffered() > 0 {
			t.Fatalf("%q: net/http sees another end of the head", in)
		}
		if r.Method != h.Method || r.RequestURI != h.Target || r.ContentLength != h.Length || r.ProtoMinor != h.Minor {
			t.Fatalf("%q: net/http reads %s %q length %d; we %s %q %d", in, r.Method, r.RequestURI, r.ContentLength, h.Method, h.Target, h.Length)
		}
		if h.Form == FormOrigin {
			return
		}
		host, port := r.URL.Hostname(), r.URL.Port()
		if h.Form == FormAuthority {
			host, port, _ = net.SplitHostPort(r.Host)
		}
		if port == "" {
			port = "80"
		}
		if host != h.Host || port != strconv.Itoa(int(h.Port)) {
			t.Fatalf("%q: net/http reads host %q port %q; we %q %d", in, host, port, h.Host, h.Port)
		}
	})
}

func BenchmarkParseHead(b *testing.B) {
	heads := map[string]string{
		"connect":  "CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\nUser-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n",
		"absolute": "GET http://www.example.com/index.html?x=1 HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\nCookie: a=b; c=d\r\nConnection: keep-alive\r\n\r\n",
	}
	for name, head := range heads {
		raw := []byte(head)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				end, _ := new(headScan).next(raw)
				if _, err := ParseHead(string(raw[:end])); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
