package policy

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// compile makes a policy of one file, and fails the test if it can not.
func compile(t testing.TB, spec Spec) *Policy {
	t.Helper()
	p, err := Compile([]Source{{File: "test.yaml", Spec: spec}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// https is a question about a browser's flow to a host.
func https(host string) *Query {
	return &Query{Host: host, Port: 443, Proto: TCP, Seen: SeenTLS}
}

func TestWildcardVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/wildcard-vectors.tsv")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		pattern, name, want, why := f[0], f[1], f[2] == "1", f[3]
		n++
		t.Run(pattern+" "+name, func(t *testing.T) {
			p := compile(t, Spec{Allow: []string{pattern}})
			if got := p.Decide(https(name)).Allow; got != want {
				t.Errorf("allow = %v, want %v: %s", got, want, why)
			}
		})
	}
	if n != 36 {
		t.Errorf("ran %d vectors, want 36", n)
	}
}

// smokescreen is its own test cases, as facts: policies, questions, verdicts.
type smokescreen struct {
	Policies map[string]struct {
		Services map[string][2]json.RawMessage
		Default  [2]json.RawMessage
		Allow    []string `json:"global_allow_list"`
		Deny     []string `json:"global_deny_list"`
	}
	Decisions []struct{ Policy, Role, Host, Verdict, Reason string }
	Match     []struct {
		Host, Glob string
		Match      bool
	}
	Reject []string `json:"reject_pattern"`
}

func readSmokescreen(t *testing.T) (s smokescreen) {
	t.Helper()
	data, err := os.ReadFile("testdata/smokescreen_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// role writes a role of smokescreen as rules: its names, and its posture for
// all other names.
func role(t *testing.T, user string, raw [2]json.RawMessage) []RuleSpec {
	t.Helper()
	var mode string
	var globs []string
	if err := json.Unmarshal(raw[0], &mode); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw[1], &globs); err != nil {
		t.Fatal(err)
	}
	from := FromSpec{Users: []string{user}}
	var rules []RuleSpec
	if len(globs) > 0 {
		rules = append(rules, RuleSpec{Name: user, From: from, To: ToSpec{Hosts: globs}})
	}
	if mode != "enforce" {
		rules = append(rules, RuleSpec{Name: user + " otherwise", Mode: mode, From: from, To: ToSpec{Any: true}})
	}
	return rules
}

func TestSmokescreenDecisions(t *testing.T) {
	// Where Sluice means to differ, and why.
	differs := map[string]string{
		"P2 enforce-dummy-srv badexample1.com": "there a role's own list beats the global deny list; here a deny rule beats every allow rule",
	}
	s := readSmokescreen(t)
	for _, c := range s.Decisions {
		name := c.Policy + " " + c.Role + " " + c.Host
		t.Run(name, func(t *testing.T) {
			in := s.Policies[c.Policy]
			// The default role is that of the one client which no role names.
			spec := Spec{Allow: in.Allow, Deny: in.Deny, Rules: role(t, "unknown-service", in.Default)}
			for user, raw := range in.Services {
				spec.Rules = append(spec.Rules, role(t, user, raw)...)
			}
			q := https(c.Host)
			q.Identity = &Identity{User: c.Role}
			d := compile(t, spec).Decide(q)
			got := "deny"
			if d.WouldDeny {
				got = "report"
			} else if d.Allow {
				got = "allow"
			}
			want := c.Verdict
			if why, ok := differs[name]; ok {
				want = "deny"
				t.Log(why)
			}
			if got != want {
				t.Errorf("got %s (%s, %s), want %s", got, d.Reason, d.Detail, want)
			}
		})
	}
}

func TestSmokescreenMatch(t *testing.T) {
	// Where Sluice means to differ, and why.
	const unicode = "a name arrives as A-labels (RFC 6066 section 3), a pattern is written in them"
	differs := map[string]string{
		"login.eu.example.com login.*.example.com":      "inner wildcards are exactly one label here",
		"тест.example.com xn--e1aybc.example.com":       unicode,
		"xn--e1aybc.example.com тест.example.com":       unicode,
		"sub.тест.example.com *.xn--e1aybc.example.com": unicode,
	}
	for _, c := range readSmokescreen(t).Match {
		t.Run(c.Host+" "+c.Glob, func(t *testing.T) {
			got := false
			if p, err := ParsePattern(c.Glob); err == nil {
				name, _, err := ParseHost(c.Host)
				got = err == nil && p.Match(name)
			}
			_, differ := differs[c.Host+" "+c.Glob]
			if got != (c.Match != differ) {
				t.Errorf("match = %v, smokescreen has %v", got, c.Match)
			}
		})
	}
}

func TestSmokescreenRejectedPatterns(t *testing.T) {
	for _, s := range readSmokescreen(t).Reject {
		if p, err := ParsePattern(s); err == nil {
			t.Errorf("%q is accepted as %s", s, p.Words())
		}
	}
}
