package httpproxy

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Form is the form of a request target (RFC 9112 section 3.2).
type Form uint8

// The forms that are accepted.
const (
	FormOrigin    Form = iota // /path: for the proxy itself
	FormAbsolute              // http://host/path
	FormAuthority             // host:port, of CONNECT
)

const (
	toProxyText = "this is a proxy, not a web server: set it as the proxy of your client instead of opening its address"
	httpsText   = "an https URL asked for in clear: let the client open a tunnel with CONNECT instead"
)

// target takes the request target apart.
func (h *Head) target() error {
	t := h.Target
	for i := 0; i < len(t); i++ {
		if t[i] <= ' ' || t[i] >= 0x7f {
			return bad("a byte in the request target that must be percent-encoded")
		}
	}
	switch {
	case t == "":
		return bad("an empty request target")
	case h.Method == http.MethodConnect:
		return h.authorityForm()
	case t[0] == '/':
		return h.originForm()
	case t == "*":
		return bad("%s", toProxyText)
	case hasPrefixFold(t, "http://"):
		return h.absoluteForm()
	case hasPrefixFold(t, "https://"):
		return &HeadError{http.StatusNotImplemented, httpsText}
	case strings.Contains(t, "://"):
		return &HeadError{http.StatusNotImplemented, "a URL scheme that is not http: the client must open a tunnel with CONNECT"}
	}
	return bad("a request target that is neither a path nor a URL")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func (h *Head) authorityForm() error {
	host, port, err := parseAuthority(h.Target, 0)
	if err != nil {
		return err
	}
	if port == 0 {
		return bad("CONNECT without a port: write host:port")
	}
	h.Form, h.Host, h.Port = FormAuthority, host, port
	return nil
}

func (h *Head) originForm() error {
	h.Form, h.Path = FormOrigin, h.Target
	return checkPath(h.Path)
}

func (h *Head) absoluteForm() error {
	rest := h.Target[len("http://"):]
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, h.Path = rest[:i], rest[i:]
	}
	host, port, err := parseAuthority(authority, 80)
	if err != nil {
		return err
	}
	h.Form, h.Host, h.Port = FormAbsolute, host, port
	return checkPath(h.Path)
}

// checkPath refuses what a rule on paths could be got round with: a fragment,
// a percent sign that is no encoding, and dot segments, plain or encoded,
// which clients resolve before they send (RFC 3986 section 5.2.4).
func checkPath(path string) error {
	if strings.Contains(path, "#") {
		return bad("a fragment in the request target")
	}
	path, _, _ = strings.Cut(path, "?")
	if !strings.ContainsAny(path, "%.") {
		return nil
	}
	plain, err := url.PathUnescape(path)
	if err != nil {
		return bad("a percent sign in the path that encodes nothing")
	}
	for segment := range strings.FieldsFuncSeq(plain, func(r rune) bool { return r == '/' || r == '\\' }) {
		if segment == "." || segment == ".." {
			return bad("dot segments in the path: resolve them before sending")
		}
	}
	return nil
}

// parseAuthority takes host[:port] apart (RFC 3986 section 3.2), without any
// of the liberties that let two parsers see two hosts. fallback is the port if
// none is written.
func parseAuthority(s string, fallback uint16) (host string, port uint16, _ *HeadError) {
	if strings.IndexByte(s, '@') >= 0 {
		return "", 0, bad("a user or password in the authority")
	}
	var rest string
	if strings.HasPrefix(s, "[") {
		var ok bool
		if host, rest, ok = strings.Cut(s[1:], "]"); !ok {
			return "", 0, bad("an address without its closing bracket")
		}
		if addr, err := netip.ParseAddr(host); err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", 0, bad("brackets around %.64q, which is no IPv6 address", host)
		}
		if rest != "" && rest[0] != ':' {
			return "", 0, bad("something behind the bracket that is no port")
		}
	} else {
		host = s
		if i := strings.IndexByte(s, ':'); i >= 0 {
			host, rest = s[:i], s[i:]
		}
		if err := checkHost(host); err != nil {
			return "", 0, err
		}
	}
	if rest == "" {
		return host, fallback, nil
	}
	port, ok := parsePort(rest[1:])
	if !ok {
		return "", 0, bad("a port that is not a number from 1 to 65535 (an IPv6 address needs brackets): %.64q", rest)
	}
	return host, port, nil
}

// checkHost refuses bytes that can not be in a registered name (RFC 3986
// section 3.2.2), and percent-encoding. Whether it is a host name is for the
// policy to say, so that the name gets into the record.
func checkHost(host string) *HeadError {
	if host == "" {
		return bad("an empty host")
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("-._~!$&'()*+,;=", c) >= 0 {
			continue
		}
		return bad("a byte that no host name has in %.64q", host)
	}
	return nil
}

// parsePort reads a port without signs, leading zeros or overflow: 4294967739
// is not 443.
func parsePort(s string) (uint16, bool) {
	if len(s) == 0 || len(s) > 5 || s[0] == '0' {
		return 0, false
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return uint16(n), n <= 65535
}

// sameHost compares two host names or addresses as written.
func sameHost(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}
