package dial

import (
	"net/netip"
	"strings"
)

// normalName returns name in lower case without its one trailing dot, and
// false if it is not a host name: labels of 1 to 63 bytes of [a-z0-9_-], at
// most 253 in all, the last one not a number (so no address in any spelling).
// It does not allocate for a name in its normal form.
func normalName(name string) (string, bool) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return "", false
	}
	upper, label := false, 0
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = 0
			continue
		case 'A' <= c && c <= 'Z':
			upper = true
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return "", false
		}
		if label++; label > 63 {
			return "", false
		}
	}
	if label == 0 || numeric(name[strings.LastIndexByte(name, '.')+1:]) {
		return "", false
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, true
}

// numeric reports whether an address parser might take label for a number:
// digits, or 0x and hexadecimal digits.
func numeric(label string) bool {
	digits := "0123456789"
	if len(label) >= 2 && label[0] == '0' && label[1]|0x20 == 'x' {
		label, digits = label[2:], "0123456789abcdefABCDEF"
	}
	return strings.Trim(label, digits) == ""
}

var localhost = &entry{answer: Answer{Addrs: []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}}}

// special answers names that must not be asked for: localhost is this host
// (RFC 6761 section 6.3), invalid and onion do not exist (RFC 6761 section
// 6.4, RFC 7686 section 2).
func special(name string) (*entry, bool) {
	switch name[strings.LastIndexByte(name, '.')+1:] {
	case "localhost":
		return localhost, true
	case "invalid", "onion":
		return &entry{err: &ResolveError{Name: name, Code: CodeDNSError, Rcode: "NXDOMAIN"}}, true
	}
	return nil, false
}
