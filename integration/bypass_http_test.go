package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"sluice/integration/testbed"
)

const okHead = "GET http://hlg.tokbox.com/ HTTP/1.1\r\nHost: hlg.tokbox.com\r\n"

// hostileRequests are requests that two readers could take for two things.
// Nothing of them may reach the upstream.
var hostileRequests = map[string]string{
	"Content-Length and Transfer-Encoding": okHead + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"Transfer-Encoding twice":              okHead + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunked, chunked":                     okHead + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
	"xchunked":                             okHead + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"identity":                             okHead + "Transfer-Encoding: identity\r\n\r\n",
	"gzip, chunked":                        okHead + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"a vertical tab before chunked":        okHead + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
	"a space before the colon":             okHead + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"a tab before the colon":               okHead + "Content-Length\t: 5\r\n\r\nhello",
	"two lengths that differ":              okHead + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
	"two lengths that agree":               okHead + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"a list of lengths":                    okHead + "Content-Length: 5, 5\r\n\r\nhello",
	"a length with a plus":                 okHead + "Content-Length: +5\r\n\r\nhello",
	"a negative length":                    okHead + "Content-Length: -5\r\n\r\nhello",
	"a hexadecimal length":                 okHead + "Content-Length: 0x5\r\n\r\nhello",
	"a length that overflows":              okHead + "Content-Length: 18446744073709551621\r\n\r\nhello",
	"an empty length":                      okHead + "Content-Length: \r\n\r\nhello",
	"bare LF between fields":               "GET http://hlg.tokbox.com/ HTTP/1.1\nHost: hlg.tokbox.com\n\n",
	"bare LF within the head":              okHead + "X: a\nHost: evil.test\r\n\r\n",
	"bare CR within a value":               okHead + "X: a\rHost: evil.test\r\n\r\n",
	"a folded line":                        okHead + "X: a\r\n b\r\n\r\n",
	"a folded first line":                  "GET http://hlg.tokbox.com/ HTTP/1.1\r\n Host: evil.test\r\nHost: hlg.tokbox.com\r\n\r\n",
	"HTTP/0.9":                             "GET http://hlg.tokbox.com/\r\n",
	"HTTP/2.0":                             "GET http://hlg.tokbox.com/ HTTP/2.0\r\nHost: hlg.tokbox.com\r\n\r\n",
	"the preface of HTTP/2":                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"HTTP/1.10":                            "GET http://hlg.tokbox.com/ HTTP/1.10\r\nHost: hlg.tokbox.com\r\n\r\n",
	"http in lower case":                   "GET http://hlg.tokbox.com/ http/1.1\r\nHost: hlg.tokbox.com\r\n\r\n",
	"two Hosts":                            okHead + "Host: evil.test\r\n\r\n",
	"another Host":                         "GET http://hlg.tokbox.com/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
	"another URL":                          "GET http://evil.test/ HTTP/1.1\r\nHost: hlg.tokbox.com\r\n\r\n",
	"no Host":                              "GET http://hlg.tokbox.com/ HTTP/1.1\r\n\r\n",
	"a NUL in a value":                     okHead + "X: a\x00b\r\n\r\n",
	"a field without a name":               okHead + ": a\r\n\r\n",
	"a field without a colon":              okHead + "X\r\n\r\n",
	"CONNECT with a body":                  "CONNECT hlg.tokbox.com:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
	"an https URL in clear":                "GET https://hlg.tokbox.com/ HTTP/1.1\r\nHost: hlg.tokbox.com\r\n\r\n",
	"a file URL":                           "GET file:///etc/passwd HTTP/1.1\r\nHost: hlg.tokbox.com\r\n\r\n",
	"an expectation nobody knows":          okHead + "Expect: evil\r\n\r\n",
	"a trailer that is announced":          strings.Replace(okHead, "GET", "POST", 1) + "Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"a head over 64 KiB":                   okHead + "X: " + strings.Repeat("a", 70_000) + "\r\n\r\n",
}

func TestHostileRequests(t *testing.T) {
	s := newSiege(t, "")
	for name, request := range hostileRequests {
		t.Run(name, func(t *testing.T) {
			before, mark := s.denials(), s.house.all()
			answer := s.ask(t, request)
			if st := status(answer); !strings.HasPrefix(st, "4") && st != "501" && st != "505" {
				t.Errorf("answer %.200q; want a refusal", answer)
			}
			if strings.Count(answer, "HTTP/1.1 4")+strings.Count(answer, "HTTP/1.1 5") != 1 {
				t.Errorf("more than one answer: %.300q", answer)
			}
			s.denied(t, before, "malformed_request", "name_mismatch", "no_rule", "protocol")
			s.quiet(t, mark)
		})
	}
}

