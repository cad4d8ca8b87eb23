package policy

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ask reads a question: a host, then words such as :587, udp, seen=silent,
// from=10.2.0.1, user=bob, at=2027-01-31T12:00:00Z, method=GET, path=/x. The
// default is a browser's flow by TLS to port 443.
func ask(t testing.TB, s string) *Query {
	t.Helper()
	q := &Query{Port: 443, Proto: TCP, Seen: SeenTLS, Time: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	id := Identity{}
	for i, w := range strings.Fields(s) {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch {
		case i == 0:
			if q.Host = w; w == "-" {
				q.Host = ""
			}
			continue
		case w[0] == ':':
			var port uint64
			port, err = strconv.ParseUint(w[1:], 10, 16)
			q.Port = uint16(port)
		case w == "udp" || w == "tcp" || w == "any":
			err = q.Proto.UnmarshalText([]byte(w))
		case key == "seen":
			err = q.Seen.UnmarshalText([]byte(value))
		case key == "from":
			q.Source, err = netip.ParseAddr(value)
		case key == "addr":
			q.Addr, err = netip.ParseAddr(value)
		case key == "at":
			q.Time, err = time.Parse(time.RFC3339, value)
		case key == "user":
			id.User, q.Identity = value, &id
		case key == "group":
			id.Groups, q.Identity = append(id.Groups, value), &id
		case key == "subject":
			id.Subject, q.Identity = value, &id
		case key == "namespace":
			id.Namespace, q.Identity = value, &id
		case key == "label":
			k, v, _ := strings.Cut(value, ":")
			id.Labels, q.Identity = map[string]string{k: v}, &id
		case key == "uid":
			var uid uint64
			uid, err = strconv.ParseUint(value, 10, 32)
			id.UID, id.HasUID, q.Identity = uint32(uid), true, &id
		case key == "process":
			id.Process, q.Identity = value, &id
		case key == "method":
			q.Method = value
		case key == "path":
			q.Path = value
		default:
			t.Fatalf("question %q: %q is not known", s, w)
		}
		if err != nil {
			t.Fatalf("question %q: %v", s, err)
		}
	}
	return q
}

// answer writes a decision as one line: verdict, rule, reason and detail.
func answer(d Decision) string {
	verdict := "deny"
	switch {
	case d.WouldDeny:
		verdict = "report"
	case d.Allow:
		verdict = "allow"
	}
	if d.Rule != nil {
		verdict += " " + d.Rule.Name
	}
	if d.Reason != "" {
		verdict += " " + string(d.Reason) + ": " + d.Detail
	}
	return verdict
}

// world is a policy with a rule for each thing that a rule can ask for.
var world = Spec{
	Allow: []string{"*.tokbox.com", "skinapi.soti.net", ".supportsquare.io"},
	Deny:  []string{"telemetry.tokbox.com", "*.bad.example.org"},
	Rules: []RuleSpec{
		{Name: "mail", From: FromSpec{CIDRs: []string{"10.2.0.0/16", "fd00:2::/32"}},
			To: ToSpec{Hosts: []string{"smtp.example.org"}, Ports: []PortRange{"587"}, Apps: []string{"smtp"}}, Expires: "2027-01-31"},
		{Name: "turn", To: ToSpec{Hosts: []string{"turn.example.org"}, Protocol: "udp", Ports: []PortRange{"3478", "50000-50099"}, Apps: []string{"stun|turn"}}},
		{Name: "turns", To: ToSpec{Hosts: []string{"turn.example.net"}, CIDRs: []string{"192.0.2.0/24"}, Apps: []string{"turns"}}},
		{Name: "plain", To: ToSpec{Hosts: []string{"ocsp.example.org"}, Apps: []string{"http-ocsp"}, Methods: []string{"GET", "POST"}}},
		{Name: "bucket", Inspect: "always", To: ToSpec{Hosts: []string{"storage.example.org"}, Methods: []string{"GET"}, Paths: []string{"/mine/*", "/health"}}},
		{Name: "staff", From: FromSpec{Groups: []string{"staff"}}, To: ToSpec{Hosts: []string{"staff.example.org"}}},
		{Name: "bob", From: FromSpec{Users: []string{"bob"}}, To: ToSpec{Hosts: []string{"bob.example.org"}}},
		{Name: "pods", From: FromSpec{Namespaces: []string{"shop"}, Labels: []string{"app=web"}}, To: ToSpec{Hosts: []string{"pods.example.org"}}},
		{Name: "root", From: FromSpec{UIDs: []uint32{0}}, To: ToSpec{Hosts: []string{"root.example.org"}}},
		{Name: "office", To: ToSpec{Hosts: []string{"office.example.org"}},
			Windows: []WindowSpec{{Days: []string{"mon-fri"}, From: "08:00", To: "18:00", Zone: "UTC"}}},
		{Name: "blob", To: ToSpec{Hosts: []string{"blob.example.org"}, Ports: []PortRange{"5494"}}},
		{Name: "raw", To: ToSpec{Hosts: []string{"raw.example.org"}, Apps: []string{"opaque"}}},
		{Name: "quic", To: ToSpec{Hosts: []string{"quic.example.org"}, Apps: []string{"quic"}}},
		{Name: "one", To: ToSpec{Hosts: []string{"*.one.example.org"}, Depth: 1}},
		{Name: "range", To: ToSpec{CIDRs: []string{"198.51.100.0/24", "2001:db8::/32"}}},
		{Name: "hole", Action: "deny", To: ToSpec{CIDRs: []string{"198.51.100.66"}}},
		{Name: "trial", Mode: "report", To: ToSpec{Hosts: []string{"trial.example.org"}}},
		{Name: "free", Mode: "open", To: ToSpec{Hosts: []string{"free.example.org"}}},
		{Name: "no ssh", Action: "deny", To: ToSpec{Any: true, Ports: []PortRange{"22"}}},
		{Name: "no cleartext", Action: "deny", To: ToSpec{Hosts: []string{"raw.example.org"}, Apps: []string{"http"}}},
		{Name: "maybe", Action: "deny", Mode: "report", To: ToSpec{Hosts: []string{"try.tokbox.com", "try.example.org"}}},
	},
}

func TestDecide(t *testing.T) {
	for question, want := range map[string]string{
		// Names.
		"a.b.tokbox.com":              "allow allow",
		"A.B.TokBox.Com.":             "allow allow",
		"tokbox.com":                  "deny no_rule: no rule names this host",
		"supportsquare.io udp":        "allow allow",
		"x.one.example.org":           "allow one",
		"x.y.one.example.org":         "deny no_rule: no rule names this host",
		"one.example.org":             "deny no_rule: no rule names this host",
		"telemetry.tokbox.com":        "deny deny deny_rule: the deny list denies it",
		"telemetry.tokbox.com :9 udp": "deny deny deny_rule: the deny list denies it",
		"a..tokbox.com":               "deny malformed_name: the host has an empty label",
		"a.tokbox.com:443":            "deny malformed_name: the host has a colon but is no IPv6 address; the port is not part of the name",
		"tökbox.com":                  "deny malformed_name: the host has characters outside ASCII; names arrive as A-labels (xn--)",
		"-":                           "deny malformed_name: the client gave neither a name nor an address",
		"- seen=tls_no_name":          "deny no_name: the client sent no server name, and no rule names the address",
		// A question before a port is known, as DNS asks.
		"a.tokbox.com seen=nothing :0 any":     "allow allow",
		"turn.example.org seen=nothing :0 any": "allow turn",
		"turn.example.org seen=nothing :0 udp": "allow turn",
		"turn.example.org seen=nothing :0":     `deny protocol: rule "turn" names it for UDP only`,
		"telemetry.tokbox.com :0 any":          "deny deny deny_rule: the deny list denies it",
		"nowhere.example.com :0 any":           "deny no_rule: no rule names this host",
		"turn.example.org :3478 any seen=stun": `deny protocol: rule "turn" names it for UDP only`,

		// Addresses.
		"192.0.2.7 seen=tls_no_name":        "allow turns",
		"192.0.2.7 seen=stun":               `deny protocol: rule "turns" names it for turns only`,
		"192.0.3.7":                         "deny address_literal: no rule names this address; ask for the host by its name",
		"- addr=192.0.3.7 seen=tls_no_name": "deny no_name: the client sent no server name, and no rule names the address",
		"- addr=::ffff:192.0.2.7":           "allow turns",
		"[2001:db8::1] seen=tls_no_name":    "allow range",
		"::ffff:198.51.100.7":               "allow range",
		"198.51.100.66":                     `deny hole deny_rule: rule "hole" denies it`,
		"0xc6.51.100.66":                    "deny address_literal: the host is an address in a non-standard spelling",
		"3325256770":                        "deny address_literal: the host is an address in a non-standard spelling",
		"192.0.2.7.":                        "deny address_literal: the host is an address in a non-standard spelling",
		"fe80::1%eth0":                      "deny address_literal: the host is an address with a zone",

		// Who.
		"smtp.example.org :587 seen=silent from=10.2.3.4":        "allow mail",
		"smtp.example.org :587 seen=silent from=::ffff:10.2.3.4": "allow mail",
		"smtp.example.org :587 seen=silent from=fd00:2::9":       "allow mail",
		"smtp.example.org :587 seen=silent from=10.3.3.4":        `deny source: rule "mail" names it for other clients only`,
		"smtp.example.org :587 seen=silent":                      `deny source: rule "mail" names it for other clients only`,
		"bob.example.org user=bob":                               "allow bob",
		"bob.example.org user=eve":                               `deny source: rule "bob" names it for other clients only`,
		"bob.example.org":                                        `deny unauthenticated: rule "bob" names it for clients that say who they are only`,
		"bob.example.org namespace=shop":                         `deny unauthenticated: rule "bob" names it for clients that say who they are only`,
		"staff.example.org user=eve group=x group=staff":         "allow staff",
		"pods.example.org namespace=shop label=app:web":          "allow pods",
		"pods.example.org namespace=shop label=app:db":           `deny source: rule "pods" names it for other clients only`,
		"pods.example.org":                                       `deny source: rule "pods" names it for other clients only`,
		"root.example.org uid=0":                                 "allow root",
		"root.example.org process=/bin/sh":                       `deny source: rule "root" names it for other clients only`,

		// How.
		"a.tokbox.com :8443":                         "deny port: the allow list names it for port 443 only",
		"a.tokbox.com seen=nothing":                  "allow allow",
		"a.tokbox.com seen=opaque":                   "deny protocol: the allow list names it for https and wss only",
		"a.tokbox.com seen=tls_no_name":              "deny no_name: the allow list names it for TLS with a server name only",
		"smtp.example.org :25 from=10.2.3.4":         `deny port: rule "mail" names it for port 587 only`,
		"smtp.example.org :587 from=10.2.3.4":        `deny protocol: rule "mail" names it for smtp only`,
		"turn.example.org :3478 udp seen=stun":       "allow turn",
		"turn.example.org :50050 udp seen=stun":      "allow turn",
		"turn.example.org :3478 seen=stun":           `deny protocol: rule "turn" names it for UDP only`,
		"turn.example.org :3479 udp":                 `deny port: rule "turn" names it for ports 3478 and 50000-50099 only`,
		"turn.example.net":                           "allow turns",
		"turn.example.net seen=tls_no_name":          `deny no_name: rule "turns" names it for TLS with a server name only`,
		"blob.example.org :5494 seen=opaque":         "allow blob",
		"raw.example.org seen=silent":                "allow raw",
		"raw.example.org seen=http":                  `deny no cleartext deny_rule: rule "no cleartext" denies it`,
		"raw.example.org seen=nothing":               "allow raw",
		"quic.example.org udp":                       "allow quic",
		"quic.example.org":                           `deny protocol: rule "quic" names it for UDP only`,
		"a.tokbox.com :22":                           `deny no ssh deny_rule: rule "no ssh" denies it`,
		"one.example.net :22 seen=nothing":           `deny no ssh deny_rule: rule "no ssh" denies it`,
		"ocsp.example.org :80 seen=http method=POST": "allow plain",
		"ocsp.example.org :80 seen=http method=PUT":  `deny request: rule "plain" names it for GET and POST only`,
		"ocsp.example.org :80 seen=nothing":          "allow plain",
		"ocsp.example.org :80 seen=http":             `deny request: rule "plain" names it for GET and POST only`,

		"storage.example.org":                                  "allow bucket",
		"storage.example.org method=GET path=/mine/a":          "allow bucket",
		"storage.example.org method=GET path=/health":          "allow bucket",
		"storage.example.org method=GET path=/healthy":         `deny request: rule "bucket" names it for other requests only`,
		"storage.example.org method=GET path=/mine/../theirs":  `deny request: rule "bucket" names it for other requests only`,
		"storage.example.org method=GET path=/mine/%2e%2e/x":   `deny request: rule "bucket" names it for other requests only`,
		"storage.example.org method=GET path=/mine/a%20b":      "allow bucket",
		"storage.example.org method=DELETE path=/mine/a":       `deny request: rule "bucket" names it for other requests only`,
		"storage.example.org seen=tls_no_name":                 `deny no_name: rule "bucket" names it for TLS with a server name only`,
		"storage.example.org method=GET path=/mine/a seen=tls": "allow bucket",

		// When.
		"smtp.example.org :587 seen=silent from=10.2.3.4 at=2027-01-31T23:59:59Z": "allow mail",
		"smtp.example.org :587 seen=silent from=10.2.3.4 at=2027-02-01T00:00:00Z": `deny expired: rule "mail" expired on 2027-01-31`,
		"smtp.example.org :587 seen=silent from=10.2.3.4 at=0001-01-01T00:00:00Z": `deny expired: rule "mail" names it for other times only`,
		"office.example.org at=2026-11-20T08:00:00Z":                              "allow office",
		"office.example.org at=2026-11-20T18:00:00Z":                              `deny expired: rule "office" names it for other times only`,
		"office.example.org at=2026-11-21T12:00:00Z":                              `deny expired: rule "office" names it for other times only`,

		// Modes of rules.
		"trial.example.org":       `report trial no_rule: rule "trial" lets it out on trial`,
		"trial.example.org :8443": `deny port: rule "trial" names it for port 443 only`,
		"free.example.org":        "allow free",
		"try.tokbox.com":          `report maybe deny_rule: rule "maybe" denies it`,
		"try.example.org":         "deny no_rule: no rule names this host",
	} {
		t.Run(question, func(t *testing.T) {
			if got := answer(compile(t, world).Decide(ask(t, question))); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestDecideUnderReportAndOpen(t *testing.T) {
	for _, c := range []struct{ mode, question, want string }{
		{"report", "a.tokbox.com", "allow allow"},
		{"audit", "nowhere.example.com", "report no_rule: no rule names this host"},
		{"report", "a.tokbox.com :8443", "report port: the allow list names it for port 443 only"},
		{"report", "telemetry.tokbox.com", "report deny deny_rule: the deny list denies it"},
		{"report", "a..b", "deny malformed_name: the host has an empty label"},
		{"report", "127.1", "deny address_literal: the host is an address in a non-standard spelling"},
		{"open", "nowhere.example.com", "allow"},
		{"open", "a.tokbox.com :8443", "allow"},
		{"open", "telemetry.tokbox.com", "deny deny deny_rule: the deny list denies it"},
		{"open", "try.example.org", `report maybe deny_rule: rule "maybe" denies it`},
		{"open", "a..b", "deny malformed_name: the host has an empty label"},
	} {
		t.Run(c.mode+" "+c.question, func(t *testing.T) {
			spec := world
			spec.Mode = c.mode
			if got := answer(compile(t, spec).Decide(ask(t, c.question))); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestADenyRuleInEnforceBlocksUnderEveryMode(t *testing.T) {
	for _, mode := range []string{"enforce", "report", "open"} {
		p := compile(t, Spec{Mode: mode, Rules: []RuleSpec{{Name: "never", Action: "deny", Mode: "block", To: ToSpec{Hosts: []string{".ru"}}}}})
		d := p.Decide(https("www.example.ru"))
		if d.Allow || d.Reason != ReasonDenyRule || d.Mode != Enforce {
			t.Errorf("%s: %+v", mode, d)
		}
	}
}

func TestTheMostSpecificAllowRuleDecides(t *testing.T) {
	host := func(name, pattern string) RuleSpec { return RuleSpec{Name: name, To: ToSpec{Hosts: []string{pattern}}} }
	trial := host("trial", "a.b.c.example.org")
	trial.Mode = "report"
	p := compile(t, Spec{Rules: []RuleSpec{
		{Name: "any", To: ToSpec{Any: true}},
		host("short", "*.example.org"), host("long", "*.c.example.org"), host("inner", "a.*.c.example.org"),
		host("exact", "x.b.c.example.org"), host("again", "x.b.c.example.org"), trial,
	}})
	for name, want := range map[string]string{
		"x.b.c.example.org": "exact",
		"a.b.c.example.org": "inner", // a rule on trial comes after every other
		"b.c.example.org":   "long",
		"b.example.org":     "short",
		"example.org":       "any",
		"192.0.2.1":         "any",
	} {
		if d := p.Decide(https(name)); d.Rule == nil || d.Rule.Name != want || d.Grant != d.Rule || d.WouldDeny {
			t.Errorf("%s: %s, want %s", name, answer(d), want)
		}
	}
}

func TestInspectNeverWins(t *testing.T) {
	rules := []RuleSpec{
		{Name: "wide", Inspect: "never", To: ToSpec{Hosts: []string{"*.example.org"}}},
		{Name: "exact", Inspect: "always", To: ToSpec{Hosts: []string{"a.example.org", "a.example.net"}}},
	}
	for range 2 {
		p := compile(t, Spec{Rules: rules})
		if d := p.Decide(https("a.example.org")); d.Rule.Name != "exact" || d.Inspect != InspectNever {
			t.Errorf("rule %q, inspect %v, want exact, never", d.Rule.Name, d.Inspect)
		}
		if d := p.Decide(https("a.example.net")); d.Inspect != InspectAlways {
			t.Errorf("inspect %v, want always", d.Inspect)
		}
		rules[0], rules[1] = rules[1], rules[0]
	}
}

func TestADenyRuleOnTrialLeavesTheGrant(t *testing.T) {
	p := compile(t, Spec{Rules: []RuleSpec{
		{Name: "intranet", Private: []string{"10.0.0.0/8"}, To: ToSpec{Hosts: []string{"*.corp.example.org"}}},
		{Name: "maybe", Action: "deny", Mode: "report", To: ToSpec{Hosts: []string{"wiki.corp.example.org"}}},
	}})
	d := p.Decide(https("wiki.corp.example.org"))
	if !d.Allow || !d.WouldDeny || d.Rule.Name != "maybe" || d.Grant == nil || len(d.Grant.Private) != 1 {
		t.Errorf("%s, grant %+v", answer(d), d.Grant)
	}
}

func TestADeniedRangeIsDeniedToNamesThatResolveToIt(t *testing.T) {
	p := compile(t, world)
	q := ask(t, "a.tokbox.com")
	for addr, want := range map[string]bool{"198.51.100.66": true, "::ffff:198.51.100.66": true, "198.51.100.67": false, "203.0.113.1": false} {
		d, denied := p.DecideAddr(q, netip.MustParseAddr(addr))
		if denied != want || denied && (d.Allow || d.Reason != ReasonDenyRule || d.Rule.Name != "hole" || d.Host != "a.tokbox.com") {
			t.Errorf("%s: denied %v, %s", addr, denied, answer(d))
		}
	}
}

func TestTheEmptyPolicyDeniesEverything(t *testing.T) {
	p, err := Compile(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"www.example.org", "192.0.2.1", "::1"} {
		if d := p.Decide(https(host)); d.Allow {
			t.Errorf("%s is allowed", host)
		}
	}
	if w := p.Warnings(); len(w) != 1 || w[0].Kind != KindEmpty {
		t.Errorf("warnings %v, want that it is empty", w)
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	p := compile(t, world)
	for _, question := range []string{
		"a.b.tokbox.com", "a.b.tokbox.com seen=opaque", "nowhere.example.com", "telemetry.tokbox.com", "x.one.example.org",
		"smtp.example.org :587 seen=silent from=10.2.3.4", "office.example.org", "198.51.100.1", "192.0.3.1", "[2001:db8::1]",
		"a..b", "127.1", "storage.example.org method=GET path=/mine/a%20b", strings.Repeat("a.", 125) + "com",
	} {
		q := ask(t, question)
		if n := testing.AllocsPerRun(100, func() { p.Decide(q) }); n != 0 {
			t.Errorf("%s: %v allocations", question, n)
		}
	}
}
