package policy

import (
	"encoding/json"
	"testing"
)

func TestExplain(t *testing.T) {
	p, err := Compile([]Source{{File: "p.yaml", Line: indexLine, Spec: Spec{
		Allow: []string{"*.example.org", "a.example.org"},
		Deny:  []string{"*.a.example.org"},
		Rules: []RuleSpec{{Name: "relay", Owner: "av", Reason: "calls", Expires: "2026-12-31", To: ToSpec{Hosts: []string{".example.org"}, Ports: []PortRange{"3478"}}}},
	}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(p.Explain(ask(t, "A.example.org.")), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
 "query": "A.example.org.",
 "host": "a.example.org",
 "allow": true,
 "mode": "enforce",
 "rule": "allow",
 "pattern": "a.example.org",
 "policy_revision": "` + p.Revision() + `",
 "named_by": [
  {
   "rule": "allow",
   "action": "allow",
   "pattern": "a.example.org",
   "words": "a.example.org only",
   "file": "p.yaml",
   "line": 2,
   "matches": true,
   "decides": true
  },
  {
   "rule": "allow",
   "action": "allow",
   "pattern": "*.example.org",
   "words": "any subdomain of example.org, not example.org itself",
   "file": "p.yaml",
   "line": 1,
   "matches": true
  },
  {
   "rule": "relay",
   "owner": "av",
   "why": "calls",
   "action": "allow",
   "pattern": ".example.org",
   "words": "example.org and any subdomain of it",
   "file": "p.yaml",
   "line": 101,
   "matches": false,
   "reason": "port",
   "detail": "rule \"relay\" names it for port 3478 only"
  }
 ],
 "next_change": "2027-01-01T00:00:00Z"
}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExplainAgreesWithDecide(t *testing.T) {
	p := compile(t, world)
	for _, question := range []string{
		"a.tokbox.com", "telemetry.tokbox.com", "nowhere.example.com", "a..b", "127.1", "-", "198.51.100.66", "try.tokbox.com",
		"bob.example.org", "smtp.example.org :25 from=10.2.3.4", "192.0.3.1",
	} {
		q := ask(t, question)
		d, x := p.Decide(q), p.Explain(q)
		if x.Allow != d.Allow || x.WouldDeny != d.WouldDeny || x.Reason != d.Reason || x.Detail != d.Detail || x.Pattern != d.Pattern {
			t.Errorf("%s: decided %s, explained %+v", question, answer(d), x)
		}
		deciding := 0
		for _, n := range x.Named {
			if n.Words == "" || n.Matches == (n.Reason != "") {
				t.Errorf("%s: %+v", question, n)
			}
			if n.Decides {
				deciding++
			}
		}
		if (d.Rule != nil) != (deciding == 1) || deciding > 1 {
			t.Errorf("%s: %d rules decide, of %s", question, deciding, answer(d))
		}
	}
}

func TestWordsOfRecords(t *testing.T) {
	got, err := json.Marshal(struct {
		Mode    Mode
		Proto   Protocol
		Seen    Seen
		Inspect Inspect
	}{Report, UDP, SeenTLSNoName, InspectNever})
	if want := `{"Mode":"report","Proto":"udp","Seen":"tls_no_name","Inspect":"never"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	var back struct {
		Mode    Mode
		Proto   Protocol
		Seen    Seen
		Inspect Inspect
	}
	if err := json.Unmarshal([]byte(`{"Mode":"Block","Proto":"tcp|udp","Seen":"silent","Inspect":"always"}`), &back); err != nil {
		t.Fatal(err)
	}
	if back.Mode != Enforce || back.Proto != AnyProtocol || back.Seen != SeenSilent || back.Inspect != InspectAlways {
		t.Errorf("read %+v", back)
	}
	for _, bad := range []string{`{"Mode":"x"}`, `{"Proto":"x"}`, `{"Seen":"x"}`, `{"Inspect":"x"}`} {
		if json.Unmarshal([]byte(bad), &back) == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestExplainHints(t *testing.T) {
	p := compile(t, world)
	for host, want := range map[string]string{
		"tokbox.com":           "*.tokbox.com is for subdomains only; write .tokbox.com to include tokbox.com itself",
		"www.skinapi.soti.net": "skinapi.soti.net is for that name only; write .skinapi.soti.net to include its subdomains",
		"soti.net":             "",
		"bad.example.org":      "",
		"a.tokbox.com":         "",
	} {
		if got := p.Explain(https(host)).Hint; got != want {
			t.Errorf("%s: hint %q, want %q", host, got, want)
		}
	}
}
