package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/net/publicsuffix"
)

// soon is how long before a rule's expiry a warning says so.
const soon = 7 * 24 * time.Hour

// lint looks for what compiles and is hardly meant.
func (c *compiler) lint() {
	if !slices.ContainsFunc(c.p.rules, func(r *Rule) bool { return !r.Deny }) && c.p.mode == Enforce {
		c.warn(Position{}, KindEmpty, "the policy has no allow rule: every flow is denied", "add names to allow, or a service")
	}
	names := map[string]*Rule{}
	for _, r := range c.p.rules {
		c.lintRule(r)
		first, ok := names[r.Name]
		if ok && r.Service == "" && r.Name != "allow" && r.Name != "deny" {
			c.warn(r.Pos, KindDuplicate, fmt.Sprintf("rule %q has the name of the rule at %s", r.Name, first.Pos), "give each its own name, so that records tell them apart")
		}
		if !ok {
			names[r.Name] = r
		}
	}
	for i := range c.items {
		c.lintItem(&c.items[i])
	}
	slices.SortStableFunc(c.warnings, func(a, b Warning) int {
		return cmp.Or(strings.Compare(a.Pos.File, b.Pos.File), a.Pos.Line-b.Pos.Line)
	})
	c.p.warnings = slices.Compact(c.warnings) // a service with many rules is one thing to say
}

func (c *compiler) lintRule(r *Rule) {
	if r.AnyName && !r.Deny && r.Mode != Report {
		c.warn(r.Pos, KindAny, fmt.Sprintf("rule %q allows every destination", r.Name), "name its destinations, or write mode: report to learn them")
	}
	if r.MultiTenant && r.Service != "" {
		c.warn(r.Pos, KindMultiTenant, fmt.Sprintf("service %q has names that serve many customers of one provider", r.Service), "to allow is to allow all of them; only inspection can tell them apart")
	}
	if now := c.o.Now; !now.IsZero() && !r.Expires.IsZero() {
		switch left := r.Expires.Sub(now); {
		case left <= 0:
			c.warn(r.Pos, KindExpired, fmt.Sprintf("rule %q expired on %s", r.Name, lastDay(r.Expires)), "remove it, or give it a new date")
		case left <= soon:
			c.warn(r.Pos, KindExpiring, fmt.Sprintf("rule %q expires on %s", r.Name, lastDay(r.Expires)), "give it a new date if it is still needed")
		}
	}
	for _, p := range r.Private {
		for _, a := range dangerous {
			if p.Contains(a) {
				c.warn(r.Pos, KindPrivate, fmt.Sprintf("rule %q lets its names resolve to %s, in private range %s", r.Name, a, p), "write the ranges that its servers are in")
				break
			}
		}
	}
}

// lastDay is the day to write for an expiry: a date in the file stands for its
// own end.
func lastDay(t time.Time) string { return t.Add(-1).Format(time.DateOnly) }

// dangerous are addresses that no name should resolve to: this host, and the
// metadata services of clouds.
var dangerous = []netip.Addr{
	netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"),
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("fd00:ec2::254"),
}

// lintItem looks at one pattern among all others.
func (c *compiler) lintItem(it *item) {
	pos := Position{File: it.entry.rule.Pos.File, Line: int(it.entry.line)}
	text := it.entry.text
	if it.entry.rule.Service != "" {
		return // not the user's to mend, and often denied in part on purpose
	}
	if !it.entry.rule.Deny {
		if fix, ok := respell(it.pattern); ok {
			c.warn(pos, KindMisspelled, fmt.Sprintf("%s is a known misspelling", text), fmt.Sprintf("write %q", fix))
		}
		if label, fix, ok := placeholder(it.pattern); ok {
			c.warn(pos, KindPlaceholder, fmt.Sprintf("%q in %s looks like a placeholder", label, text), fmt.Sprintf("write what it stands for, or %q", fix))
		}
	}
	by, deny := c.coveredBy(it)
	switch {
	case by == nil:
	case deny:
		c.warn(pos, KindShadowed, fmt.Sprintf("%s has no effect: it is denied by %s%s", text, by.text, lineOf(by, pos)), "remove one of them")
	default:
		c.warn(pos, KindRedundant, fmt.Sprintf("%s is already covered by %s%s", text, by.text, lineOf(by, pos)), "remove it")
	}
}

