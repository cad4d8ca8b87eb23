package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Policy is a compiled, immutable set of rules. It may be used by any number
// of goroutines; a new one replaces it whole.
type Policy struct {
	mode     Mode
	revision string
	rules    []*Rule
	services []string
	names    nameIndex
	addrs    addrIndex
	any      []entry // of rules for every destination
	warnings []Warning
	patterns int
}

// Patterns returns how many host patterns the rules have in all.
func (p *Policy) Patterns() int { return p.patterns }

// Options is what Compile needs besides the sources.
type Options struct {
	// Now is the time to judge expiry by, for warnings only. Zero: no such
	// warnings.
	Now time.Time

	// Expand gives the rules of a service. Nil: no service is known.
	Expand func(ServiceRef) ([]RuleSpec, error)
}

// Compile makes a policy of its sources, usually a configuration file and the
// files that it includes. It is whole or not at all: the error joins an *Error
// for everything that is wrong. A policy without any allow rule is valid and
// lets nothing out, with a warning.
func Compile(sources []Source, o Options) (*Policy, error) {
	c := &compiler{o: o, p: &Policy{names: newNameIndex()}}
	for i := range sources {
		c.mode(&sources[i])
	}
	if c.p.mode == ModeUnset {
		c.p.mode = Enforce
	}
	for i := range sources {
		c.source(&sources[i])
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	c.p.patterns = len(c.items)
	c.index()
	c.lint()
	c.p.revision = c.revision(sources)
	return c.p, nil
}

// Mode returns the mode of flows that no rule with a mode of its own settles.
func (p *Policy) Mode() Mode { return p.mode }

// Revision identifies the policy's content, services expanded: 12 hexadecimal
// digits. Formatting and file names do not change it.
func (p *Policy) Revision() string { return p.revision }

// Rules returns the rules in the order in which they are written. A short
// list is one rule. The slice must not be changed.
func (p *Policy) Rules() []*Rule { return p.rules }

// Services returns the names of the catalog services that the policy uses, in
// the order of their first use.
func (p *Policy) Services() []string { return p.services }

// Warnings returns what is hardly meant in the policy, in the order in which
// it is written.
func (p *Policy) Warnings() []Warning { return p.warnings }

// NextChange returns the next moment after now at which an expiry or a time
// window changes an answer of the policy, so that live flows can be judged
// again; zero: never.
func (p *Policy) NextChange(now time.Time) time.Time {
	var next time.Time
	for _, r := range p.rules {
		if t := r.when.next(now); !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// compiler is the state of one Compile.
type compiler struct {
	o        Options
	p        *Policy
	errs     []error
	warnings []Warning
	items    []item
	expanded []RuleSpec // what services came to, for the revision
}

// item is one pattern on its way to the index, and to lint.
type item struct {
	pattern Pattern
	entry   entry
}

func (c *compiler) warn(pos Position, kind Kind, msg, fix string) {
	c.warnings = append(c.warnings, Warning{Pos: pos, Kind: kind, Msg: msg, Fix: fix})
}

// mode takes the policy's mode from the source, if it sets one.
func (c *compiler) mode(src *Source) {
	s := &scope{c: c, src: src}
	m, err := ParseMode(src.Spec.Mode)
	switch {
	case err != nil:
		s.fail("mode", err.Error(), "write enforce, report or open")
	case m != ModeUnset && c.p.mode != ModeUnset && m != c.p.mode:
		s.fail("mode", fmt.Sprintf("mode %s here, and %s in another file", m, c.p.mode), "set the mode in one file only")
	case m != ModeUnset:
		c.p.mode = m
	}
}

func (c *compiler) source(src *Source) {
	s := &scope{c: c, src: src}
	for i, ref := range src.Spec.Services {
		at := &scope{c: c, src: src, path: fmt.Sprintf("services[%d]", i), whole: true}
		at.service(ref, RuleSpec{})
	}
	s.short("allow", src.Spec.Allow, RuleSpec{To: ToSpec{Protocol: "any", Apps: []string{"https", "wss"}}})
	s.short("deny", src.Spec.Deny, RuleSpec{Action: "deny"})
	for i, spec := range src.Spec.Rules {
		at := &scope{c: c, src: src, path: fmt.Sprintf("rules[%d]", i)}
		at.rule(spec)
	}
}

// short compiles a short list. It is one rule whatever its length: a million
// names need no million rules.
func (s *scope) short(path string, list []string, spec RuleSpec) {
	if len(list) == 0 {
		return
	}
	spec.Name = path
	r := s.attributes(spec)
	r.Pos = s.pos(path)
	r.describe("the " + path + " list")
	for i, host := range list {
		s.host(r, host, fmt.Sprintf("%s[%d]", path, i))
	}
	s.c.p.rules = append(s.c.p.rules, r)
}

// service compiles the rules of a service. over holds what a rule that refers
// to the service says about who and when.
func (s *scope) service(ref ServiceRef, over RuleSpec) {
	if s.c.o.Expand == nil {
		s.fail("", fmt.Sprintf("service %q is not known: there is no catalog", ref.Name), "list its hosts under allow")
		return
	}
	specs, err := s.c.o.Expand(ref)
	if err != nil {
		s.failErr("", err)
		return
	}
	if !slices.Contains(s.c.p.services, ref.Name) {
		s.c.p.services = append(s.c.p.services, ref.Name)
	}
	s.prefix = fmt.Sprintf("service %q: ", ref.Name)
	for _, spec := range specs {
		if spec.Service == "" {
			spec.Service = ref.Name
		}
		if spec.Name == "" {
			spec.Name = ref.Name
		}
		s.c.expanded = append(s.c.expanded, spec)
		s.rule(overlay(spec, over))
	}
}

// overlay puts what a rule says over what its service says. The service keeps
// its destinations, ports and apps.
func overlay(spec, over RuleSpec) RuleSpec {
	spec.From = over.From
	for _, f := range []struct{ to, from *string }{
		{&spec.Name, &over.Name}, {&spec.Owner, &over.Owner}, {&spec.Reason, &over.Reason},
		{&spec.Action, &over.Action}, {&spec.Mode, &over.Mode}, {&spec.Expires, &over.Expires},
		{&spec.Inspect, &over.Inspect}, {&spec.IdleTimeout, &over.IdleTimeout}, {&spec.MaxBytes, &over.MaxBytes},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if len(over.Windows) > 0 {
		spec.Windows = over.Windows
	}
	spec.Private = append(slices.Clip(spec.Private), over.Private...)
	if over.Action == "deny" { // every port and protocol of the service's names
		spec.To = ToSpec{Hosts: spec.To.Hosts, CIDRs: spec.To.CIDRs, Depth: spec.To.Depth}
		spec.Inspect, spec.IdleTimeout, spec.MaxBytes, spec.Private = "", "", "", nil
	}
	return spec
}

func (c *compiler) index() {
	for i := range c.items {
		c.p.names.add(c.items[i].pattern, c.items[i].entry)
	}
}

// revision hashes what the policy says, not how its files are laid out.
func (c *compiler) revision(sources []Source) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	for i := range sources {
		spec := sources[i].Spec
		spec.Include = nil
		_ = enc.Encode(spec) // strings, numbers and maps of strings only
	}
	_ = enc.Encode(c.expanded)
	return hex.EncodeToString(h.Sum(nil))[:12]
}
