package catalog

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

var (
	labelForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	hostForm  = regexp.MustCompile(`^(\*\*?\.|\.)?([a-z0-9_-]{1,63}|\*)(\.([a-z0-9_-]{1,63}|\*))*$`)
)

// values are the values of a service's parameters, checked: those that were
// given, and the defaults of the others.
type values map[string][]string

// values checks the given parameters and adds the defaults. Parameters that
// the service does not know are left out.
func (s *Service) values(given map[string]string) (values, error) {
	out := make(values, len(s.Params))
	for _, p := range s.Params {
		text, ok := given[p.Name]
		if !ok {
			text = p.Default
		}
		if text == "" && !ok {
			continue
		}
		if err := p.checkValue(text); err != nil {
			return nil, err
		}
		out[p.Name] = p.split(text)
	}
	return out, nil
}

// split cuts a value at its commas, and brings names into lower case.
func (p Param) split(text string) []string {
	var out []string
	for v := range strings.SplitSeq(text, ",") {
		out = append(out, strings.ToLower(strings.TrimSpace(v)))
	}
	return out
}

// checkValue finds what is wrong with a value that a user gave. Whether a host
// pattern is too wide is left to the policy, which judges all patterns alike.
func (p Param) checkValue(text string) error {
	vs := p.split(text)
	if p.Kind == KindLabel && len(vs) > 1 {
		return fmt.Errorf("parameter %q: %q; want one value", p.Name, text)
	}
	for _, v := range vs {
		if len(p.Values) > 0 && !slices.Contains(p.Values, v) {
			return fmt.Errorf("parameter %q: %q; want one of %s, or leave it out", p.Name, v, strings.Join(p.Values, ", "))
		}
		if err := p.Kind.check(v); err != nil {
			return fmt.Errorf("parameter %q: %w", p.Name, err)
		}
	}
	return nil
}

func (k ParamKind) check(v string) error {
	switch k {
	case KindHost:
		if _, err := prefix(v); err != nil && (!hostForm.MatchString(v) || v == anyHost) {
			return fmt.Errorf("%q is not a host name, an address or a CIDR", v)
		}
	case KindAddress:
		if _, err := prefix(v); err != nil {
			return fmt.Errorf("%q is not an address or a CIDR", v)
		}
	case KindLabel:
		if !labelForm.MatchString(v) {
			return fmt.Errorf("%q is not one label of a host name", v)
		}
	case KindPorts:
		return checkPorts(v)
	case KindPrivate:
		if _, err := netip.ParsePrefix(v); err != nil {
			return fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8", v)
		}
	}
	return nil
}

// prefix reads an address or a CIDR; an address is a CIDR of one.
func prefix(v string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(v); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, errors.New("address with a zone")
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(v)
}

// fill replaces the parameters in texts by their values, one text for each
// value, and returns the parameters that have none. With every, a parameter
// without a value stands for each of the values that it can have.
func (s *Service) fill(texts []string, have values, every bool) (filled, missing []string) {
	for _, text := range texts {
		pending := []string{text}
		for _, name := range references(text) {
			vs := have[name]
			if p, _ := s.param(name); len(vs) == 0 && every {
				vs = p.Values
			}
			if len(vs) == 0 {
				missing = append(missing, name)
				pending = nil
				break
			}
			pending = replaceEach(pending, "{"+name+"}", vs)
		}
		filled = append(filled, pending...)
	}
	return unique(filled), unique(missing)
}

func replaceEach(texts []string, old string, with []string) []string {
	var out []string
	for _, t := range texts {
		for _, v := range with {
			out = append(out, strings.ReplaceAll(t, old, v))
		}
	}
	return out
}

// unique drops repeats, and keeps the order.
func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
