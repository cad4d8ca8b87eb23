package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"sluice/gateway/audit"
	"sluice/gateway/flow"
	"sluice/policy"
)

// socks asks for a connection by name and returns the reply (RFC 1928).
func (w *world) socks(host string, port uint16) (*conn, byte) {
	w.t.Helper()
	c := dialTCP(w.t, w.proxy)
	msg := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
	if _, err := c.Write(append(msg, byte(port>>8), byte(port))); err != nil {
		w.t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c.r, answer); err != nil {
		w.t.Fatalf("SOCKS5 answer for %s: %v", host, err)
	}
	return c, answer[3]
}

// fetch sends a request in absolute form and returns the status and the body.
func (w *world) fetch(host string, port uint16) (int, string) {
	w.t.Helper()
	c := dialTCP(w.t, w.proxy)
	defer c.Close()
	target := net.JoinHostPort(host, strconv.Itoa(int(port)))
	fmt.Fprintf(c, "GET http://%[1]s/ HTTP/1.1\r\nHost: %[1]s\r\nConnection: close\r\n\r\n", target)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func withZone(z *zone) func(*Options) {
	return func(o *Options) { o.Resolver.Servers = []string{"udp://" + z.addr} }
}

func TestDeniedNamesAreNeverLookedUp(t *testing.T) {
	up, z := newEcho(t, "127.0.0.1", 0), newZone(t, "127.0.0.1")
	spec := rules(up.rule("allowed.example.net", "*.wild.example.net"))
	spec.Deny = []string{"bad.wild.example.net"}
	w := start(t, up, spec, withZone(z))

	for host, reason := range map[string]policy.Reason{
		"unnamed.example.net":       policy.ReasonNoRule,
		"evilwild.example.net":      policy.ReasonNoRule,
		"bad.wild.example.net":      policy.ReasonDenyRule,
		"notallowed.example.net":    policy.ReasonNoRule,
		"secret-data-1.example.com": policy.ReasonNoRule,
	} {
		w.refused(host, up.port, 403)
		w.denied(host, reason)
	}
	w.refused("allowed.example.net", up.port+1, 403)
	w.denied("allowed.example.net", policy.ReasonPort)
	if status, body := w.fetch("by-get.example.net", up.port); status != 403 || !strings.Contains(body, "no_rule") {
		t.Errorf("GET: %d %q; want 403 and the reason", status, body)
	}
	if _, reply := w.socks("by-socks.example.net", up.port); reply != 2 {
		t.Errorf("SOCKS5 reply %d; want 2", reply)
	}
	c := dialTCP(t, w.router)
	c.Write(clientHello(t, "by-sni.example.net"))
	alert, err := io.ReadAll(c.r)
	if err != nil || len(alert) != 7 || alert[0] != 21 || alert[6] != 49 {
		t.Errorf("TLS router answered % x, %v; want the alert access_denied", alert, err)
	}
	w.denied("by-sni.example.net", policy.ReasonNoRule)
	inside, _ := w.connect("allowed.example.net", up.port)
	inside.Write(clientHello(t, "by-inner-sni.example.net"))
	inside.over()
	w.denied("allowed.example.net", policy.ReasonNameMismatch)

	if n := z.names(); n != 1 || z.questions("allowed.example.net") == 0 {
		t.Errorf("%d names were looked up (%v); want the allowed one only", n, z.asked)
	}
}

func TestGuardRefusesForbiddenAddresses(t *testing.T) {
	up, z := newEcho(t, "127.0.0.1", 0), newZone(t)
	names := map[string][]string{
		"loopback.example.net": {"127.0.0.1"},
		"six.example.net":      {"::1"},
		"mapped.example.net":   {"::ffff:127.0.0.1"},
		"metadata.example.net": {"169.254.169.254"},
		"private.example.net":  {"10.1.2.3", "192.168.1.1"},
		"nat64.example.net":    {"64:ff9b::7f00:1"},
		"zero.example.net":     {"0.0.0.0"},
	}
	open := policy.RuleSpec{Name: "open", To: policy.ToSpec{Hosts: []string{"*.example.net"}, Ports: up.ports()}}
	for _, mode := range []string{"enforce", "report", "open"} {
		t.Run(mode, func(t *testing.T) {
			spec := rules(open)
			spec.Mode = mode
			w := start(t, up, spec, withZone(z))
			for name, addrs := range names {
				z.set(name, addrs...)
				w.refused(name, up.port, 403)
				r := w.denied(name, policy.ReasonForbiddenAddress)
				if r.WouldDeny || len(r.Resolved) > 0 || r.Upstream.IsValid() {
					t.Errorf("%s: record has would_deny %v, resolved %v, upstream %v; want none", name, r.WouldDeny, r.Resolved, r.Upstream)
				}
			}
			if n := up.accepted.Load(); n != 0 {
				t.Errorf("the upstream got %d connections; want none", n)
			}
		})
	}
}

func TestOnlyTheGoodAddressesOfAnAnswerAreDialled(t *testing.T) {
	good := newEcho(t, "127.0.0.1", 0)
	bad := newEcho(t, "127.0.0.2", good.port)
	z := newZone(t)
	z.set("mixed.example.net", "127.0.0.2", "127.0.0.1", "::1")
	r := good.rule("mixed.example.net")
	r.Private = []string{"127.0.0.1/32"}
	w := start(t, good, rules(r), withZone(z))
	for range 8 {
		w.tunnel("mixed.example.net").Close()
	}
	list := w.find("mixed.example.net", audit.EventDecision, "")
	if len(list) != 8 || len(list[0].Resolved) != 1 || list[0].Resolved[0].String() != "127.0.0.1" {
		t.Errorf("records %+v; want eight with 127.0.0.1 alone", list)
	}
	if n := bad.accepted.Load(); n != 0 {
		t.Errorf("the forbidden address got %d connections; want none", n)
	}
}

func TestPrivatePermitsForItsOwnNamesOnly(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	other := up.rule("public.example.net")
	other.Private = nil
	w := start(t, up, rules(up.rule("inside.example.net"), other))
	w.tunnel("inside.example.net")
	w.refused("public.example.net", up.port, 403)
	w.denied("public.example.net", policy.ReasonForbiddenAddress)
}

func TestAddressRulePermitsWhatItNames(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	newEcho(t, "127.0.0.2", up.port)
	byAddress := policy.RuleSpec{Name: "by-address", To: policy.ToSpec{CIDRs: []string{"127.0.0.1/32"}, Ports: up.ports()}}
	byName := up.rule("name.example.net")
	byName.Private = nil
	w := start(t, up, rules(byAddress, byName))
	w.tunnel("127.0.0.1")
	w.refused("127.0.0.2", up.port, 403)
	w.denied("127.0.0.2", policy.ReasonAddressLiteral)
	w.refused("name.example.net", up.port, 403) // the permit is for the address, not for names that point there
	w.denied("name.example.net", policy.ReasonForbiddenAddress)
}

func TestOwnListenersAreRefused(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	all := []policy.PortRange{"1-65535"}
	w := start(t, up, rules(
		policy.RuleSpec{Name: "names", To: policy.ToSpec{Hosts: []string{"*.example.net"}, Ports: all}, Private: local},
		policy.RuleSpec{Name: "addresses", To: policy.ToSpec{CIDRs: local, Ports: all}},
	), func(o *Options) {
		o.Permit = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		o.Listeners = append(o.Listeners, Listener{Name: "everywhere", Address: ":0", Doors: []flow.Door{flow.DoorConnect}})
	})
	for i, b := range w.g.bound() {
		name := fmt.Sprintf("self%d.example.net", i)
		w.refused(name, b.Address.Port(), 403)
		w.denied(name, policy.ReasonForbiddenAddress)
		w.refused("127.0.0.1", b.Address.Port(), 403)
	}
	if n := len(w.find("127.0.0.1", audit.EventDecision, policy.ReasonForbiddenAddress)); n != 4 {
		t.Errorf("%d denials by address; want four", n)
	}
	w.tunnel("other.example.net") // another port of the same address is fine
}

func TestReportModeLetsGoAndSaysSo(t *testing.T) {
	up, z := newEcho(t, "127.0.0.1", 0), newZone(t, "127.0.0.1")
	z.set("guarded.example.net", "127.0.0.2")
	spec := rules(up.rule("allowed.example.net"))
	spec.Mode = "report"
	w := start(t, up, spec, withZone(z), func(o *Options) { o.Permit = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	w.tunnel("unnamed.example.net").Close()
	list := w.find("unnamed.example.net", audit.EventDecision, policy.ReasonNoRule)
	if len(list) != 1 || list[0].Denied() || !list[0].WouldDeny {
		t.Errorf("records %+v; want one that would be denied", list)
	}
	w.refused("guarded.example.net", up.port, 403)
	w.denied("guarded.example.net", policy.ReasonForbiddenAddress)

	c := w.tunnelWithin("allowed.example.net", "inner.example.net")
	list = w.find("allowed.example.net", audit.EventDecision, policy.ReasonNameMismatch)
	if len(list) != 1 || !list[0].WouldDeny || list[0].Denied() {
		t.Errorf("records of another name inside: %+v; want one that would be denied", list)
	}
	c.Close()
	if end := w.ended("allowed.example.net"); !end.WouldDeny || end.BytesIn == 0 {
		t.Errorf("its end: %+v; want would_deny and bytes", end)
	}
}

func TestRequiredRecordsRefuseFlowsThatCanNotBeRecorded(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	// A queue without room is what a disk that refuses comes to in the end.
	full := func(required bool) func(*Options) {
		return func(o *Options) { o.Journal = &audit.Options{Dir: t.TempDir(), Required: required, Queue: -1} }
	}
	w := start(t, up, rules(up.rule("a.example.net")), full(true))
	w.refused("a.example.net", up.port, 503)
	if status, body := w.fetch("a.example.net", up.port); status != 503 || !strings.Contains(body, "recorded") {
		t.Errorf("GET: %d %q; want 503 that says why", status, body)
	}
	if _, reply := w.socks("a.example.net", up.port); reply == 0 {
		t.Error("SOCKS5 lets the flow out")
	}
	w.refused("denied.example.net", up.port, 403)
	if n := up.accepted.Load(); n != 0 {
		t.Errorf("the upstream got %d connections; want none", n)
	}
	w = start(t, up, rules(up.rule("a.example.net")), full(false))
	w.tunnel("a.example.net")
}

func TestUnknownNameIsUnreachableNotDenied(t *testing.T) {
	up, z := newEcho(t, "127.0.0.1", 0), newZone(t)
	w := start(t, up, rules(up.rule("*.example.net")), withZone(z))
	w.refused("nowhere.example.net", up.port, 502)
	end := w.ended("nowhere.example.net")
	if end.Denied() || end.ErrorCode != "dns_error" || end.Error == "" {
		t.Errorf("record: decision %s, code %q, error %q; want allowed and dns_error", end.Decision, end.ErrorCode, end.Error)
	}
}

func TestDialRefusesWhatWasNotAdmitted(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")))
	f := flow.Inbound{}.New(flow.DoorConnect)
	f.Host, f.Port, f.Resolved = "a.example.net", up.port, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	if c, err := w.g.gate.Dial(context.Background(), f); err == nil {
		c.Close()
		t.Error("Dial connects a flow that was never admitted")
	}
}

func TestConnectionsOverALimitAreRecorded(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")), func(o *Options) { o.Limits.ConnectionsPerClient = 1 })
	w.tunnel("a.example.net")
	if c, err := net.Dial("tcp", w.proxy); err == nil { // it may be reset before Dial returns
		defer c.Close()
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes over the limit; want none", n)
		}
	}
	r := w.denied("", policy.ReasonLimit)
	if !strings.Contains(r.Detail, "limits.connections_per_client") || r.Listener != "proxy" || !r.Client.IsLoopback() {
		t.Errorf("record %+v; want the limit, the listener and the client", r)
	}
}