func lineOf(e *entry, from Position) string {
	at := Position{File: e.rule.Pos.File, Line: int(e.line)}
	switch {
	case at.Line == 0 || at == from:
		return ""
	case at.File == from.File:
		return fmt.Sprintf(" in line %d", at.Line)
	}
	return " at " + at.String()
}

// coveredBy returns an entry that makes the item void: a deny rule for all
// clients, times and ports, or an entry of equal settings whose pattern covers
// the item's. Of two equal entries the later one is void.
func (c *compiler) coveredBy(it *item) (by *entry, deny bool) {
	r := it.entry.rule
	c.p.names.candidates(it.pattern, func(e *entry) {
		p := c.items[e.seq].pattern
		switch {
		case deny || !p.covers(it.pattern):
		case e.rule.Deny && !r.Deny && e.rule.blocks && e.rule.always():
			by, deny = e, true
		case e.rule.Deny != r.Deny || e.rule.key != r.key || !outlives(e.rule, r):
		case p == it.pattern && e.seq >= it.entry.seq:
		case by == nil:
			by = e
		}
	})
	return by, deny
}

// always reports whether the rule is for every client, time, port and request.
func (r *Rule) always() bool {
	return !r.who.set && !r.when.bound() && len(r.Apps) == 0 && r.how.proto == AnyProtocol &&
		len(r.how.ports)+len(r.how.methods)+len(r.how.paths) == 0
}

func outlives(a, b *Rule) bool {
	return a.Expires.IsZero() || !b.Expires.IsZero() && !a.Expires.Before(b.Expires)
}

// candidates calls visit for the entries whose pattern may cover p.
func (x nameIndex) candidates(p Pattern, visit func(*entry)) {
	if !p.wild() {
		x.walk(p.fixed, visit)
		return
	}
	var buf [maxName + 2]byte
	key := reverse(&buf, p.tail())
	x.root.WalkPath(unsafe.String(unsafe.SliceData(key), len(key)), func(_ string, value any) bool {
		n := value.(*node)
		for i := range n.below {
			visit(&n.below[i])
		}
		return false
	})
}

// misspelled holds names that vendors' own lists have wrong.
var misspelled = map[string]string{
	"oscp.godaddy.com": "ocsp.godaddy.com",
}

func respell(p Pattern) (string, bool) {
	if fix, ok := misspelled[p.fixed]; ok {
		p.fixed = fix
		return p.String(), true
	}
	if rest, ok := strings.CutPrefix(p.fixed, "oscp."); ok {
		p.fixed = "ocsp." + rest
		return p.String(), true
	}
	return "", false
}

// placeholders are labels that documents write for "put yours here".
var placeholders = []string{
	"changeme", "company", "customer", "customername", "example", "instance", "instance-name", "mycompany", "mydomain",
	"mytenant", "placeholder", "reg", "region", "tenant", "tenant-name", "your-company", "your-domain", "your-instance",
	"your-region", "your-tenant", "yourcompany", "yourdomain", "yourinstance", "yourtenant", "xxx",
}

// placeholder finds a label left of the registered domain that stands for
// something else, and the pattern that says so.
func placeholder(p Pattern) (label, fix string, ok bool) {
	domain, err := publicsuffix.EffectiveTLDPlusOne(p.tail())
	if err != nil {
		return "", "", false
	}
	left, cut := strings.CutSuffix(p.fixed, "."+domain)
	if !cut {
		return "", "", false
	}
	labels := strings.Split(left, ".")
	for i, l := range labels {
		if !slices.Contains(placeholders, l) {
			continue
		}
		if i == 0 { // what stands left of it would be a leading wildcard
			return l, "*." + strings.Join(append(labels[1:], domain), "."), true
		}
		labels[i] = "*"
		p.fixed = strings.Join(append(labels, domain), ".")
		return l, p.String(), true
	}
	return "", "", false
}

// settingsKey is equal for rules that differ only in their destinations, and
// in what they are called.
func settingsKey(spec RuleSpec) string {
	spec.Name, spec.Owner, spec.Reason, spec.Expires, spec.Service, spec.MultiTenant = "", "", "", "", "", false
	spec.To.Hosts, spec.To.CIDRs, spec.To.Services, spec.To.Depth = nil, nil, nil, 0
	if spec.Action = strings.ToLower(spec.Action); spec.Action == "allow" {
		spec.Action = ""
	}
	b, _ := json.Marshal(spec) // strings, numbers and maps of strings only
	return string(b)
}
