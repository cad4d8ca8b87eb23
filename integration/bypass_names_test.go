package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"sluice/integration/testbed"
)

// Names that are not the allowed one, however they are dressed.
var hostileNames = map[string]string{
	"a NUL cuts the name":                    "evil.test\x00.tokbox.com",
	"a NUL behind the name":                  "hlg.tokbox.com\x00.evil.test",
	"a fragment before the allowed suffix":   "evil.test#.tokbox.com",
	"a path before the allowed suffix":       "evil.test/.tokbox.com",
	"a query before the allowed suffix":      "evil.test?.tokbox.com",
	"a backslash before the allowed suffix":  `evil.test\.tokbox.com`,
	"percent-encoded dot":                    "hlg%2etokbox.com",
	"percent-encoded NUL":                    "evil.test%00.tokbox.com",
	"empty label inside":                     "hlg..tokbox.com",
	"empty label in front":                   ".hlg.tokbox.com",
	"two trailing dots":                      "hlg.tokbox.com..",
	"only a dot":                             ".",
	"a label of 64":                          strings.Repeat("a", 64) + ".tokbox.com",
	"a name of over 253":                     strings.Repeat("a.", 122) + "tokbox.com",
	"the suffix without its dot":             "eviltokbox.com",
	"the suffix itself":                      "tokbox.com",
	"the suffix in the middle":               "tokbox.com.evil.test",
	"a user in front":                        "hlg.tokbox.com@evil.test",
	"a user behind":                          "evil.test@hlg.tokbox.com",
	"a port and a user":                      "hlg.tokbox.com:443@evil.test",
	"a space inside":                         "evil.test hlg.tokbox.com",
	"a space in front":                       " hlg.tokbox.com",
	"a tab inside":                           "evil.test\thlg.tokbox.com",
	"a newline inside":                       "evil.test\nhlg.tokbox.com",
	"a CRLF inside":                          "evil.test\r\nhlg.tokbox.com",
	"a full stop of Unicode":                 "hlg。tokbox.com",
	"a letter of Unicode that folds to k":    "hlg.to\u212abox.com",
	"a soft hyphen":                          "hlg.tok\u00adbox.com",
	"bytes that are no UTF-8":                "hlg.\xff\xfe.tokbox.com",
	"a comma":                                "hlg.tokbox.com,evil.test",
	"a wildcard":                             "*.tokbox.com",
	"a closing bracket":                      "hlg.tokbox.com]",
	"a colon that is no port":                "hlg.tokbox.com:x",
	"an escape sequence of terminals":        "\x1b[2Jhlg.tokbox.com",
	"a name that ends in a number":           "hlg.tokbox.com.1",
	"a name that ends in a hexadecimal":      "hlg.tokbox.com.0x7f",
	"the name of a host that is this one":    "localhost",
	"a name below that of this host":         "hlg.tokbox.com.localhost",
	"a name that resolves to the trap":       "evil.test",
	"a name that resolves to the trap, caps": "EVIL.TEST.",
}

// Addresses in the spellings that one program or another takes for 127.0.0.1,
// for the trap, or for the cloud's metadata.
var hostileAddresses = []string{
	"127.0.0.1", "127.78.0.66", "127.78.0.1", "169.254.169.254", "0.0.0.0", "0", "127.1", "127.0.1", "2130706433", "0x7f000001",
	"0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "127.0.0.01", "127.0.0.256", "127.0.0.0x1", "00000127.0.0.1",
	"[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[0:0:0:0:0:0:0:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
	"[fe80::1%25lo]", "[::1%lo]", "[fd00:ec2::254]", "[127.0.0.1]", "[::1", "::1", "[]", "[::ffff:127.0.0.1%25lo]", "[v1.a]",
}

var hostilePorts = []string{
	"4294967739", "65536", "65979", "0", "00", "0443", "+443", "-443", " 443", "443 ", "4_43", "0x1bb", "443.0", "4e2", "https", "", "443:443", "443,80", "１",
}

var nameReasons = []string{"malformed_name", "no_rule", "malformed_request", "address_literal", "forbidden_address", "port"}

// head is a CONNECT or an absolute-form request for a target.
func connectHead(target string) string {
	return fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: hlg.tokbox.com\r\n\r\n", target)
}

