package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// lines gives every path of a source a line of its own: the order of the
// paths, from 10.
func lines(paths ...string) func(string) int {
	return func(p string) int {
		if i := slices.Index(paths, p); i >= 0 {
			return 10 + i
		}
		return 0
	}
}

func TestCompileSaysAllThatIsWrong(t *testing.T) {
	src := Source{
		File: "sluice.yaml",
		Line: lines("mode", "allow", "allow[1]", "rules[0]", "rules[0].to.hosts[0]", "rules[0].to.ports[1]"),
		Spec: Spec{
			Mode:     "strict",
			Services: []ServiceRef{{Name: "nexthink"}},
			Allow:    []string{"a.example.org", "*"},
			Rules: []RuleSpec{
				{
					Action: "permit", Mode: "maybe", Expires: "31/01/2027", Inspect: "sometimes", IdleTimeout: "5", MaxBytes: "lots",
					Private: []string{"10.0.0.1/8"}, Windows: []WindowSpec{{Days: []string{"monday"}}, {From: "8"}, {Zone: "Mars/Olympus"}},
					From: FromSpec{CIDRs: []string{"ten"}, Users: []string{""}, Labels: []string{"web"}},
					To: ToSpec{Hosts: []string{"x:25"}, Ports: []PortRange{"25", "0", "9-5"}, Apps: []string{"smpt"}, Protocol: "icmp",
						Methods: []string{"get"}, Paths: []string{"a", "/a*b", "/a/../b"}, Depth: 2},
				},
				{Name: "nowhere"},
				{Name: "both", To: ToSpec{Any: true, Hosts: []string{"a.example.org"}}},
				{Name: "no deny", Action: "deny", Mode: "open", To: ToSpec{Any: true}},
				{Name: "blind", To: ToSpec{Hosts: []string{"a.example.org"}, Methods: []string{"GET"}}},
			},
		},
	}
	_, err := Compile([]Source{src}, Options{})
	if err == nil {
		t.Fatal("it compiles")
	}
	want := []string{
		`sluice.yaml:10: mode "strict" is not one of enforce, report, open; write enforce, report or open`,
		`sluice.yaml: services[0]: service "nexthink" is not known: there is no catalog; list its hosts under allow`,
		`sluice.yaml:12: "*" would be every name; write *.name.tld; to let everything go use mode: open, or a rule with to: {any: true}`,
		`sluice.yaml:13: action "permit" is not known; write allow or deny`,
		`sluice.yaml:13: mode "maybe" is not one of enforce, report, open; write enforce, report or open`,
		`sluice.yaml:13: inspect "sometimes" is not one of never, always; write never or always`,
		`sluice.yaml:13: app "smpt" is not known; write one or more of ` + strings.Join(Apps(), ", "),
		`sluice.yaml:13: "ten" is not an address range; write one such as 192.0.2.0/24`,
		`sluice.yaml:13: an empty value; remove it`,
		`sluice.yaml:13: label "web" has no value; write key=value`,
		`sluice.yaml:15: "0" is no port; write one of 1 to 65535, or a range such as 5228-5230`,
		`sluice.yaml:13: "9-5" is no port; write one of 1 to 65535, or a range such as 5228-5230`,
		`sluice.yaml:13: protocol "icmp" is not one of tcp, udp, any; write tcp or udp, or any for both`,
		`sluice.yaml:13: "get" is no method; write it in capitals, such as GET`,
		`sluice.yaml:13: path "a" does not start with a slash; write "/a"`,
		`sluice.yaml:13: path "/a*b" has a * that is not at its end, or a query; write an exact path, or a prefix that ends in *`,
		`sluice.yaml:13: path "/a/../b" can be read in more than one way; write it without dot or empty segments and without needless percent-encoding`,
		`sluice.yaml:13: methods and paths can not be seen inside TLS; add app: http for plain HTTP, or inspect: always`,
		`sluice.yaml:13: "10.0.0.1/8" has bits set right of its length; write 10.0.0.0/8, or 10.0.0.1 for the one address`,
		`sluice.yaml:13: expires "31/01/2027" is no date; write 2027-01-31, or a moment such as 2027-01-31T18:00:00Z`,
		`sluice.yaml:13: "monday" is no day of the week; write mon, tue, wed, thu, fri, sat, sun, or a range such as mon-fri`,
		`sluice.yaml:13: "8" is no time of day; write one such as 08:00, in quotes`,
		`sluice.yaml:13: zone "Mars/Olympus" is not known; write an IANA name such as Europe/Brussels; the system needs time zone data`,
		`sluice.yaml:13: "5" is no duration; write one such as 90s, 5m or 1h`,
		`sluice.yaml:13: "lots" is no number of bytes; write one such as 500, 10MiB or 2GiB`,
		`sluice.yaml:13: depth 2 is not known; write 1 for exactly one label, or leave it out for any number`,
		`sluice.yaml:14: "x:25" has a port; write a rule with to: {hosts: ["x"], ports: [25]}`,
		`sluice.yaml: rules[1].to: the rule names no destination; add hosts, cidrs or services, or any: true for every destination`,
		`sluice.yaml: rules[2].to: the rule names destinations, and any; remove one of them`,
		`sluice.yaml: rules[3].mode: a deny rule in open mode denies nothing; remove the rule, or write mode: report to try it out`,
		`sluice.yaml: rules[4].to: methods and paths can not be seen inside TLS; add app: http for plain HTTP, or inspect: always`,
	}
	got := strings.Split(err.Error(), "\n")
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("missing: %s", want[i])
		case i >= len(want):
			t.Errorf("too much: %s", got[i])
		case got[i] != want[i]:
			t.Errorf("\ngot  %s\nwant %s", got[i], want[i])
		}
	}
	var e *Error
	if !errors.As(err, &e) || e.Pos != (Position{File: "sluice.yaml", Line: 10}) || e.Path != "mode" || e.Fix == "" {
		t.Errorf("the first *Error is %+v", e)
	}
}

