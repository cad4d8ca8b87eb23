package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// rule compiles one rule of the long form, or of a service.
func (s *scope) rule(spec RuleSpec) {
	if spec.Name == "" {
		spec.Name = s.path
	}
	before := len(s.c.errs)
	r := s.attributes(spec)
	r.describe(subject(r))
	s.destinations(r, spec)
	if len(s.c.errs) > before {
		return // its services would only repeat what is wrong
	}
	for i, ref := range spec.To.Services {
		at := &scope{c: s.c, src: s.src, path: s.join(fmt.Sprintf("to.services[%d]", i)), whole: true}
		over := spec
		over.Action = strings.ToLower(spec.Action)
		at.service(ref, over)
	}
	if len(spec.To.Hosts)+len(spec.To.CIDRs) > 0 || spec.To.Any {
		s.c.p.rules = append(s.c.p.rules, r)
	}
}

// destinations puts the rule into the index under all that it names.
func (s *scope) destinations(r *Rule, spec RuleSpec) {
	to := spec.To
	named := len(to.Hosts) + len(to.CIDRs) + len(to.Services)
	switch {
	case named == 0 && !to.Any:
		s.fail("to", "the rule names no destination", "add hosts, cidrs or services, or any: true for every destination")
	case named > 0 && to.Any:
		s.fail("to", "the rule names destinations, and any", "remove one of them")
	case len(to.Services) == named && named > 0 && len(to.Ports)+len(to.Apps) > 0:
		s.fail("to", "ports and app have no effect on services, which have their own", "remove them")
	}
	if to.Depth != 0 && to.Depth != 1 {
		s.fail("to.depth", fmt.Sprintf("depth %d is not known", to.Depth), "write 1 for exactly one label, or leave it out for any number")
	}
	for i, host := range to.Hosts {
		s.host(r, host, fmt.Sprintf("to.hosts[%d]", i))
	}
	for i, v := range to.CIDRs {
		p, err := ParsePrefix(v)
		if err != nil {
			s.failErr(fmt.Sprintf("to.cidrs[%d]", i), err)
			continue
		}
		rank := uint32(rankExact) | uint32(p.Bits())
		s.c.p.addrs.add(p, s.entry(r, p.String(), fmt.Sprintf("to.cidrs[%d]", i), rank))
	}
	if to.Any {
		s.c.p.any = append(s.c.p.any, s.entry(r, "any", "to.any", 0))
	}
}

func (s *scope) entry(r *Rule, text, path string, rank uint32) entry {
	if r.Mode != Report {
		rank |= rankEnforced
	}
	return entry{rule: r, text: text, line: int32(s.pos(path).Line), rank: rank}
}

// host compiles one pattern of a rule.
func (s *scope) host(r *Rule, host, path string) {
	p, err := ParsePattern(host)
	if err != nil {
		s.failErr(path, err)
		return
	}
	p.one = r.one && p.lead != exact
	if !r.Deny { // to deny all of a suffix is wide, and safe
		tenants, err := p.checkWidth()
		if err != nil {
			s.failErr(path, err)
			return
		}
		if tenants && r.Service == "" {
			s.warn(path, KindMultiTenant, fmt.Sprintf("%s are the names of many tenants of one provider", p), "name your own, or add a rule with paths and inspect: always")
		}
	}
	e := s.entry(r, p.String(), path, p.rank())
	e.seq = int32(len(s.c.items))
	s.c.items = append(s.c.items, item{p, e})
}

// attributes compiles all of a rule but its destinations.
func (s *scope) attributes(spec RuleSpec) *Rule {
	r := &Rule{
		Name: spec.Name, Owner: spec.Owner, Reason: spec.Reason,
		Service: spec.Service, MultiTenant: spec.MultiTenant, AnyName: spec.To.Any,
		Pos: s.pos(""), one: spec.To.Depth == 1,
		key: settingsKey(spec),
	}
	switch strings.ToLower(spec.Action) {
	case "", "allow":
	case "deny":
		r.Deny = true
	default:
		s.fail("action", fmt.Sprintf("action %q is not known", spec.Action), "write allow or deny")
	}
	var err error
	if r.Mode, err = ParseMode(spec.Mode); err != nil {
		s.fail("mode", err.Error(), "write enforce, report or open")
	}
	if r.Deny && r.Mode == Open {
		s.fail("mode", "a deny rule in open mode denies nothing", "remove the rule, or write mode: report to try it out")
	}
	r.blocks = r.Deny && (r.Mode == Enforce || r.Mode == ModeUnset && s.c.p.mode != Report)
	posture := r.AnyName && (r.Mode == Report || r.Mode == Open)
	r.everything = r.Deny || posture && len(spec.To.Ports)+len(spec.To.Apps) == 0 && spec.To.Protocol == ""
	if err := r.Inspect.UnmarshalText([]byte(strings.ToLower(spec.Inspect))); err != nil {
		s.fail("inspect", err.Error(), "write never or always")
	}
	s.apps(r, spec.To.Apps)
	r.who, r.how = s.who(spec.From), s.how(r, spec.To)
	r.Private = s.prefixes(spec.Private, "private")
	s.limits(r, spec)
	return r
}

