package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"sluice/gateway/audit"
	"sluice/gateway/flow"
	"sluice/policy"
)

func TestReloadCutsOnlyWhatIsDeniedNow(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	keep, gone := up.rule("keep.example.net"), up.rule("gone.example.net")
	w := start(t, up, rules(keep, gone))
	kept, cut := w.tunnel("keep.example.net"), w.tunnel("gone.example.net")
	w.live(2)
	before := w.g.Status().Policy.Revision

	w.load(rules(keep))
	res, err := w.g.Reload(context.Background())
	if err != nil || !res.OK || !res.Changed || res.Cut != 1 || res.Revision == before {
		t.Fatalf("Reload: %+v, %v; want one flow cut under a new revision", res, err)
	}
	cut.over()
	r := w.denied("gone.example.net", policy.ReasonNoRule)
	if r.PolicyRevision != res.Revision || r.Door != flow.DoorConnect {
		t.Errorf("record of the cut: revision %s, door %s; want %s, connect", r.PolicyRevision, r.Door, res.Revision)
	}
	if end := w.ended("gone.example.net"); end.ClientEnd != flow.EndPolicy || end.ID != r.ID || end.BytesIn == 0 {
		t.Errorf("end of the cut flow: %s, id %s, %d bytes; want policy, %s and some", end.ClientEnd, end.ID, end.BytesIn, r.ID)
	}
	w.live(1)
	kept.echo("still here\n")
	w.refused("gone.example.net", up.port, 403)
	if last := w.g.Status().LastReload; last == nil || !last.OK || last.Cut != 1 {
		t.Errorf("status has the reload as %+v", last)
	}
}

func TestReloadOfTheSamePolicyCutsNothing(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	spec := rules(up.rule("keep.example.net"))
	w := start(t, up, spec)
	c := w.tunnel("keep.example.net")
	w.load(spec)
	res, err := w.g.Reload(context.Background())
	if err != nil || res.Changed || res.Cut != 0 {
		t.Errorf("Reload: %+v, %v; want no change", res, err)
	}
	c.echo("still here\n")
}

func TestLiveFlowsAreShownUnderTheNewPolicy(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	r := up.rule("a.example.net")
	for _, grace := range []time.Duration{0, time.Hour} {
		w := start(t, up, rules(r), func(o *Options) { o.Limits.RevokeGrace = grace })
		c := w.tunnel("a.example.net")
		renamed := r
		renamed.Name, renamed.Owner = "renamed", "others"
		w.load(rules(renamed))
		if res, err := w.g.Reload(context.Background()); err != nil || res.Cut != 0 {
			t.Fatalf("Reload: %+v, %v; want nothing cut", res, err)
		}
		if list := w.g.Flows(10); len(list) != 1 || list[0].Rule != "renamed" || list[0].Owner != "others" {
			t.Errorf("flows: %+v; want the new rule", list)
		}
		c.echo("still here\n")
	}
}

func TestBrokenPolicyKeepsTheOldOne(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("keep.example.net")))
	c := w.tunnel("keep.example.net")
	before := w.g.Status().Policy.Revision
	w.loadBroken("test.yaml:3: no such word")
	res, err := w.g.Reload(context.Background())
	if err == nil || res.OK || !strings.Contains(res.Error, "test.yaml:3") || res.Revision != before {
		t.Errorf("Reload: %+v, %v; want the error and the old revision", res, err)
	}
	if s := w.g.Status(); s.Policy.Revision != before || s.LastReload.Error == "" {
		t.Errorf("status: revision %s, last reload %+v; want %s and the error", s.Policy.Revision, s.LastReload, before)
	}
	c.echo("still here\n")
	w.tunnel("keep.example.net").Close()
	w.refused("other.example.net", up.port, 403)
}

func TestReloadWithoutAnythingToRead(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("keep.example.net")), func(o *Options) { o.Load = nil })
	if res, err := w.g.Reload(context.Background()); err == nil || res.OK {
		t.Errorf("Reload: %+v, %v; want an error", res, err)
	}
}

