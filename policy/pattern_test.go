package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestPatternsInWords(t *testing.T) {
	for in, want := range map[string]string{
		"skinapi.soti.net":       "skinapi.soti.net only",
		"SkinAPI.soti.net.":      "skinapi.soti.net only",
		"*.tokbox.com":           "any subdomain of tokbox.com, not tokbox.com itself",
		"**.tokbox.com":          "any subdomain of tokbox.com, not tokbox.com itself",
		".supportsquare.io":      "supportsquare.io and any subdomain of it",
		"agora.*.nexthink.cloud": "agora.*.nexthink.cloud, with exactly one label at the *",
		"*.agora.*.nexthink.cloud": "any subdomain of agora.*.nexthink.cloud, with exactly one label at the *, " +
			"not agora.*.nexthink.cloud itself",
	} {
		p, err := ParsePattern(in)
		if err != nil || p.Words() != want {
			t.Errorf("%q: %q, %v", in, p.Words(), err)
		}
	}
	p, _ := ParsePattern("*.tokbox.com")
	p.one = true
	if got, want := p.Words(), "any name one label below tokbox.com, not tokbox.com itself and nothing deeper"; got != want {
		t.Errorf("depth 1: %q", got)
	}
}

func TestPatternsThatAreRefused(t *testing.T) {
	const all = `write *.name.tld; to let everything go use mode: open, or a rule with to: {any: true}`
	for in, want := range map[string]string{
		"":                      `an empty name; remove it`,
		"*":                     `"*" would be every name; ` + all,
		"*.":                    `"*." would be every name; ` + all,
		"com":                   `"com" is a top-level domain; write the whole name, such as www.example.com`,
		"*.com":                 `"*.com" has no registered domain right of its wildcard: it would be everybody's names under com; write *.name.com`,
		".co.uk":                `".co.uk" has no registered domain right of its wildcard: it would be everybody's names under co.uk; write *.name.co.uk`,
		"*.internal":            `"*.internal" has no registered domain right of its wildcard: it would be everybody's names under internal; write *.name.internal`,
		"a.*.co.uk":             `"a.*.co.uk" has no registered domain right of its wildcard: it would be everybody's names under co.uk; write *.name.co.uk`,
		"*.kawasaki.jp":         `"*.kawasaki.jp" has no registered domain right of its wildcard: it would be everybody's names under kawasaki.jp; write *.name.kawasaki.jp`,
		"agora.*.cloud":         `"agora.*.cloud" has a wildcard in its last two labels; write the registered domain out, as in *.name.tld`,
		"example.*":             `"example.*" has a wildcard in its last two labels; write the registered domain out, as in *.name.tld`,
		"*gstatic.com":          `"*gstatic.com" has a wildcard that is part of a label, and would match evilgstatic.com; write "*.gstatic.com", or ".gstatic.com" to include gstatic.com itself`,
		"gcams*.exitgames.com":  `"gcams*.exitgames.com" has a wildcard that is part of a label; write "*.exitgames.com"`,
		"*.*.stripe.com":        `"*.*.stripe.com" has two wildcards in a row at its left; write "*.stripe.com": it is any depth`,
		"bücher.example":        `"bücher.example" is not ASCII; write "xn--bcher-kva.example"`,
		"*.bücher.example":      `"*.bücher.example" is not ASCII; write "*.xn--bcher-kva.example"`,
		"https://x.example/a":   `"https://x.example/a" is a URL, not a name; write "x.example"`,
		"wss://x.example:8443":  `"wss://x.example:8443" is a URL, not a name; write "x.example"`,
		"x.example:443":         `"x.example:443" has a port; write "x.example", or a rule with ports`,
		"x.example:8443":        `"x.example:8443" has a port; write a rule with to: {hosts: ["x.example"], ports: [8443]}`,
		"x.example/a":           `"x.example/a" has a path; write "x.example"; for paths use a rule with paths`,
		"192.0.2.7":             `"192.0.2.7" is an address, not a name; write a rule with to: {cidrs: [192.0.2.7/32]}`,
		"[2001:db8::1]":         `"[2001:db8::1]" is an address, not a name; write a rule with to: {cidrs: [2001:db8::1/128]}`,
		"10.0.0.0/8":            `"10.0.0.0/8" is an address range, not a name; write a rule with to: {cidrs: [10.0.0.0/8]}`,
		"127.1":                 `"127.1" is an address in a non-standard spelling; write a rule with to: {cidrs: [...]} and the address in its usual form`,
		"a..example":            `"a..example" has an empty label; write a host name such as www.example.com or *.example.com`,
		"a.example..":           `"a.example.." has an empty label; write a host name such as www.example.com or *.example.com`,
		"a b.example":           `"a b.example" has a character that is not a letter, digit, hyphen or underscore; write a host name such as www.example.com or *.example.com`,
		strings.Repeat("a", 64): `"` + strings.Repeat("a", 64) + `" has a label of more than 63 characters; write a host name such as www.example.com or *.example.com`,
	} {
		_, err := Compile([]Source{{File: "p.yaml", Spec: Spec{Allow: []string{in}}, Line: func(string) int { return 7 }}}, Options{})
		if err == nil {
			t.Errorf("%q is accepted", in)
			continue
		}
		if got := err.Error(); got != "p.yaml:7: "+want {
			t.Errorf("%q:\ngot  %s\nwant p.yaml:7: %s", in, got, want)
		}
	}
}

