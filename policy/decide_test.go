package policy

import "testing"

func TestDecideAllocatesNothing(t *testing.T) {
	p := compile(t, Spec{
		Allow: []string{"*.tokbox.com", "skinapi.soti.net", "agora.*.nexthink.cloud"},
		Deny:  []string{"telemetry.tokbox.com"},
		Rules: []RuleSpec{
			{Name: "mail", From: FromSpec{CIDRs: []string{"10.2.0.0/16"}}, To: ToSpec{Hosts: []string{"smtp.example.org"}, Ports: []PortRange{"587"}, Apps: []string{"smtp"}}},
			{Name: "relay", To: ToSpec{CIDRs: []string{"192.0.2.0/24"}}},
		},
	})
	for _, host := range []string{"a.b.tokbox.com", "agora.eu.nexthink.cloud", "nowhere.example.com", "telemetry.tokbox.com", "smtp.example.org", "192.0.2.7", "198.51.100.1", "2001:db8::1", "a..b"} {
		q := https(host)
		if n := testing.AllocsPerRun(100, func() { p.Decide(q) }); n != 0 {
			t.Errorf("%s: %v allocations", host, n)
		}
	}
}
