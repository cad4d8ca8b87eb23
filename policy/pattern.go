package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// lead says what a pattern means by what stands before its fixed part.
type lead uint8

const (
	exact lead = iota // b
	below             // *.b
	both              // .b
)

// Pattern is a set of host names, as rules write them:
//
//	a.b        that name only
//	*.b, **.b  one or more labels, then b; never b itself
//	.b         b and everything below it
//	a.*.c.d    exactly one label at the *
//
// A leading wildcard and inner ones may be joined: *.agora.*.x.y.
type Pattern struct {
	fixed string // in normal form, without what leads it; inner wildcards are labels "*"
	lead  lead
	one   bool // a leading wildcard is exactly one label (depth: 1)
}

// patternError is what is wrong with a pattern, and what to write instead.
type patternError struct{ msg, fix string }

func (e *patternError) Error() string {
	if e.fix == "" {
		return e.msg
	}
	return e.msg + "; " + e.fix
}

// ParsePattern reads a pattern. Upper case and one trailing dot are accepted
// and normalised. The error says what to write instead. How wide the pattern
// is (a whole public suffix, say) is judged by Compile, not here.
func ParsePattern(s string) (Pattern, error) {
	if err := notAName(s); err != nil {
		return Pattern{}, err
	}
	var p Pattern
	rest := strings.TrimSuffix(strings.ToLower(s), ".")
	switch {
	case strings.HasPrefix(rest, "**."):
		p.lead, rest = below, rest[3:]
	case strings.HasPrefix(rest, "*."):
		p.lead, rest = below, rest[2:]
	case strings.HasPrefix(rest, "."):
		p.lead, rest = both, rest[1:]
	}
	if err := checkStars(s, rest, p.lead); err != nil {
		return Pattern{}, err
	}
	_, err := ParseName(strings.ReplaceAll(rest, "*", "x"))
	if strings.HasSuffix(rest, ".") {
		err = errLabel // a second trailing dot
	}
	if err != nil {
		return Pattern{}, &patternError{fmt.Sprintf("%q %v", s, err), "write a host name such as www.example.com or *.example.com"}
	}
	p.fixed = rest
	return p, nil
}

// notAName catches what people write in place of a name, to say what they want
// to write.
func notAName(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return &patternError{"an empty name", "remove it"}
	case s == "*" || s == "**" || s == "*." || s == "**." || s == ".":
		return &patternError{fmt.Sprintf("%q would be every name", s), "write *.name.tld; to let everything go use mode: open, or a rule with to: {any: true}"}
	}
	if _, rest, ok := strings.Cut(s, "://"); ok {
		host, _, _ := strings.Cut(rest, "/")
		if h, _, ok := strings.Cut(host, ":"); ok {
			host = h
		}
		return &patternError{fmt.Sprintf("%q is a URL, not a name", s), fmt.Sprintf("write %q", host)}
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return &patternError{fmt.Sprintf("%q is an address range, not a name", s), fmt.Sprintf("write a rule with to: {cidrs: [%s]}", s)}
	}
	_, addr, err := ParseHost(s)
	if addr.IsValid() {
		return &patternError{fmt.Sprintf("%q is an address, not a name", s),
			fmt.Sprintf("write a rule with to: {cidrs: [%s]}", netip.PrefixFrom(addr, addr.BitLen()))}
	}
	if ne := (*NameError)(nil); errors.As(err, &ne) && ne.Address {
		return &patternError{fmt.Sprintf("%q %v", s, err), "write a rule with to: {cidrs: [...]} and the address in its usual form"}
	}
	if host, port, ok := strings.Cut(s, ":"); ok {
		fix := fmt.Sprintf("write %q", host)
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != 443 {
			fix = fmt.Sprintf("write a rule with to: {hosts: [%q], ports: [%d]}", host, n)
		} else if err == nil {
			fix += ", or a rule with ports"
		}
		return &patternError{fmt.Sprintf("%q has a port", s), fix}
	}
	if host, _, ok := strings.Cut(s, "/"); ok {
		return &patternError{fmt.Sprintf("%q has a path", s), fmt.Sprintf("write %q; for paths use a rule with paths", host)}
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			return unicodeError(s)
		}
	}
	return nil
}