func TestADenyRuleMayBeAsWideAsASuffix(t *testing.T) {
	p := compile(t, Spec{Mode: "open", Deny: []string{"*.zip", ".co.uk", "*.cloudfront.net"}})
	for name, want := range map[string]bool{"a.zip": false, "co.uk": false, "www.example.co.uk": false, "d1.cloudfront.net": false, "a.zipper": true} {
		if got := p.Decide(https(name)).Allow; got != want {
			t.Errorf("%s: allow = %v, want %v", name, got, want)
		}
	}
}

// naive compares a pattern and a name label by label, from the rule in words
// and nothing else.
func naive(pattern, name string) bool {
	want, have := strings.Split(pattern, "."), strings.Split(name, ".")
	switch want[0] {
	case "":
		return naive(pattern[1:], name) || naive("*"+pattern, name)
	case "*", "**":
		if n := len(have) - len(want) + 1; n >= 1 {
			return naive(strings.Join(want[1:], "."), strings.Join(have[n:], "."))
		}
		return false
	}
	return slices.EqualFunc(want, have, func(w, h string) bool { return w == h || w == "*" && h != "" })
}

func FuzzPatterns(f *testing.F) {
	f.Add("*.a.b", "x.a.b", "a.*.b.c")
	f.Add(".a.b", "a.b", "*.a.*.b.c")
	f.Add("a.*.*.b.c", "a.x.y.b.c", "*.b.c")
	f.Fuzz(func(t *testing.T, first, name, second string) {
		normal, err := ParseName(name)
		if err != nil {
			return
		}
		x := newNameIndex()
		want := map[string]bool{}
		for _, s := range []string{first, second} {
			p, err := ParsePattern(s)
			if err != nil {
				continue
			}
			x.add(p, entry{text: p.String()})
			want[p.String()] = naive(p.String(), normal)
			if p.Match(normal) != want[p.String()] {
				t.Fatalf("%q.Match(%q) = %v", p, normal, p.Match(normal))
			}
			if again, err := ParsePattern(p.String()); err != nil || again != p {
				t.Fatalf("%q is read as %q: %v", p, again, err)
			}
		}
		got := map[string]bool{}
		x.walk(normal, func(e *entry) { got[e.text] = true })
		for text, w := range want {
			if got[text] != w {
				t.Fatalf("index has %q for %q: %v, want %v", text, normal, got[text], w)
			}
		}
	})
}

// Every pattern of a small alphabet against every name of it: the index, Match
// and the naive comparer agree, and covers never says yes wrongly.
func TestPatternsOfASmallAlphabet(t *testing.T) {
	var names, patterns []string
	var grow func(prefix string, depth int, alphabet []string, out *[]string)
	grow = func(prefix string, depth int, alphabet []string, out *[]string) {
		*out = append(*out, prefix)
		if depth == 0 {
			return
		}
		for _, l := range alphabet {
			grow(l+"."+prefix, depth-1, alphabet, out)
		}
	}
	for _, top := range []string{"a.b", "b.b"} {
		grow(top, 4, []string{"a", "b"}, &names)
		grow(top, 3, []string{"a", "*"}, &patterns)
	}
	x := newNameIndex()
	var parsed []Pattern
	for _, s := range patterns {
		for _, s := range []string{s, "*." + s, "." + s} {
			for _, one := range []bool{false, true} {
				p, err := ParsePattern(s)
				if err != nil {
					continue
				}
				p.one = one && p.lead != exact
				if one == p.one && !slices.Contains(parsed, p) {
					parsed = append(parsed, p)
					x.add(p, entry{text: fmt.Sprint(p, p.one)})
				}
			}
		}
	}
	for _, name := range names {
		hit := map[string]bool{}
		x.walk(name, func(e *entry) { hit[e.text] = true })
		for _, p := range parsed {
			want := naive(p.String(), name)
			if p.one {
				want = want && strings.Count(name, ".") <= strings.Count(p.fixed, ".")+1
			}
			if p.Match(name) != want || hit[fmt.Sprint(p, p.one)] != want {
				t.Fatalf("%s (depth 1: %v) against %s: Match %v, index %v, want %v", p, p.one, name, p.Match(name), hit[fmt.Sprint(p, p.one)], want)
			}
		}
	}
	for _, p := range parsed {
		for _, q := range parsed {
			if !p.covers(q) {
				continue
			}
			for _, name := range names {
				if q.Match(name) && !p.Match(name) {
					t.Fatalf("%s (depth 1: %v) is said to cover %s (depth 1: %v), but not %s", p, p.one, q, q.one, name)
				}
			}
		}
	}
}