func TestSourcesAgreeOnTheMode(t *testing.T) {
	_, err := Compile([]Source{{File: "a", Spec: Spec{Mode: "audit"}}, {File: "b"}, {File: "c", Spec: Spec{Mode: "enforce"}}}, Options{})
	if err == nil || err.Error() != "c: mode: mode enforce here, and report in another file; set the mode in one file only" {
		t.Errorf("error %v", err)
	}
	p, err := Compile([]Source{{File: "a"}, {File: "b", Spec: Spec{Mode: "audit"}}}, Options{})
	if err != nil || p.Mode() != Report {
		t.Errorf("mode %v, error %v", p.Mode(), err)
	}
}

// catalog is a small one.
func catalog(ref ServiceRef) ([]RuleSpec, error) {
	switch ref.Name {
	case "video":
		return []RuleSpec{
			{To: ToSpec{Hosts: []string{"*.tokbox.com"}, Apps: []string{"https|wss"}}, Inspect: "never"},
			{Name: "video relays", To: ToSpec{Hosts: []string{"*.tokbox.com"}, Ports: []PortRange{"3478"}, Protocol: "udp", Apps: []string{"turn"}}},
		}, nil
	case "shared":
		return []RuleSpec{{To: ToSpec{Hosts: []string{"*.storage.example.org"}}, MultiTenant: true}}, nil
	case "broken":
		return []RuleSpec{{To: ToSpec{Hosts: []string{"*"}}}}, nil
	}
	return nil, fmt.Errorf("service %q is not in the catalog", ref.Name)
}