func unicodeError(s string) error {
	e := &patternError{msg: fmt.Sprintf("%q is not ASCII", s), fix: "write it as A-labels (xn--)"}
	mark := ""
	for _, m := range []string{"**.", "*.", "."} {
		if strings.HasPrefix(s, m) {
			mark = m
			break
		}
	}
	a, err := idna.Lookup.ToASCII(s[len(mark):])
	if err == nil {
		e.fix = fmt.Sprintf("write %q", mark+a)
	}
	return e
}

// checkStars refuses wildcards that are not a whole label, or that stand where
// they would be too wide. s is the pattern as written, fixed what follows its
// leading wildcard.
func checkStars(s, fixed string, l lead) error {
	labels := strings.Split(fixed, ".")
	for i, label := range labels {
		if !strings.Contains(label, "*") {
			continue
		}
		tail := strings.Join(labels[i+1:], ".")
		switch {
		case label != "*" && strings.HasPrefix(label, "*") && i == 0 && l == exact && !strings.Contains(label[1:], "*"):
			whole := strings.TrimPrefix(fixed, "*")
			return &patternError{fmt.Sprintf("%q has a wildcard that is part of a label, and would match evil%s", s, whole),
				fmt.Sprintf("write %q, or %q to include %s itself", "*."+whole, "."+whole, whole)}
		case label != "*" && tail != "":
			return &patternError{fmt.Sprintf("%q has a wildcard that is part of a label", s), fmt.Sprintf("write %q", "*."+tail)}
		case i >= len(labels)-2:
			return &patternError{fmt.Sprintf("%q has a wildcard in its last two labels", s), "write the registered domain out, as in *.name.tld"}
		case i == 0 && l != exact:
			return &patternError{fmt.Sprintf("%q has two wildcards in a row at its left", s), fmt.Sprintf("write %q: it is any depth", "*."+strings.TrimLeft(fixed, "*."))}
		}
	}
	return nil
}

// String gives the pattern in its normal form.
func (p Pattern) String() string {
	switch p.lead {
	case below:
		return "*." + p.fixed
	case both:
		return "." + p.fixed
	}
	return p.fixed
}

// Words says what the pattern matches, for people.
func (p Pattern) Words() string {
	name, note := p.fixed, ""
	if strings.Contains(name, "*") {
		note = ", with exactly one label at the *"
	}
	switch {
	case p.lead == below && p.one:
		return "any name one label below " + name + note + ", not " + name + " itself and nothing deeper"
	case p.lead == below:
		return "any subdomain of " + name + note + ", not " + name + " itself"
	case p.lead == both && p.one:
		return name + " and any name one label below it" + note
	case p.lead == both:
		return name + " and any subdomain of it" + note
	case note != "":
		return name + note
	}
	return name + " only"
}

// Match reports whether a name in normal form (see ParseName) is in the set.
func (p Pattern) Match(name string) bool {
	fixed := p.fixed
	for fixed != "" {
		want, left := lastLabel(fixed)
		have, rest := lastLabel(name)
		if have == "" || want != "*" && want != have {
			return false
		}
		fixed, name = left, rest
	}
	switch {
	case name == "":
		return p.lead != below
	case p.one && strings.Contains(name, "."):
		return false
	}
	return p.lead != exact
}

// lastLabel cuts the last label off a name.
func lastLabel(s string) (label, rest string) {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[i+1:], s[:i]
	}
	return s, ""
}

// tail is the part of the pattern right of its last wildcard, without any.
func (p Pattern) tail() string {
	if i := strings.LastIndex(p.fixed, "*."); i >= 0 {
		return p.fixed[i+2:]
	}
	return p.fixed
}

// wild reports whether the pattern can match more than one name.
func (p Pattern) wild() bool { return p.lead != exact || strings.Contains(p.fixed, "*") }

// covers reports whether every name in q is in p. It may say false for pairs
// with inner wildcards on both sides; it never says true wrongly.
func (p Pattern) covers(q Pattern) bool {
	if p == q {
		return true
	}
	if !q.wild() {
		return p.Match(q.fixed)
	}
	if p.one && q.lead != exact {
		return p.fixed == q.fixed && q.one && (p.lead == both || q.lead == p.lead)
	}
	if strings.Contains(p.fixed, "*") || p.lead == exact {
		return false
	}
	if p.fixed == q.fixed {
		return p.lead == both || q.lead == below
	}
	return strings.HasSuffix(q.fixed, "."+p.fixed) && !p.one
}
