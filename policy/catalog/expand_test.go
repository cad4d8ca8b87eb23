package catalog

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"sluice/policy"
)

// hostsOf gathers the hosts and CIDRs of the rules of one name.
func hostsOf(rules []policy.RuleSpec, name string) []string {
	var out []string
	for _, r := range rules {
		if r.Name == name {
			out = append(out, r.To.Hosts...)
			out = append(out, r.To.CIDRs...)
			if r.To.Any {
				out = append(out, anyHost)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestExpandHosts(t *testing.T) {
	tests := map[string]struct {
		ref  policy.ServiceRef
		rule string
		want []string
	}{
		"fallback for every region": {
			policy.ServiceRef{Name: "nexthink"}, "nexthink",
			[]string{"*.eu.nexthink.cloud", "*.meta.nexthink.cloud", "*.oktacdn.com", "*.pac.nexthink.cloud", "*.us.nexthink.cloud", "agora.*.nexthink.cloud", "oktacdn.com"},
		},
		"region alone narrows the fallback": {
			policy.ServiceRef{Name: "nexthink", Params: map[string]string{"region": "EU"}}, "nexthink",
			[]string{"*.eu.nexthink.cloud", "*.oktacdn.com", "agora.eu.nexthink.cloud", "oktacdn.com"},
		},
		"instance and region give exact names": {
			policy.ServiceRef{Name: "nexthink", Params: map[string]string{"instance": "acme", "region": "eu"}}, "nexthink",
			[]string{"*.oktacdn.com", "acme-login.eu.nexthink.cloud", "acme.api.eu.nexthink.cloud", "acme.data.eu.nexthink.cloud", "acme.eu.nexthink.cloud", "agora.eu.nexthink.cloud", "oktacdn.com"},
		},
		"part that is not asked for gives no rule": {
			policy.ServiceRef{Name: "vonage-video"}, "vonage-video/udp-media", nil,
		},
		"part to any address": {
			policy.ServiceRef{Name: "vonage-video", Parts: []string{"udp-media"}}, "vonage-video/udp-media", []string{"any"},
		},
		"part narrowed to addresses": {
			policy.ServiceRef{Name: "vonage-video", Parts: []string{"udp-media"}, Params: map[string]string{"media_addresses": "192.0.2.0/25, 198.51.100.7"}},
			"vonage-video/udp-media", []string{"192.0.2.0/25", "198.51.100.7/32"},
		},
		"part of an included service": {
			policy.ServiceRef{Name: "passerelle-xr", Parts: []string{"photon/udp"}}, "photon/udp", []string{"any"},
		},
		"includes come along": {
			policy.ServiceRef{Name: "soti-xsight"}, "soti-services", []string{"skinapi.soti.net", "sotiassistservices.soti.net"},
		},
		"name and address of one parameter": {
			policy.ServiceRef{Name: "coturn", Params: map[string]string{"turn_host": "turn.corp.example, 203.0.113.9, 2001:db8::1"}}, "coturn",
			[]string{"2001:db8::1/128", "203.0.113.9/32", "turn.corp.example"},
		},
		"of a part, entries without their parameter are left out": {
			policy.ServiceRef{Name: "nexthink-classic", Parts: []string{"data-enricher"}, Params: map[string]string{"portal_host": "p.corp.example", "engine_host": "e.corp.example", "dns_host": "192.0.2.53"}},
			"nexthink-classic/data-enricher", []string{"192.0.2.53/32", "agora.*.nexthink.cloud"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rules, err := Builtin().Expand(tt.ref)
			if err != nil {
				t.Fatal(err)
			}
			if got := hostsOf(rules, tt.rule); !slices.Equal(got, tt.want) {
				t.Errorf("hosts of %s: got %q; want %q", tt.rule, got, tt.want)
			}
		})
	}
}

func TestInstanceWithoutRegionIsTheInstanceEverywhere(t *testing.T) {
	rules, err := Builtin().Expand(policy.ServiceRef{Name: "nexthink", Params: map[string]string{"instance": "acme"}})
	if err != nil {
		t.Fatal(err)
	}
	got := hostsOf(rules, "nexthink")
	if !slices.Contains(got, "acme.pac.nexthink.cloud") || !slices.Contains(got, "agora.*.nexthink.cloud") || slices.Contains(got, "*.eu.nexthink.cloud") {
		t.Errorf("hosts %q; want those of acme in each region", got)
	}
}

func TestExpandWholeRule(t *testing.T) {
	rules, err := Builtin().Expand(policy.ServiceRef{
		Name:   "coturn",
		Parts:  []string{"udp-media"},
		Params: map[string]string{"turn_host": "turn.corp.example", "private": "10.1.0.0/16, fd00::/8"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := policy.RuleSpec{
		Name:    "coturn/udp-media",
		Reason:  "relayed addresses that are reached without a TURN session",
		Service: "coturn",
		Private: []string{"10.1.0.0/16", "fd00::/8"},
		To:      policy.ToSpec{Hosts: []string{"turn.corp.example"}, Protocol: "udp", Ports: []policy.PortRange{"49152-65535"}, Apps: []string{"rtp"}},
	}
	if got := rules[len(rules)-1]; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := rules[0].To.Apps; !slices.Equal(got, []string{"stun", "turn"}) {
		t.Errorf("apps %q; want stun and turn", got)
	}
}

func TestEqualRulesAreGivenOnce(t *testing.T) {
	rules, err := Builtin().Expand(policy.ServiceRef{Name: "nexthink"})
	if err != nil {
		t.Fatal(err)
	}
	var joined bool
	for i, r := range rules {
		joined = joined || r.Reason == "web interface; SAML sign-in; API"
		for _, other := range rules[:i] {
			other.Reason = r.Reason
			if reflect.DeepEqual(r, other) {
				t.Errorf("rule given twice: %+v", r)
			}
		}
	}
	if !joined {
		t.Error("no rule with the reasons of web interface, sign-in and API joined")
	}
}

func TestEntryWithinAWiderOneGetsNoRule(t *testing.T) {
	rules, err := Builtin().Expand(everything(Builtin(), "vonage-video"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if slices.Contains(r.To.Hosts, "config.opentok.com") || slices.Contains(r.To.Hosts, "api.opentok.com") {
			t.Errorf("needless rule %+v", r)
		}
		if slices.Contains(r.To.Hosts, "*.opentok.com") && r.Inspect != "never" {
			t.Errorf("marks of the wide rule: %+v", r)
		}
	}
}

func TestPrivateRangesAreForOwnHostsOnly(t *testing.T) {
	for _, s := range Builtin().Services() {
		rules, err := Builtin().Expand(everything(Builtin(), s.Name))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if len(r.Private) > 0 && !slices.Equal(r.To.Hosts, []string{"server.corp.example"}) {
				t.Errorf("%s: private ranges on the vendor's own names: %+v", s.Name, r)
			}
		}
	}
}

func TestExpandErrors(t *testing.T) {
	tests := map[string]struct {
		ref  policy.ServiceRef
		want string
	}{
		"unknown service": {
			policy.ServiceRef{Name: "vonage-vido"}, `service "vonage-vido" is not in the catalog; did you mean "vonage-video"?`,
		},
		"service by the beginning of its name": {
			policy.ServiceRef{Name: "passerelle"}, `service "passerelle" is not in the catalog; did you mean "passerelle-xr"?`,
		},
		"service like no other": {
			policy.ServiceRef{Name: "zzzzzz"}, `service "zzzzzz" is not in the catalog; it has c4b-xphone, combell-mail, coturn, firebase-rtdb, google-cloud-storage, nexthink, nexthink-classic, passerelle-xr, photon, soti-mobicontrol, soti-services, soti-xsight, tls-revocation, vonage-sms, vonage-video`,
		},
		"unknown parameter": {
			policy.ServiceRef{Name: "nexthink", Params: map[string]string{"zone": "eu"}}, `service "nexthink" has no parameter "zone"; it has instance, region`,
		},
		"parameter of a service that takes none": {
			policy.ServiceRef{Name: "vonage-sms", Params: map[string]string{"region": "eu"}}, `service "vonage-sms" has no parameter "region"; it has none`,
		},
		"unknown part": {
			policy.ServiceRef{Name: "photon", Parts: []string{"quic"}}, `service "photon" has no part "quic"; it has udp, tcp, clear`,
		},
		"value that is none of those there are": {
			policy.ServiceRef{Name: "nexthink", Params: map[string]string{"region": "emea"}}, `service "nexthink": parameter "region": "emea"; want one of us, eu, pac, meta, or leave it out`,
		},
		"two values for one label": {
			policy.ServiceRef{Name: "nexthink", Params: map[string]string{"instance": "a,b"}}, `service "nexthink": parameter "instance": "a,b"; want one value`,
		},
		"label that would reach out of its place": {
			policy.ServiceRef{Name: "nexthink", Params: map[string]string{"instance": "evil.example"}}, `service "nexthink": parameter "instance": "evil.example" is not one label of a host name`,
		},
		"star for a label": {
			policy.ServiceRef{Name: "nexthink", Params: map[string]string{"instance": "*"}}, `service "nexthink": parameter "instance": "*" is not one label of a host name`,
		},
		"any for a host": {
			policy.ServiceRef{Name: "coturn", Params: map[string]string{"turn_host": "any"}}, `service "coturn": parameter "turn_host": "any" is not a host name, an address or a CIDR`,
		},
		"empty value": {
			policy.ServiceRef{Name: "coturn", Params: map[string]string{"turn_host": ""}}, `service "coturn": parameter "turn_host": "" is not a host name, an address or a CIDR`,
		},
		"name for an address": {
			policy.ServiceRef{Name: "photon", Params: map[string]string{"server_addresses": "gcams.exitgames.com"}}, `service "photon": parameter "server_addresses": "gcams.exitgames.com" is not an address or a CIDR`,
		},
		"port out of range": {
			policy.ServiceRef{Name: "c4b-xphone", Params: map[string]string{"sip_port": "70000"}}, `service "c4b-xphone": parameter "sip_port": port "70000"; want 1 to 65535, or a range such as 5228-5230`,
		},
		"private range without a length": {
			policy.ServiceRef{Name: "coturn", Params: map[string]string{"turn_host": "a.example", "private": "10.0.0.0"}}, `service "coturn": parameter "private": "10.0.0.0" is not a CIDR such as 10.0.0.0/8`,
		},
		"default without its parameter": {
			policy.ServiceRef{Name: "coturn"}, `service "coturn" needs the parameter turn_host (STUN binding and TURN over UDP)`,
		},
		"part without its parameters": {
			policy.ServiceRef{Name: "c4b-xphone", Parts: []string{"sip"}, Params: map[string]string{"pbx_host": "pbx.corp.example"}}, `service "c4b-xphone": part "sip" needs the parameter sip_port`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rules, err := Builtin().Expand(tt.ref)
			if err == nil {
				t.Fatalf("no error; rules %+v", rules)
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

// The addresses of a relay may be anything, but a catalog file must not be
// able to open them all by default, nor what is no egress.
func TestNothingWideOpensByDefault(t *testing.T) {
	for _, s := range Builtin().Services() {
		ref := everything(Builtin(), s.Name)
		ref.Parts = nil
		rules, err := Builtin().Expand(ref)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if r.To.Any || strings.Contains(r.Name, "/") {
				t.Errorf("%s: open without being asked for: %+v", s.Name, r)
			}
		}
	}
}
