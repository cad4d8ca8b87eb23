package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sluice/policy"
)

// Expand turns a reference to a service into rules, its includes first.
//
// Rules are named after the service, or "service/part"; several rules may share
// a name, since an entry with other ports or another protocol is a rule of its
// own. Equal rules are given once, with their reasons joined. Parts of an
// included service are asked for as "service/part".
//
// It is an error to name an unknown service, parameter or part, to leave out a
// parameter without which an entry of the default has no host, and to ask for a
// part of which no entry has one.
func (c *Catalog) Expand(ref policy.ServiceRef) ([]policy.RuleSpec, error) {
	if _, err := c.Get(ref.Name); err != nil {
		return nil, err
	}
	all := c.closure(ref.Name, nil)
	if err := checkGiven(all, ref); err != nil {
		return nil, err
	}
	var rules []policy.RuleSpec
	for _, s := range all {
		more, err := s.expand(ref)
		if err != nil {
			return nil, err
		}
		rules = append(rules, more...)
	}
	return merge(rules), nil
}

// closure lists a service's includes, at any depth, and then the service, each
// once.
func (c *Catalog) closure(name string, have []*Service) []*Service {
	s := c.services[name]
	for _, in := range s.Includes {
		have = c.closure(in, have)
	}
	if !slices.Contains(have, s) {
		have = append(have, s)
	}
	return have
}

// checkGiven refuses parameters and parts that none of the services has. The
// last service is the one that was named.
func checkGiven(all []*Service, ref policy.ServiceRef) error {
	var params, parts []string
	for _, s := range all {
		for _, p := range s.Params {
			params = append(params, p.Name)
		}
		for _, p := range s.Parts {
			parts = append(parts, s.partName(p.Name, ref.Name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ref.Params)) {
		if !slices.Contains(params, name) {
			return fmt.Errorf("service %q has no parameter %q; %s", ref.Name, name, known(params))
		}
	}
	for _, name := range ref.Parts {
		if !slices.Contains(parts, name) {
			return fmt.Errorf("service %q has no part %q; %s", ref.Name, name, known(parts))
		}
	}
	return nil
}

func known(names []string) string {
	if len(names) == 0 {
		return "it has none"
	}
	return "it has " + strings.Join(unique(names), ", ")
}

// partName is how a part is asked for when the service named is top.
func (s *Service) partName(part, top string) string {
	if s.Name == top {
		return part
	}
	return s.Name + "/" + part
}

func (s *Service) expand(ref policy.ServiceRef) ([]policy.RuleSpec, error) {
	have, err := s.values(ref.Params)
	if err != nil {
		return nil, fmt.Errorf("service %q: %w", s.Name, err)
	}
	var rules []policy.RuleSpec
	done := make(map[string]bool)     // parts of which an entry has its hosts
	lack := make(map[string][]string) // parameters that the others wait for
	for i := range s.Entries {
		e := &s.Entries[i]
		if e.Part != "" && !slices.Contains(ref.Parts, s.partName(e.Part, ref.Name)) {
			continue
		}
		rule, missing := s.rule(e, have)
		switch {
		case len(missing) > 0 && e.Part == "":
			return nil, fmt.Errorf("service %q needs the parameter %s (%s)", s.Name, strings.Join(missing, ", "), e.Purpose)
		case len(missing) > 0:
			lack[e.Part] = append(lack[e.Part], missing...)
			continue
		}
		done[e.Part] = true
		if e.CoveredBy == "" {
			rules = append(rules, rule)
		}
	}
	for _, part := range slices.Sorted(maps.Keys(lack)) {
		if !done[part] {
			return nil, fmt.Errorf("service %q: part %q needs the parameter %s", s.Name, part, strings.Join(unique(lack[part]), " or "))
		}
	}
	return rules, nil
}

// rule makes the rule of one entry, or says which parameters it lacks. A
// parameter left out beside one that is given stands for each of the values it
// can have; the fallback serves when hosts cannot be filled even so.
func (s *Service) rule(e *Entry, have values) (policy.RuleSpec, []string) {
	given := slices.ContainsFunc(e.Hosts, func(h string) bool {
		return slices.ContainsFunc(references(h), func(name string) bool { return len(have[name]) > 0 })
	})
	hosts, missing := s.fill(e.Hosts, have, given)
	if len(missing) > 0 && len(e.Fallback) > 0 {
		hosts, missing = s.fill(e.Fallback, have, true)
	}
	if len(missing) > 0 {
		return policy.RuleSpec{}, missing
	}
	ports, missing := s.fill(e.Ports, have, false)
	if len(missing) > 0 {
		return policy.RuleSpec{}, missing
	}

	r := policy.RuleSpec{
		Name:        s.Name,
		Reason:      e.Purpose,
		Inspect:     e.Inspect,
		Service:     s.Name,
		MultiTenant: e.MultiTenant,
	}
	if e.Part != "" {
		r.Name += "/" + e.Part
	}
	r.To.Protocol = e.Protocol
	for _, p := range ports {
		r.To.Ports = append(r.To.Ports, policy.PortRange(p))
	}
	r.To.Apps = slices.Clone(e.App)
	for _, h := range hosts {
		if h == anyHost {
			r.To.Any = true
		} else if p, err := prefix(h); err == nil {
			r.To.CIDRs = append(r.To.CIDRs, p.String())
		} else {
			r.To.Hosts = append(r.To.Hosts, h)
		}
	}
	r.Private = s.private(e, have)
	return r, nil
}

// private returns the private ranges that an entry's hosts may resolve to.
// Only hosts that the user named may: the vendor's own names never need it.
func (s *Service) private(e *Entry, have values) []string {
	own := slices.ContainsFunc(e.Hosts, func(h string) bool {
		names := references(h)
		if len(names) != 1 {
			return false
		}
		p, _ := s.param(names[0])
		return p.Kind == KindHost
	})
	if !own {
		return nil
	}
	for _, p := range s.Params {
		if p.Kind == KindPrivate {
			return slices.Clone(have[p.Name])
		}
	}
	return nil
}

// merge drops rules that another one equals in all but its reason, and joins
// the reasons.
func merge(rules []policy.RuleSpec) []policy.RuleSpec {
	var out []policy.RuleSpec
	at := make(map[string]int)
	for _, r := range rules {
		reason := r.Reason
		r.Reason = ""
		key := fmt.Sprintf("%#v", r)
		r.Reason = reason
		i, ok := at[key]
		if !ok {
			at[key] = len(out)
			out = append(out, r)
			continue
		}
		if !slices.Contains(strings.Split(out[i].Reason, "; "), reason) {
			out[i].Reason += "; " + reason
		}
	}
	return out
}
