package policy

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// indexLine takes the index in a path as its line, and 100 for a rule's.
func indexLine(path string) int {
	_, rest, _ := strings.Cut(path, "[")
	i, _, _ := strings.Cut(rest, "]")
	n, err := strconv.Atoi(i)
	if err != nil {
		return 0
	}
	if strings.HasPrefix(path, "rules") {
		n += 100
	}
	return n + 1
}

func TestWarnings(t *testing.T) {
	rule := func(name string, hosts ...string) RuleSpec { return RuleSpec{Name: name, To: ToSpec{Hosts: hosts}} }
	expires := func(r RuleSpec, day string) RuleSpec { r.Expires = day; return r }
	for name, c := range map[string]struct {
		spec Spec
		want []string
	}{
		"nothing to say": {Spec{Allow: []string{"*.tokbox.com", "tokbox.com", "agora.*.nexthink.cloud", "www.example.com"}, Deny: []string{"a.tokbox.com"}}, nil},
		"an empty policy": {Spec{Deny: []string{"a.example.org"}}, []string{
			`empty the policy has no allow rule: every flow is denied; add names to allow, or a service`}},
		"an empty policy that reports": {Spec{Mode: "report"}, nil},
		"redundant names": {Spec{Allow: []string{"a.tokbox.com", "*.tokbox.com", "*.media.tokbox.com", "**.tokbox.com", "a.*.tokbox.com"}}, []string{
			`redundant p.yaml:1: a.tokbox.com is already covered by *.tokbox.com in line 2; remove it`,
			`redundant p.yaml:3: *.media.tokbox.com is already covered by *.tokbox.com in line 2; remove it`,
			`redundant p.yaml:4: *.tokbox.com is already covered by *.tokbox.com in line 2; remove it`,
			`redundant p.yaml:5: a.*.tokbox.com is already covered by *.tokbox.com in line 2; remove it`}},
		"entries beside a leading dot": {Spec{Allow: []string{".b.org", "b.org", "*.b.org"}}, []string{
			`redundant p.yaml:2: b.org is already covered by .b.org in line 1; remove it`,
			`redundant p.yaml:3: *.b.org is already covered by .b.org in line 1; remove it`}},
		"a name in an inner wildcard": {Spec{Allow: []string{"agora.*.nexthink.cloud", "agora.eu.nexthink.cloud"}}, []string{
			`redundant p.yaml:2: agora.eu.nexthink.cloud is already covered by agora.*.nexthink.cloud in line 1; remove it`}},
		"rules of different settings": {Spec{Rules: []RuleSpec{
			rule("a", "*.b.org"), {Name: "b", To: ToSpec{Hosts: []string{"x.b.org"}, Ports: []PortRange{"8443"}}}, expires(rule("c", "y.b.org"), "2027-01-31")}}, []string{
			`redundant p.yaml:103: y.b.org is already covered by *.b.org in line 101; remove it`}},
		"a rule that outlives the wide one": {Spec{Rules: []RuleSpec{expires(rule("a", "*.b.org"), "2027-01-31"), rule("b", "x.b.org")}}, nil},
		"shadowed by a deny rule": {Spec{Allow: []string{"a.b.org", "*.b.org", "*.c.org"}, Deny: []string{"x.c.org", "c.org", "d.org", ".b.org"}}, []string{
			`shadowed p.yaml:1: a.b.org has no effect: it is denied by .b.org in line 4; remove one of them`,
			`shadowed p.yaml:2: *.b.org has no effect: it is denied by .b.org in line 4; remove one of them`}},
		"a deny rule that is not for all": {Spec{Allow: []string{"a.b.org"}, Rules: []RuleSpec{
			{Name: "d", Action: "deny", From: FromSpec{Users: []string{"eve"}}, To: ToSpec{Hosts: []string{"a.b.org"}}}}}, nil},
		"expiry": {Spec{Rules: []RuleSpec{expires(rule("a", "a.org"), "2026-11-20"), expires(rule("b", "b.org"), "2026-11-21"), expires(rule("c", "c.org"), "2026-11-29")}}, []string{
			`expired p.yaml:101: rule "a" expired on 2026-11-20; remove it, or give it a new date`,
			`expiring p.yaml:102: rule "b" expires on 2026-11-21; give it a new date if it is still needed`}},
		"names of many tenants": {Spec{Allow: []string{"*.cloudfront.net", "d1.cloudfront.net"}}, []string{
			`multi_tenant p.yaml:1: *.cloudfront.net are the names of many tenants of one provider; name your own, or add a rule with paths and inspect: always`,
			`redundant p.yaml:2: d1.cloudfront.net is already covered by *.cloudfront.net in line 1; remove it`}},
		"a service of many tenants": {Spec{Services: []ServiceRef{{Name: "shared"}}}, []string{
			`multi_tenant p.yaml:1: service "shared" has names that serve many customers of one provider; to allow is to allow all of them; only inspection can tell them apart`}},
		"placeholders": {Spec{Allow: []string{"agora.reg.nexthink.cloud", "instance.eu.nexthink.cloud", "x.tenant.region.b.org", "reg.org"}}, []string{
			`placeholder p.yaml:1: "reg" in agora.reg.nexthink.cloud looks like a placeholder; write what it stands for, or "agora.*.nexthink.cloud"`,
			`placeholder p.yaml:2: "instance" in instance.eu.nexthink.cloud looks like a placeholder; write what it stands for, or "*.eu.nexthink.cloud"`,
			`placeholder p.yaml:3: "tenant" in x.tenant.region.b.org looks like a placeholder; write what it stands for, or "x.*.region.b.org"`}},
		"misspelled": {Spec{Allow: []string{"oscp.godaddy.com", "oscp.example.org"}}, []string{
			`misspelled p.yaml:1: oscp.godaddy.com is a known misspelling; write "ocsp.godaddy.com"`,
			`misspelled p.yaml:2: oscp.example.org is a known misspelling; write "ocsp.example.org"`}},
		"any": {Spec{Rules: []RuleSpec{{Name: "all", To: ToSpec{Any: true}}, {Name: "try", Mode: "report", To: ToSpec{Any: true}}}}, []string{
			`any p.yaml:101: rule "all" allows every destination; name its destinations, or write mode: report to learn them`}},
		"one name for two rules": {Spec{Rules: []RuleSpec{rule("mail", "a.org"), rule("mail", "b.org")}}, []string{
			`duplicate p.yaml:102: rule "mail" has the name of the rule at p.yaml:101; give each its own name, so that records tell them apart`}},
		"an app on the default port": {Spec{Rules: []RuleSpec{{Name: "m", To: ToSpec{Hosts: []string{"a.org"}, Apps: []string{"smtp"}}}}}, []string{
			`ports p.yaml:101: smtp is rarely on port 443, the default; write ports: [587]`}},
		"a wide private range": {Spec{Rules: []RuleSpec{{Name: "i", Private: []string{"10.0.0.0/8", "0.0.0.0/0"}, To: ToSpec{Hosts: []string{"a.org"}}}}}, []string{
			`private p.yaml:101: rule "i" lets its names resolve to 127.0.0.1, in private range 0.0.0.0/0; write the ranges that its servers are in`}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
			p, err := Compile([]Source{{File: "p.yaml", Spec: c.spec, Line: indexLine}}, Options{Now: now, Expand: catalog})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range p.Warnings() {
				got = append(got, fmt.Sprintf("%s %s", w.Kind, w))
			}
			if g, w := strings.Join(got, "\n"), strings.Join(c.want, "\n"); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}