func TestServices(t *testing.T) {
	p, err := Compile([]Source{{File: "s.yaml", Spec: Spec{
		Services: []ServiceRef{{Name: "shared"}},
		Rules: []RuleSpec{
			{Name: "calls", Owner: "av", Expires: "2027-01-31", From: FromSpec{Users: []string{"bob"}},
				To: ToSpec{Services: []ServiceRef{{Name: "video"}}, Hosts: []string{"calls.example.org"}}},
			{Name: "no calls", Action: "Deny", From: FromSpec{Users: []string{"eve"}}, To: ToSpec{Services: []ServiceRef{{Name: "video"}}}},
		},
	}}}, Options{Expand: catalog})
	if err != nil {
		t.Fatal(err)
	}
	for question, want := range map[string]string{
		"a.storage.example.org":                         "allow shared",
		"calls.example.org user=bob":                    "allow calls",
		"a.tokbox.com user=bob":                         "allow calls",
		"a.tokbox.com user=bob at=2027-02-01T00:00:00Z": `deny expired: service "video" expired on 2027-01-31`,
		"a.tokbox.com user=bob udp :3478 seen=stun":     "allow calls",
		"a.tokbox.com":                                  `deny unauthenticated: service "video" names it for clients that say who they are only`,
		"a.tokbox.com :9 user=eve":                      `deny no calls deny_rule: service "video" denies it`,
	} {
		d := p.Decide(ask(t, question))
		if got := answer(d); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", question, got, want)
		}
		if strings.HasPrefix(want, "allow calls") && strings.Contains(question, "tokbox") && (d.Rule.Service != "video" || d.Rule.Owner != "av") {
			t.Errorf("%s: service %q, owner %q", question, d.Rule.Service, d.Rule.Owner)
		}
	}
	if got := p.Services(); !slices.Equal(got, []string{"shared", "video"}) {
		t.Errorf("services %q", got)
	}
}