func absoluteHead(authority string) string {
	return fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: hlg.tokbox.com\r\n\r\n", authority)
}

func hostHead(host string) string {
	return fmt.Sprintf("GET http://hlg.tokbox.com/ HTTP/1.1\r\nHost: %s\r\n\r\n", host)
}

func TestHostileNamesAndAddresses(t *testing.T) {
	s := newSiege(t, "")
	refuse := func(t *testing.T, request string) {
		t.Helper()
		before, mark := s.denials(), s.house.all()
		answer := s.ask(t, request)
		if st := status(answer); !strings.HasPrefix(st, "4") && st != "501" && st != "505" {
			t.Errorf("%q: answer %.200q; want a refusal", request, answer)
		}
		if strings.Contains(answer[strings.Index(answer, "\r\n")+1:], "\x1b") || strings.Contains(answer, "\x00") {
			t.Errorf("the answer holds control characters: %q", answer)
		}
		s.denied(t, before, append(nameReasons, "name_mismatch")...)
		s.quiet(t, mark)
	}
	refuseSOCKS := func(t *testing.T, kind byte, address string, port uint16) {
		t.Helper()
		before, mark := s.denials(), s.house.all()
		if _, reply := s.socks(t, kind, address, port); reply != 2 && reply != 1 {
			t.Errorf("SOCKS reply %d; want a refusal", reply)
		}
		s.denied(t, before, nameReasons...)
		s.quiet(t, mark)
	}
	for name, host := range hostileNames {
		t.Run(name+" in CONNECT", func(t *testing.T) { refuse(t, connectHead(host+":443")) })
		t.Run(name+" in a URL", func(t *testing.T) { refuse(t, absoluteHead(host)) })
		if strings.Trim(host, " ") == host { // white space around a value is not part of it
			t.Run(name+" in Host", func(t *testing.T) { refuse(t, hostHead(host)) })
		}
		if len(host) < 256 {
			t.Run(name+" in SOCKS", func(t *testing.T) { refuseSOCKS(t, 3, host, 443) })
		}
	}
	for _, a := range hostileAddresses {
		t.Run(a+" in CONNECT", func(t *testing.T) { refuse(t, connectHead(a+":443")) })
		t.Run(a+" in a URL", func(t *testing.T) { refuse(t, absoluteHead(a)) })
		t.Run(a+" in SOCKS", func(t *testing.T) { refuseSOCKS(t, 3, a, 443) })
		if addr, err := netip.ParseAddr(strings.Trim(a, "[]")); err == nil && addr.Zone() == "" {
			t.Run(a+" in SOCKS as bytes", func(t *testing.T) {
				kind := byte(1)
				if addr.Is6() {
					kind = 4
				}
				refuseSOCKS(t, kind, string(addr.AsSlice()), 443)
			})
		}
	}
	for _, p := range hostilePorts {
		t.Run("port "+p+" in CONNECT", func(t *testing.T) { refuse(t, connectHead("hlg.tokbox.com:"+p)) })
		if p != "" { // in a URL an empty port is the default one (RFC 3986 section 3.2.3)
			t.Run("port "+p+" in a URL", func(t *testing.T) { refuse(t, absoluteHead("hlg.tokbox.com:"+p)) })
		}
	}
	t.Run("port 0 in SOCKS", func(t *testing.T) { refuseSOCKS(t, 3, "hlg.tokbox.com", 0) })
	t.Run("CONNECT without a port", func(t *testing.T) { refuse(t, connectHead("hlg.tokbox.com")) })
}

// One trailing dot and upper case are the same name.
func TestNormalFormIsAllowed(t *testing.T) {
	s := newSiege(t, "")
	for _, host := range []string{"hlg.tokbox.com.", "HLG.TokBox.Com", "hlg.tokbox.com"} {
		if got := s.get(t, fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", host, host)); got != 200 {
			t.Errorf("%s: %d", host, got)
		}
		if _, reply := s.socks(t, 3, host, 443); reply != 0 {
			t.Errorf("SOCKS %s: %d", host, reply)
		}
		s.tunnelTo(t, host+":443")
	}
	testbed.Eventually(t, "nine records under the normal form", func() bool {
		return len(s.Find("event", "decision", "decision", "allow", "host", "hlg.tokbox.com")) == 9
	})
}