// limits reads what bounds a rule in time and volume.
func (s *scope) limits(r *Rule, spec RuleSpec) {
	var err error
	if r.Expires, err = parseExpires(spec.Expires); err != nil {
		s.failErr("expires", err)
	}
	r.when.expires = r.Expires
	for i, w := range spec.Windows {
		win, err := parseWindow(w)
		if err != nil {
			s.failErr(fmt.Sprintf("windows[%d]", i), err)
			continue
		}
		r.when.windows = append(r.when.windows, win)
	}
	if spec.IdleTimeout != "" {
		d, err := time.ParseDuration(spec.IdleTimeout)
		if err != nil || d <= 0 {
			s.fail("idle_timeout", fmt.Sprintf("%q is no duration", spec.IdleTimeout), "write one such as 90s, 5m or 1h")
		}
		r.Idle = d
	}
	if r.MaxBytes, err = parseBytes(spec.MaxBytes); err != nil {
		s.failErr("max_bytes", err)
	}
}

// parseBytes reads 500, 10MiB, 2GiB, and decimal units.
func parseBytes(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimRight(s, "KMGTkmgtiIbB ")
	units := map[string]int64{
		"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	unit, ok := units[strings.ToLower(strings.TrimSpace(s[len(digits):]))]
	if err != nil || !ok || n <= 0 || n > math.MaxInt64/unit {
		return 0, &patternError{fmt.Sprintf("%q is no number of bytes", s), "write one such as 500, 10MiB or 2GiB"}
	}
	return n * unit, nil
}

// apps reads the app list of a rule.
func (s *scope) apps(r *Rule, list []string) {
	r.Apps = splitApps(list)
	for _, w := range r.Apps {
		a, ok := apps[w]
		if !ok {
			s.fail("to.app", fmt.Sprintf("app %q is not known", w), "write one or more of "+strings.Join(Apps(), ", "))
			continue
		}
		r.seen |= a.seen
		r.seenAddr |= a.seen | a.addr
		r.Opaque = r.Opaque || w == "opaque"
	}
}

// subject names the rule in a sentence.
func subject(r *Rule) string {
	if r.Service != "" {
		return fmt.Sprintf("service %q", r.Service)
	}
	return fmt.Sprintf("rule %q", r.Name)
}

// describe makes the sentences that decisions give as their detail, so that a
// denial allocates nothing. They go to the client: they do not say which other
// clients may pass.
func (r *Rule) describe(who string) {
	ports := make([]string, len(r.how.ports))
	for i, p := range r.how.ports {
		ports[i] = p.String()
	}
	port := "port "
	if len(ports) > 1 {
		port = "ports "
	}
	proto := strings.ToUpper(r.how.proto.String())
	app := "TLS"
	if len(r.Apps) > 0 {
		app = list(r.Apps)
	}
	r.detail = [stages]string{
		matches:           who + " denies it",
		atSource:          who + " names it for other clients only",
		atUnauthenticated: who + " names it for clients that say who they are only",
		atPort:            who + " names it for " + port + list(ports) + " only",
		atProtocol:        who + " names it for " + proto + " only",
		atApp:             who + " names it for " + app + " only",
		atNoName:          who + " names it for TLS with a server name only",
		atRequest:         who + " names it for other requests only",
		atExpired:         who + " expired on " + r.Expires.Add(-1).Format(time.DateOnly),
		atWindow:          who + " names it for other times only",
	}
	if !r.Deny {
		r.detail[matches] = who + " lets it out on trial"
	}
	switch {
	case len(r.how.methods) > 0 && len(r.how.paths) > 0:
	case len(r.how.methods) > 0:
		r.detail[atRequest] = who + " names it for " + list(r.how.methods) + " only"
	case len(r.how.paths) > 0:
		r.detail[atRequest] = who + " names it for other paths only"
	}
}