func TestServicesThatFail(t *testing.T) {
	for name, want := range map[string]string{
		"nothing": `s.yaml:4: service "nothing" is not in the catalog`,
		"broken":  `s.yaml:4: service "broken": "*" would be every name; write *.name.tld; to let everything go use mode: open, or a rule with to: {any: true}`,
	} {
		_, err := Compile([]Source{{File: "s.yaml", Line: func(p string) int { return map[string]int{"services[0]": 4}[p] },
			Spec: Spec{Services: []ServiceRef{{Name: name}}}}}, Options{Expand: catalog})
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := Compile([]Source{{File: "s.yaml", Spec: Spec{Rules: []RuleSpec{{To: ToSpec{Services: []ServiceRef{{Name: "video"}}, Ports: []PortRange{"99"}}}}}}}, Options{Expand: catalog})
	if err == nil || !strings.Contains(err.Error(), "ports and app have no effect on services") {
		t.Errorf("ports beside services: %v", err)
	}
}

func TestRevision(t *testing.T) {
	base := func() []Source {
		return []Source{{File: "a.yaml", Spec: Spec{Allow: []string{"a.example.org"}, Services: []ServiceRef{{Name: "video"}}}}}
	}
	revision := func(sources []Source, expand func(ServiceRef) ([]RuleSpec, error)) string {
		p, err := Compile(sources, Options{Expand: expand, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(https("a.example.org")); d.Revision != p.Revision() || len(d.Revision) != 12 {
			t.Errorf("revision %q in decisions, %q of the policy", d.Revision, p.Revision())
		}
		return p.Revision()
	}
	first := revision(base(), catalog)
	moved := base()
	moved[0].File, moved[0].Line = "b.yaml", func(string) int { return 9 }
	if revision(moved, catalog) != first {
		t.Error("a file's name changes the revision")
	}
	changed := base()
	changed[0].Spec.Allow = []string{"b.example.org", "a.example.org"}
	if revision(changed, catalog) == first {
		t.Error("a new name does not change the revision")
	}
	if revision(base(), func(ServiceRef) ([]RuleSpec, error) { return nil, nil }) == first {
		t.Error("a new catalog does not change the revision")
	}
}

func TestSettingsOfARule(t *testing.T) {
	p := compile(t, Spec{Rules: []RuleSpec{{
		Name: "r", Owner: "o", Reason: "because", Mode: "block", Inspect: "Never", IdleTimeout: "90s", MaxBytes: "10MiB",
		Private: []string{"10.0.0.0/8", "fd00::1", "::ffff:192.168.0.0/112"}, Expires: "2027-01-31T18:00:00+01:00",
		To: ToSpec{Hosts: []string{"a.example.org"}, Apps: []string{"HTTPS | wss", "opaque"}, Ports: []PortRange{"443", "400-442", " 444 - 450 ", "99"}},
	}}})
	r := p.Rules()[0]
	if r.Owner != "o" || r.Reason != "because" || r.Mode != Enforce || r.Inspect != InspectNever || r.Idle != 90*time.Second || r.MaxBytes != 10<<20 || !r.Opaque {
		t.Errorf("rule %+v", r)
	}
	if got := fmt.Sprint(r.Private); got != "[10.0.0.0/8 fd00::1/128 192.168.0.0/16]" {
		t.Errorf("private %s", got)
	}
	if got := fmt.Sprint(r.Apps, r.how.ports); got != "[https wss opaque] [99 400-450]" {
		t.Errorf("apps and ports %s", got)
	}
	if !r.Expires.Equal(time.Date(2027, 1, 31, 17, 0, 0, 0, time.UTC)) {
		t.Errorf("expires %v", r.Expires)
	}
	for in, want := range map[string]int64{"1": 1, "500B": 500, "2GiB": 2 << 30, "3 mb": 3e6, "0": -1, "-1": -1, "9999999TiB": -1, "1.5GiB": -1, "GiB": -1} {
		n, err := parseBytes(in)
		if err != nil {
			n = -1
		}
		if n != want {
			t.Errorf("%q is %d bytes, want %d", in, n, want)
		}
	}
}

func TestApps(t *testing.T) {
	all := []Seen{SeenNothing, SeenTLS, SeenTLSNoName, SeenHTTP, SeenSTUN, SeenOpaque, SeenSilent}
	for app, want := range map[string]string{
		"https": "nothing tls", "quic": "nothing tls", "tls": "nothing tls tls_no_name", "turns": "nothing tls",
		"http": "nothing http", "stun": "nothing stun", "turn": "nothing stun",
		"smtp": "nothing opaque silent", "ldap": "nothing opaque", "rtp": "nothing stun opaque",
		"opaque": "nothing tls tls_no_name http stun opaque silent",
	} {
		p := compile(t, Spec{Rules: []RuleSpec{{To: ToSpec{Hosts: []string{"a.example.org"}, Ports: []PortRange{"7"}, Apps: []string{app}}}}})
		var got []string
		for _, s := range all {
			if p.Rules()[0].Accepts(s, 7, false) {
				got = append(got, s.String())
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s accepts %q, want %q", app, got, want)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("report", "*.example.org", "443", "https|wss", "10.0.0.0/8", "2027-01-31", "mon-fri", "08:00", "10MiB", "a=b")
	f.Add("", "a.*.b.c", "1-2", "opaque", "::1", "2027-01-31T00:00:00Z", "sat-mon", "24:00", "1", "=")
	f.Fuzz(func(t *testing.T, mode, host, port, app, cidr, expires, day, clock, bytes, label string) {
		rule := RuleSpec{
			Mode: mode, Expires: expires, MaxBytes: bytes, Windows: []WindowSpec{{Days: []string{day}, From: clock, To: "18:00"}}, Private: []string{cidr},
			From: FromSpec{CIDRs: []string{cidr}, Labels: []string{label}},
			To:   ToSpec{Hosts: []string{host}, CIDRs: []string{cidr}, Ports: []PortRange{PortRange(port)}, Apps: []string{app}},
		}
		deny := rule
		deny.Action = "deny"
		for _, spec := range []Spec{
			{Mode: mode, Allow: []string{host}, Deny: []string{host}},
			{Rules: []RuleSpec{rule}}, {Rules: []RuleSpec{rule, deny}},
		} {
			now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
			p, err := Compile([]Source{{Spec: spec}}, Options{Now: now})
			if err != nil {
				continue
			}
			q := &Query{Host: host, Port: 443, Time: now}
			d := p.Decide(q)
			if x := p.Explain(q); x.Allow != d.Allow || x.Reason != d.Reason {
				t.Fatalf("decided %+v, explained %+v", d, x)
			}
			if len(spec.Deny) > 0 && d.Allow && p.Mode() == Enforce {
				t.Fatalf("%q is allowed, and denied: %+v", host, d)
			}
			p.NextChange(now)
		}
	})
}
