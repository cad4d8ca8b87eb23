package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explanation is a decision with all that led to it, for people.
type Explanation struct {
	Query     string     `json:"query"` // the host as it was given
	Host      string     `json:"host,omitempty"`
	Address   string     `json:"address,omitempty"`
	Allow     bool       `json:"allow"`
	WouldDeny bool       `json:"would_deny,omitempty"`
	Mode      Mode       `json:"mode"`
	Reason    Reason     `json:"reason,omitempty"`
	Detail    string     `json:"detail,omitempty"`
	Rule      string     `json:"rule,omitempty"`
	Pattern   string     `json:"pattern,omitempty"`
	Inspect   Inspect    `json:"inspect,omitempty"`
	Revision  string     `json:"policy_revision"`
	Named     []NamedBy  `json:"named_by"`              // every rule that names the destination; deny rules first, then the most specific
	Next      *time.Time `json:"next_change,omitempty"` // when one of them comes into force or goes out of it
	Hint      string     `json:"hint,omitempty"`        // a pattern that the name just misses, and what to write
}

// NamedBy is one rule that names the destination, and how far it went along.
type NamedBy struct {
	Rule        string `json:"rule"`
	Owner       string `json:"owner,omitempty"`
	Why         string `json:"why,omitempty"` // why the rule exists, as its owner wrote
	Service     string `json:"service,omitempty"`
	Action      string `json:"action"`
	Mode        Mode   `json:"mode,omitempty"` // its own, if it has one
	Pattern     string `json:"pattern"`
	Words       string `json:"words"` // the pattern in words
	File        string `json:"file,omitempty"`
	Line        int    `json:"line,omitempty"`
	Matches     bool   `json:"matches"`
	Reason      Reason `json:"reason,omitempty"` // why it does not match
	Detail      string `json:"detail,omitempty"`
	MultiTenant bool   `json:"multi_tenant,omitempty"`
	Decides     bool   `json:"decides,omitempty"`

	rank uint32
}

// Explain answers a query as Decide does, and says which rules name the
// destination and why each does or does not match.
func (p *Policy) Explain(q *Query) Explanation {
	d := p.Decide(q)
	x := Explanation{
		Query: q.Host, Host: d.Host, Allow: d.Allow, WouldDeny: d.WouldDeny, Mode: d.Mode,
		Reason: d.Reason, Detail: d.Detail, Pattern: d.Pattern, Inspect: d.Inspect, Revision: d.Revision,
		Named: []NamedBy{},
	}
	if d.Addr.IsValid() {
		x.Address = d.Addr.String()
	}
	if d.Rule != nil {
		x.Rule = d.Rule.Name
	}
	if d.Host == "" && !d.Addr.IsValid() {
		return x
	}
	p.each(d.Host, d.Addr, func(e *entry) {
		n := e.named(q, d.Addr.IsValid())
		n.Decides = e.rule == d.Rule && e.text == d.Pattern
		x.Named = append(x.Named, n)
		if t := e.rule.when.next(q.Time); !q.Time.IsZero() && !t.IsZero() && (x.Next == nil || t.Before(*x.Next)) {
			x.Next = &t
		}
	})
	if d.Reason == ReasonNoRule && d.Rule == nil {
		x.Hint = p.names.hint(d.Host)
	}
	slices.SortStableFunc(x.Named, func(a, b NamedBy) int {
		if (a.Action == "deny") != (b.Action == "deny") {
			if a.Action == "deny" {
				return -1
			}
			return 1
		}
		return int(b.rank) - int(a.rank)
	})
	return x
}

func (e *entry) named(q *Query, address bool) NamedBy {
	r := e.rule
	n := NamedBy{
		Rule: r.Name, Owner: r.Owner, Why: r.Reason, Service: r.Service, Action: "allow", Mode: r.Mode,
		Pattern: e.text, Words: e.words(), File: r.Pos.File, Line: int(e.line), MultiTenant: r.MultiTenant, rank: e.rank,
	}
	if r.Deny {
		n.Action = "deny"
	}
	at := r.check(q, address)
	if n.Matches = at == matches; !n.Matches {
		n.Reason, n.Detail = stageReasons[at], r.detail[at]
	}
	return n
}

// hint looks for the two mistakes that allow lists are made with: to expect
// *.b to cover b, and b to cover its subdomains.
func (x nameIndex) hint(name string) string {
	var buf [maxName + 2]byte
	hint := ""
	x.root.WalkPath(string(reverse(&buf, name)), func(key string, value any) bool {
		n := value.(*node)
		apex := len(key) == len(name)+1
		for _, e := range n.below {
			if apex && !e.rule.Deny {
				hint = fmt.Sprintf("%s is for subdomains only; write .%s to include %s itself", e.text, name, name)
			}
		}
		for _, e := range n.at {
			if !apex && !e.rule.Deny {
				hint = fmt.Sprintf("%s is for that name only; write .%s to include its subdomains", e.text, strings.TrimPrefix(e.text, "."))
			}
		}
		return false
	})
	return hint
}

// words says what an entry names.
func (e *entry) words() string {
	if e.rank&^rankEnforced == 0 {
		return "every destination"
	}
	p, err := ParsePattern(e.text)
	if err != nil { // only an address range is no pattern
		return "addresses in " + e.text + ", asked for as such"
	}
	p.one = e.rule.one && p.lead != exact
	return p.Words()
}