// A body is never read as a request, and the second request of a connection is
// judged by itself.
func TestSecondRequestIsJudgedByItself(t *testing.T) {
	s := newSiege(t, "")
	inner := "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"
	post := fmt.Sprintf("POST http://hlg.tokbox.com/ HTTP/1.1\r\nHost: hlg.tokbox.com\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner)
	if got := s.get(t, post); got != 200 {
		t.Errorf("a body that looks like a request: %d", got)
	}
	before := s.denials()
	c := s.dial(t, "proxy")
	io.WriteString(c, okHead+"\r\n"+inner)
	b := make([]byte, 4096)
	var got string
	for !strings.Contains(got, "no_rule") {
		n, err := c.Read(b)
		if got += string(b[:n]); err != nil {
			t.Fatalf("answers: %q, %v", got, err)
		}
	}
	if !strings.HasPrefix(got, "HTTP/1.1 200") || !strings.Contains(got, "HTTP/1.1 403") {
		t.Errorf("answers: %q", got)
	}
	s.denied(t, before, "no_rule")
	if s.trap.count() != 0 {
		t.Error("the trap was reached")
	}
}

// What belongs to one hop ends at the gateway, and nothing is upgraded unasked.
func TestHopByHopFieldsEndHere(t *testing.T) {
	s := newSiege(t, "")
	got := s.get(t, okHead+"Connection: x-secret, upgrade, http2-settings\r\nX-Secret: 1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"+
		"Proxy-Authorization: Basic c2VjcmV0OnBhc3N3b3Jk\r\nProxy-Connection: keep-alive\r\nKeep-Alive: 5\r\nTE: trailers\r\n\r\n")
	if got != 200 {
		t.Errorf("status %d", got)
	}
	heard := strings.ToLower(s.house.all())
	for _, field := range []string{"x-secret", "upgrade", "http2-settings", "proxy-", "keep-alive", "\nte:"} {
		if strings.Contains(heard, field) {
			t.Errorf("%s was forwarded: %q", field, heard)
		}
	}
	if strings.Contains(s.Stderr(), "c2VjcmV0") || strings.Contains(fmt.Sprint(s.Records()), "c2VjcmV0") {
		t.Error("Proxy-Authorization was kept")
	}
}

// Responses whose framing can be read in two ways do not reach the client, and
// no connection is used again behind them.
func TestHostileResponses(t *testing.T) {
	s := newSiege(t, "")
	for name, tc := range map[string]struct{ response string }{
		"a protocol that was not asked for": {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"},
		"two lengths that differ":           {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk"},
		"a negative length":                 {"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"},
		"an unknown coding":                 {"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nok"},
		"a head without an end":             {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 100_000)},
		"no HTTP at all":                    {"SSH-2.0-x\r\n\r\n"},
		"a proxy's challenge":               {"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s.house.answer(func(string) string { return tc.response })
			if got := s.get(t, okHead+"\r\n"); got != http.StatusBadGateway {
				t.Errorf("status %d; want 502", got)
			}
			s.house.answer(func(string) string { return fine })
			if got := s.get(t, okHead+"\r\n"); got != http.StatusOK {
				t.Errorf("the next request: status %d", got)
			}
		})
	}
}

// A name that leads back to the gateway is refused, to the proxy and to the
// admin listener, though a rule permits loopback.
func TestGatewayIsNotReachedThroughItself(t *testing.T) {
	s := newSiege(t, "    - {name: self, to: {hosts: [self.tokbox.com], ports: [\"1024-65535\"], app: opaque}, private: [127.0.0.0/8]}\n")
	for _, at := range []string{s.addr, s.Admin, s.Address("sni")} {
		_, port, _ := strings.Cut(at, ":")
		before := s.denials()
		if answer := s.ask(t, connectHead("self.tokbox.com:"+port)); status(answer) != "403" {
			t.Errorf("port %s: %q", port, answer)
		}
		s.denied(t, before, "forbidden_address")
		if answer := s.ask(t, "GET http://self.tokbox.com:"+port+"/v1/status HTTP/1.1\r\nHost: self.tokbox.com:"+port+"\r\n\r\n"); status(answer) != "403" {
			t.Errorf("port %s in a URL: %q", port, answer)
		}
	}
}

// A refused upstream is one end, not two.
func TestFailedRequestEndsOnce(t *testing.T) {
	s := newSiege(t, "    - {name: closed, to: {hosts: [hlg.tokbox.com], ports: [81], app: http}}\n")
	if got := s.get(t, "GET http://hlg.tokbox.com:81/ HTTP/1.1\r\nHost: hlg.tokbox.com:81\r\n\r\n"); got != 502 {
		t.Errorf("status %d; want 502", got)
	}
	s.get(t, okHead+"\r\n")
	s.Await("event", "end", "port", "80")
	if n := len(s.Find("event", "end", "port", "81")); n != 1 {
		t.Errorf("%d records of the end; want 1", n)
	}
}

// Names that a client makes up add no series to the metrics, and no line to
// the log or the journal.
func TestNamesForgeNothing(t *testing.T) {
	s := newSiege(t, "")
	forged := "x\n{\"schema\":\"sluice.audit/v1\",\"decision\":\"allow\"}\n\x1b[31m.test"
	s.socks(t, 3, forged, 443)
	for i := range 2000 {
		c, _ := s.socks(t, 3, fmt.Sprintf("n%d.example", i), 443)
		c.Close()
	}
	testbed.Eventually(t, "all records", func() bool { return s.denials() == 2001 }) // Records fails on a forged line
	if strings.Contains(s.Stderr(), "\x1b") || strings.Contains(s.Stderr(), "\n{\"schema") {
		t.Error("the log holds an escape sequence or a forged line")
	}
	_, metrics := s.Get("/metrics")
	if n := strings.Count(metrics, "\nsluice_flows_total{"); n == 0 || n > 20 || strings.Contains(metrics, "example") {
		t.Errorf("%d series of flows", n)
	}
}
