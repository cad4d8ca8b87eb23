package policy

import (
	"errors"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	label63, label64 := strings.Repeat("a", 63), strings.Repeat("a", 64)
	name253 := strings.Repeat("a.", 126) + "b"
	for in, want := range map[string]string{
		"a.example.org":        "a.example.org",
		"A.Example.ORG":        "a.example.org",
		"a.example.org.":       "a.example.org",
		"_dns.resolver.arpa":   "_dns.resolver.arpa",
		"xn--bcher-kva.de":     "xn--bcher-kva.de",
		"localhost":            "localhost",
		"1.2.3.4.example":      "1.2.3.4.example",
		"0x7f.example":         "0x7f.example",
		"a.0xg":                "a.0xg",
		label63 + ".org":       label63 + ".org",
		name253:                name253,
		name253 + ".":          name253,
		"":                     "is empty",
		".":                    "has an empty label",
		"..":                   "has an empty label",
		".example.org":         "has an empty label",
		"a..org":               "has an empty label",
		"a.example.org..":      "has an empty label",
		label64 + ".org":       "has a label of more than 63 characters",
		"a" + name253:          "has more than 253 characters",
		"a b.org":              "has a character that is not a letter, digit, hyphen or underscore",
		"a\x00.org":            "has a character that is not a letter, digit, hyphen or underscore",
		"a\n.org":              "has a character that is not a letter, digit, hyphen or underscore",
		"evil.test#.ok.org":    "has a character that is not a letter, digit, hyphen or underscore",
		"evil.test/.ok.org":    "has a character that is not a letter, digit, hyphen or underscore",
		"a%2eorg":              "has a character that is not a letter, digit, hyphen or underscore",
		"ok.org@evil":          "has a character that is not a letter, digit, hyphen or underscore",
		"*.example.org":        "has a character that is not a letter, digit, hyphen or underscore",
		"bücher.de":            "has characters outside ASCII; names arrive as A-labels (xn--)",
		"a。org":                "has characters outside ASCII; names arrive as A-labels (xn--)",
		"a.org:443":            "has a colon but is no IPv6 address; the port is not part of the name",
		"example.1":            "ends in a number, as no name does",
		"a.0x":                 "ends in a number, as no name does",
		"1.2.3.4.5":            "ends in a number, as no name does",
		"192.0.2.7":            "is an address, not a name",
		"192.0.2.7.":           "is an address, not a name",
		"0300.0.2.7":           "is an address in a non-standard spelling",
		"127.1":                "is an address in a non-standard spelling",
		"0x7f.1":               "is an address in a non-standard spelling",
		"0X7F000001":           "is an address in a non-standard spelling",
		"2130706433":           "is an address in a non-standard spelling",
		"256.0.0.1":            "is an address in a non-standard spelling",
		"99999999999999999999": "is an address in a non-standard spelling",
	} {
		got, err := ParseName(in)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"A.example.org.":     "name a.example.org",
		"192.0.2.7":          "address 192.0.2.7",
		"2001:DB8:0::1":      "address 2001:db8::1",
		"[2001:db8::1]":      "address 2001:db8::1",
		"::ffff:192.0.2.7":   "address 192.0.2.7",
		"[::ffff:c000:207]":  "address 192.0.2.7",
		"192.0.2.7.":         "spelling",
		"192.0.2.007":        "spelling",
		"[192.0.2.7]":        "spelling",
		"127.0.0.0x1":        "spelling",
		"fe80::1%eth0":       "spelling",
		"[fe80::1%25eth0]":   "spelling",
		"192.0.2.7:443":      "malformed",
		"[2001:db8::1]:443":  "malformed",
		"[2001:db8::1":       "malformed",
		"[a.example.org]":    "malformed",
		"[]":                 "malformed",
		"１２７.0.0.1":          "malformed",
		"127.0.0.1%00":       "malformed",
		"user@192.0.2.7":     "malformed",
		"192.0.2.7.evil.org": "name 192.0.2.7.evil.org",
	} {
		name, addr, err := ParseHost(in)
		var got string
		switch ne := (*NameError)(nil); {
		case errors.As(err, &ne) && ne.Address:
			got = "spelling"
		case err != nil:
			got = "malformed"
		case addr.IsValid():
			got = "address " + addr.String()
		default:
			got = "name " + name
		}
		if got != want {
			t.Errorf("%q: got %s (%v), want %s", in, got, err, want)
		}
	}
}

func TestParseNameAllocatesNothing(t *testing.T) {
	for _, s := range []string{"a.b.example.org", "a.b.example.org.", "a..b", "127.1"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = ParseName(s) }); n != 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"a.B.org.", "127.1", "a..b", "xn--a", "[::1]", "::ffff:1.2.3.4", "0x7f.1", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, addr, err := ParseHost(s)
		switch {
		case err != nil:
			if name != "" || addr.IsValid() {
				t.Fatalf("%q: %q, %v beside error %v", s, name, addr, err)
			}
		case addr.IsValid():
			if addr.Is4In6() || addr.Zone() != "" || name != "" {
				t.Fatalf("%q: address %v, name %q", s, addr, name)
			}
			if _, again, err := ParseHost(addr.String()); err != nil || again != addr {
				t.Fatalf("%q: %v is not stable: %v, %v", s, addr, again, err)
			}
		default:
			again, err := ParseName(name)
			if err != nil || again != name {
				t.Fatalf("%q: %q is not stable: %q, %v", s, name, again, err)
			}
			if name != strings.ToLower(strings.TrimSuffix(s, ".")) || len(name) > 253 {
				t.Fatalf("%q became %q", s, name)
			}
		}
	})
}