func TestRevokeGrace(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	all := rules(up.rule("a.example.net"), up.rule("b.example.net"), up.rule("c.example.net"))
	t.Run("a flow lives on within the grace", func(t *testing.T) {
		w := start(t, up, all, func(o *Options) { o.Limits.RevokeGrace = time.Hour })
		c := w.tunnel("a.example.net")
		w.load(rules(up.rule("b.example.net")))
		if res, err := w.g.Reload(context.Background()); err != nil || res.Cut != 1 {
			t.Errorf("Reload: %+v, %v; want one flow to be cut later", res, err)
		}
		c.echo("still here\n")
		if list := w.find("a.example.net", audit.EventDecision, policy.ReasonNoRule); len(list) > 0 {
			t.Errorf("recorded as denied before it is cut: %+v", list)
		}
	})
	t.Run("then it is cut, unless it is allowed again or has ended", func(t *testing.T) {
		w := start(t, up, all, func(o *Options) { o.Limits.RevokeGrace = 200 * time.Millisecond })
		a, b, c := w.tunnel("a.example.net"), w.tunnel("b.example.net"), w.tunnel("c.example.net")
		w.live(3)
		w.load(rules(up.rule("other.example.net")))
		if res, err := w.g.Reload(context.Background()); err != nil || res.Cut != 3 {
			t.Fatalf("Reload: %+v, %v; want three", res, err)
		}
		a.Close()
		w.ended("a.example.net")
		w.load(rules(up.rule("b.example.net")))
		if _, err := w.g.Reload(context.Background()); err != nil {
			t.Fatal(err)
		}
		c.over()
		w.denied("c.example.net", policy.ReasonNoRule)
		b.echo("allowed again\n")
		for _, host := range []string{"a.example.net", "b.example.net"} {
			if list := w.find(host, audit.EventDecision, policy.ReasonNoRule); len(list) > 0 {
				t.Errorf("%s is recorded as denied: %+v", host, list)
			}
		}
	})
}

func TestExpiryCutsALiveFlow(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	brief := up.rule("brief.example.net")
	brief.Expires = time.Now().Add(1500 * time.Millisecond).UTC().Format(time.RFC3339Nano)
	w := start(t, up, rules(brief, up.rule("keep.example.net")))
	c, kept := w.tunnel("brief.example.net"), w.tunnel("keep.example.net")
	c.over()
	w.denied("brief.example.net", policy.ReasonExpired)
	if end := w.ended("brief.example.net"); end.ClientEnd != flow.EndPolicy {
		t.Errorf("it ended by %s; want policy", end.ClientEnd)
	}
	kept.echo("still here\n")
	w.refused("brief.example.net", up.port, 403)
}

// tunnelWithin opens a tunnel to outer and speaks TLS for inner in it.
func (w *world) tunnelWithin(outer, inner string) *conn {
	w.t.Helper()
	c, res := w.connect(outer, w.up.port)
	if res.StatusCode != 200 {
		w.t.Fatalf("CONNECT %s: %s; want 200", outer, res.Status)
	}
	c.echo(string(clientHello(w.t, inner)))
	return c
}

func TestReloadJudgesTheNameInside(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	outer, inner := up.rule("outer.example.net"), up.rule("inner.example.net")
	w := start(t, up, rules(outer, inner))
	mixed := w.tunnelWithin("outer.example.net", "inner.example.net")
	plain := w.tunnelWithin("outer.example.net", "outer.example.net")
	w.load(rules(outer))
	if res, err := w.g.Reload(context.Background()); err != nil || res.Cut != 1 {
		t.Fatalf("Reload: %+v, %v; want one cut", res, err)
	}
	mixed.over()
	w.denied("outer.example.net", policy.ReasonNameMismatch)
	plain.echo("still here\n")
}

func TestReloadJudgesThePermitOfPrivateAddresses(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net"), up.rule("b.example.net")))
	a, b := w.tunnel("a.example.net"), w.tunnel("b.example.net")
	closed := up.rule("a.example.net")
	closed.Private = nil
	w.load(rules(closed, up.rule("b.example.net")))
	if res, err := w.g.Reload(context.Background()); err != nil || res.Cut != 1 {
		t.Fatalf("Reload: %+v, %v; want one cut", res, err)
	}
	a.over()
	w.denied("a.example.net", policy.ReasonForbiddenAddress)
	b.echo("still here\n")
}

// A reload that comes between a flow's decision and the start of its relay
// must not miss it.
func TestReloadBeforeTheRelayBegins(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")))
	f := flow.Inbound{}.New(flow.DoorConnect)
	f.Host, f.Port = "a.example.net", up.port
	if err := w.g.gate.Admit(context.Background(), f); err != nil {
		t.Fatal(err)
	}
	w.load(rules(up.rule("b.example.net")))
	if _, err := w.g.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	live, release := w.g.gate.Live(context.Background(), f)
	defer release()
	var cut *flow.CutError
	if !errors.As(context.Cause(live), &cut) || cut.End != flow.EndPolicy {
		t.Errorf("the flow's context ended with %v; want a cut by policy", context.Cause(live))
	}
	w.denied("a.example.net", policy.ReasonNoRule)
	w.g.gate.Done(f)
}
