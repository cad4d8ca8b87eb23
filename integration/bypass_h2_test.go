package integration

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 opens one stream with raw fields (name, value, …) on the HTTPS listener
// and returns the status, or "reset" or "goaway".
func (s *siege) h2(t *testing.T, fields ...string) string {
	t.Helper()
	c := tls.Client(s.dial(t, "secure"), &tls.Config{RootCAs: s.ca.Pool(), ServerName: "127.0.0.1", NextProtos: []string{"h2"}})
	io.WriteString(c, http2.ClientPreface)
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	fr.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: fields[1] != http.MethodConnect})
	for {
		frame, err := fr.ReadFrame()
		if err != nil {
			return "goaway"
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "goaway"
		}
	}
}

// What an HTTP/2 request is decided on is what is dialled and sent on.
func TestHostileHTTP2(t *testing.T) {
	s := newSiege(t, "")
	for name, fields := range map[string][]string{
		"CONNECT to a denied name":        {":method", "CONNECT", ":authority", "evil.test:443"},
		"CONNECT with a user":             {":method", "CONNECT", ":authority", "hlg.tokbox.com@evil.test:443"},
		"CONNECT with a port over 65535":  {":method", "CONNECT", ":authority", "hlg.tokbox.com:4294967739"},
		"CONNECT without a port":          {":method", "CONNECT", ":authority", "hlg.tokbox.com"},
		"CONNECT with a path":             {":method", "CONNECT", ":authority", "hlg.tokbox.com:443", ":path", "/"},
		"extended CONNECT":                {":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "hlg.tokbox.com", ":path", "/"},
		"another Host":                    {":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com", ":path", "/", "host", "evil.test"},
		"another authority":               {":method", "GET", ":scheme", "http", ":authority", "evil.test", ":path", "/", "host", "hlg.tokbox.com"},
		"a path that continues the name":  {":method", "GET", ":scheme", "http", ":authority", "evil.test", ":path", "x.tokbox.com:80/"},
		"a path that is a URL":            {":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com", ":path", "http://evil.test/"},
		"an authority with a path":        {":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com/@evil.test", ":path", "/"},
		"an authority with a query":       {":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com?", ":path", "/"},
		"an authority with a fragment":    {":method", "GET", ":scheme", "http", ":authority", "evil.test#.tokbox.com", ":path", "/"},
		"two authorities":                 {":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com", ":authority", "evil.test", ":path", "/"},
		"a name in upper case":            {":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com", ":path", "/", "Host", "evil.test"},
		"a field that belongs to the hop": {":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com", ":path", "/", "transfer-encoding", "chunked"},
		"a line end in a value":           {":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com", ":path", "/", "x", "a\r\nHost: evil.test"},
		"an https URL":                    {":method", "GET", ":scheme", "https", ":authority", "hlg.tokbox.com", ":path", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			mark := s.house.all()
			if got := s.h2(t, fields...); !strings.HasPrefix(got, "4") && got != "501" && got != "reset" && got != "goaway" {
				t.Errorf("answer %s; want a refusal", got)
			}
			s.quiet(t, mark)
		})
	}
	if got := s.h2(t, ":method", "GET", ":scheme", "http", ":authority", "hlg.tokbox.com", ":path", "/"); got != "200" {
		t.Errorf("an honest request: %s", got)
	}
}

// No web page reaches the admin listener by a name of its own, or changes
// anything there.
func TestAdminIsNotForWebPages(t *testing.T) {
	s := newSiege(t, "")
	ask := func(head string) string {
		c := s.dial(t, "admin")
		io.WriteString(c, head+"Connection: close\r\n\r\n")
		b, _ := io.ReadAll(c)
		return status(string(b))
	}
	s.Addresses["admin"] = s.Admin
	for name, tc := range map[string]struct{ head, want string }{
		"a name that was rebound":        {"GET /v1/flows HTTP/1.1\r\nHost: evil.test\r\n", "421"},
		"a name that looks like address": {"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1.evil.test\r\n", "421"},
		"no Host":                        {"GET /metrics HTTP/1.0\r\n", "421"},
		"a form of another site":         {"POST /quitquitquit HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.test\r\nContent-Length: 0\r\n", "403"},
		"a sandboxed page":               {"POST /v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: null\r\nContent-Length: 0\r\n", "403"},
		"a page that says cross-site":    {"POST /v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 0\r\n", "403"},
		"a GET that would stop it":       {"GET /quitquitquit HTTP/1.1\r\nHost: 127.0.0.1\r\n", "405"},
		"an honest question":             {"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n", "200"},
	} {
		if got := ask(tc.head); got != tc.want {
			t.Errorf("%s: %s; want %s", name, got, tc.want)
		}
	}
}

// A rule on paths is about the path as it is sent on.
func TestPathsAreJudgedAsWritten(t *testing.T) {
	s := newSiege(t, "    - {name: crl, to: {hosts: [evil.test], ports: [80], app: http, methods: [GET], paths: [/public/*, /a/b]}}\n")
	for path, want := range map[string]int{
		"/a/b": 200, "/public/x": 200, "/a%2fb": 403, "/public%2fx": 403, "/%70ublic/x": 403, "//public/x": 403, "/public/..%2fx": 400,
		"/public/%2e%2e/x": 400, "/public/..;/x": 403, "/public/a%00": 403, `/public\x`: 403, "/PUBLIC/x": 403,
	} {
		if got := s.get(t, "GET http://evil.test"+path+" HTTP/1.1\r\nHost: evil.test\r\n\r\n"); got != want {
			t.Errorf("%s: %d; want %d", path, got, want)
		}
	}
	if got := s.get(t, "POST http://evil.test/a/b HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 0\r\n\r\n"); got != 403 {
		t.Errorf("another method: %d", got)
	}
	// Inside a tunnel neither method nor path is known.
	before := s.denials()
	s.ask(t, connectHead("evil.test:80")+"GET /a/b HTTP/1.1\r\nHost: evil.test\r\n\r\n")
	s.denied(t, before, "request")
}
