package policy

import (
	"net/netip"
	"strings"
)

// Limits of a host name in its text form without the trailing dot
// (RFC 1035 section 2.3.4).
const (
	maxName  = 253
	maxLabel = 63
)

// NameError says why a string is not a host name, or not one that Sluice
// judges. The errors of ParseName and ParseHost are of this type.
type NameError struct {
	Address bool // it is an address, in a form that is not accepted here

	msg    string
	detail string // msg as a sentence
}

func newNameError(msg string, address bool) *NameError {
	return &NameError{Address: address, msg: msg, detail: "the host " + msg}
}

func (e *NameError) Error() string { return e.msg }

// All of them are made once: a flood of bad names must cost nothing.
var (
	errEmpty     = newNameError("is empty", false)
	errLabel     = newNameError("has an empty label", false)
	errLongLabel = newNameError("has a label of more than 63 characters", false)
	errLong      = newNameError("has more than 253 characters", false)
	errByte      = newNameError("has a character that is not a letter, digit, hyphen or underscore", false)
	errUnicode   = newNameError("has characters outside ASCII; names arrive as A-labels (xn--)", false)
	errColon     = newNameError("has a colon but is no IPv6 address; the port is not part of the name", false)
	errNumeric   = newNameError("ends in a number, as no name does", false)
	errAddress   = newNameError("is an address, not a name", true)
	errSpelling  = newNameError("is an address in a non-standard spelling", true)
	errZone      = newNameError("is an address with a zone", true)
)

// ParseName returns the normal form of a host name: lower case, without its
// one trailing dot. It accepts letters, digits, hyphens and underscores, labels
// of 1 to 63 and names of up to 253 characters (RFC 1035 section 2.3.4), and
// refuses names whose last label is a number, which programs disagree about
// (addresses in octal, hexadecimal or short form). A name that is in normal
// form already is returned as it is, without an allocation. Errors are of
// type *NameError and do not repeat the name.
func ParseName(s string) (string, error) {
	name, err := parseName(s)
	if err != nil {
		return "", err
	}
	return name, nil
}

func parseName(s string) (string, *NameError) {
	if s == "" {
		return "", errEmpty
	}
	if s[len(s)-1] == '.' {
		s = s[:len(s)-1]
	}
	if len(s) > maxName {
		return "", errLong
	}
	upper, start := false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case 'A' <= c && c <= 'Z':
			upper = true
		case c == '.':
			if err := checkLabel(i - start); err != nil {
				return "", err
			}
			start = i + 1
		case c >= 0x80:
			return "", errUnicode
		case c == ':':
			return "", errColon
		default:
			return "", errByte
		}
	}
	if err := checkLabel(len(s) - start); err != nil {
		return "", err
	}
	if isNumber(s[start:]) {
		return "", numericName(s)
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, nil
}

func checkLabel(n int) *NameError {
	switch {
	case n == 0:
		return errLabel
	case n > maxLabel:
		return errLongLabel
	}
	return nil
}

// ParseHost reads a destination as clients write it. It returns either the
// normal form of a name, or an address: IPv4 in dotted decimal, IPv6 with or
// without brackets, an IPv4 address mapped into IPv6 as the IPv4 address. Every
// other spelling of an address (octal, hexadecimal, one number, fewer than four
// parts, a zone, a trailing dot) is an error whose Address is true: another
// program could read another address out of it.
func ParseHost(s string) (name string, addr netip.Addr, err error) {
	name, addr, bad := parseHost(s)
	if bad != nil {
		return "", netip.Addr{}, bad
	}
	return name, addr, nil
}

func parseHost(s string) (name string, addr netip.Addr, err *NameError) {
	if s == "" {
		return "", addr, errEmpty
	}
	if s[0] == '[' {
		if s[len(s)-1] != ']' {
			return "", addr, errColon
		}
		addr, err = parseIPv6(s[1 : len(s)-1])
		return "", addr, err
	}
	if strings.IndexByte(s, ':') >= 0 {
		addr, err = parseIPv6(s)
		return "", addr, err
	}
	name, err = parseName(s)
	if err == errAddress {
		if s[len(s)-1] == '.' {
			return "", addr, errSpelling
		}
		return "", netip.MustParseAddr(s), nil
	}
	return name, addr, err
}

func parseIPv6(s string) (netip.Addr, *NameError) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, errColon
	case a.Is4():
		return netip.Addr{}, errSpelling // [192.0.2.7]
	case a.Zone() != "":
		return netip.Addr{}, errZone
	}
	return a.Unmap(), nil
}

// isNumber reports whether a URL parser takes the label for a number.
func isNumber(label string) bool {
	digits := "0123456789"
	if len(label) >= 2 && label[0] == '0' && label[1]|0x20 == 'x' {
		label, digits = label[2:], "0123456789abcdefABCDEF"
	}
	for i := 0; i < len(label); i++ {
		if strings.IndexByte(digits, label[i]) < 0 {
			return false
		}
	}
	return true
}

// numericName says what a name that ends in a number is: an address, or what
// some programs would take for one, or nothing at all.
func numericName(s string) *NameError {
	labels, numbers, dotted := 0, 0, true
	for label := range strings.SplitSeq(s, ".") {
		labels++
		if isNumber(label) {
			numbers++
		}
		dotted = dotted && isOctet(label)
	}
	switch {
	case numbers < labels || labels > 4:
		return errNumeric
	case labels == 4 && dotted:
		return errAddress
	}
	return errSpelling
}

// isOctet reports whether a number is one of 0 to 255 as dotted decimal has it.
func isOctet(label string) bool {
	if len(label) > 3 || len(label) > 1 && label[0] == '0' {
		return false
	}
	n := 0
	for i := range len(label) {
		n = n*10 + int(label[i]) - '0'
	}
	return n <= 255
}
