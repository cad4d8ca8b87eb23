package catalog

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"sluice/policy"
)

// everything is a reference to a service with a value for each parameter and
// all of its parts, those of its includes among them.
func everything(c *Catalog, name string) policy.ServiceRef {
	ref := policy.ServiceRef{Name: name, Params: map[string]string{}}
	for _, s := range c.closure(name, nil) {
		for _, p := range s.Params {
			ref.Params[p.Name] = sample(p)
		}
		for _, p := range s.Parts {
			ref.Parts = append(ref.Parts, s.partName(p.Name, name))
		}
	}
	return ref
}

func sample(p Param) string {
	if len(p.Values) > 0 {
		return p.Values[0]
	}
	return map[ParamKind]string{
		KindHost:    "server.corp.example",
		KindAddress: "192.0.2.0/24",
		KindLabel:   "acme",
		KindPorts:   "8443",
		KindPrivate: "10.0.0.0/8",
	}[p.Kind]
}

func TestEveryServiceExpands(t *testing.T) {
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Services() {
		rules, err := c.Expand(everything(c, s.Name))
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		if len(rules) == 0 {
			t.Errorf("%s: no rule", s.Name)
		}
		for _, r := range rules {
			if service, _, _ := strings.Cut(r.Name, "/"); service != r.Service {
				t.Errorf("%s: rule %q of service %q", s.Name, r.Name, r.Service)
			}
			if r.Reason == "" || len(r.To.Ports) == 0 || r.To.Protocol == "" {
				t.Errorf("%s: incomplete rule %+v", s.Name, r)
			}
			if !r.To.Any && len(r.To.Hosts)+len(r.To.CIDRs) == 0 {
				t.Errorf("%s: rule without a destination %+v", s.Name, r)
			}
			for _, h := range r.To.Hosts {
				if why := patternFault(h); why != "" {
					t.Errorf("%s: host %q: %s", s.Name, h, why)
				}
			}
		}
	}
}

// patternFault says why a host pattern is not of one of the forms that rules
// take, or "". It repeats the forms rather than ask package policy, so that a
// change of either shows here.
func patternFault(p string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(p, "*"), ".")
	if strings.HasPrefix(p, "*") && !strings.HasPrefix(p, "*.") {
		return "star without a dot"
	}
	labels := strings.Split(rest, ".")
	if len(labels) < 2 {
		return "no domain"
	}
	for i, l := range labels {
		if l == "*" {
			if i == 0 || i >= len(labels)-2 {
				return "star where no inner label is"
			}
			continue
		}
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "label " + l
		}
	}
	return ""
}

// The names that people expect to be let out when they name these services.
func TestMissionServicesCoverTheirPatterns(t *testing.T) {
	var hosts []string
	for _, name := range []string{"soti-services", "nexthink", "passerelle-xr", "vonage-video"} {
		rules, err := Builtin().Expand(policy.ServiceRef{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if r.To.Any {
				t.Errorf("%s opens every destination by default: %+v", name, r)
			}
			hosts = append(hosts, r.To.Hosts...)
		}
	}
	for _, want := range []string{
		"*.tokbox.com", "*.opentok.com", ".supportsquare.io", "skinapi.soti.net", "sotiassistservices.soti.net",
		"agora.*.nexthink.cloud", "*.firebaseio.com", "*.firebasedatabase.app", ".storage.googleapis.com",
	} {
		if !slices.Contains(hosts, want) {
			t.Errorf("no rule for %s", want)
		}
	}
}

// What vendors write and must not be copied, with the entry's own hosts.
func TestKnownCorrections(t *testing.T) {
	tests := []struct{ service, verbatim, host string }{
		{"vonage-video", "oscp.godaddy.com", "ocsp.godaddy.com"},
		{"tls-revocation", "oscp.godaddy.com", "ocsp.godaddy.com"},
		{"soti-mobicontrol", "*gstatic.com", "*.gstatic.com"},
		{"nexthink", "agora.reg.nexthink.cloud", "agora.{region}.nexthink.cloud"},
		{"nexthink-classic", "agora.reg.nexthink.cloud", "agora.{region}.nexthink.cloud"},
		{"passerelle-xr", ".passerelle.supportsquare.io", ".supportsquare.io"},
		{"coturn", "49152-65535", "{turn_host}"},
		{"photon", "49152-65535", "{server_addresses}"},
		{"nexthink-classic", "49152-65535", "{dc_host}"},
	}
	for _, tt := range tests {
		s, err := Builtin().Get(tt.service)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(s.Entries, func(e Entry) bool {
			return strings.Contains(e.Verbatim, tt.verbatim) && e.Correction != "" && slices.Contains(e.Hosts, tt.host)
		}) {
			t.Errorf("%s: no correction of %q to %q", tt.service, tt.verbatim, tt.host)
		}
	}
	for _, s := range Builtin().Services() {
		for _, e := range s.Entries {
			for _, h := range slices.Concat(e.Hosts, e.Fallback) {
				if strings.HasPrefix(h, "oscp.") || strings.Contains(h, ".reg.") {
					t.Errorf("%s copies the vendor's mistake %q", s.Name, h)
				}
			}
		}
	}
}

// Names behind which any customer's data may lie must say so: to allow them is
// to allow all of it.
func TestSharedNamesAreMarked(t *testing.T) {
	shared := []string{"*.firebaseio.com", "*.firebasedatabase.app", ".storage.googleapis.com", "*.googleapis.com"}
	found := 0
	for _, s := range Builtin().Services() {
		rules, err := Builtin().Expand(everything(Builtin(), s.Name))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			for _, h := range r.To.Hosts {
				if slices.Contains(shared, h) {
					found++
					if !r.MultiTenant {
						t.Errorf("%s: %s is not marked", s.Name, h)
					}
				}
			}
		}
	}
	if found < len(shared) {
		t.Errorf("found %d of %d shared names", found, len(shared))
	}
}

// The range that the vendor's manual gives is where its clients send from.
func TestPhotonDestinationsAreNotTheSourcePorts(t *testing.T) {
	rules, err := Builtin().Expand(everything(Builtin(), "photon"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if slices.Contains(r.To.Ports, "49152-65535") {
			t.Errorf("rule on the client's source ports: %+v", r)
		}
	}
}

func TestServiceIsJSONForPrograms(t *testing.T) {
	s, err := Builtin().Get("nexthink")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"name":"nexthink"`, `"verbatim":"agora.reg.nexthink.cloud"`, `"inspect":"never"`, `"values":["us","eu","pac","meta"]`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("JSON has no %s", want)
		}
	}
}
