package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"sluice/gateway/audit"
	"sluice/gateway/dial"
	"sluice/gateway/flow"
	"sluice/policy"
)

// gate is the one way out: it decides, resolves, guards, records and dials.
// It is the flow.Opener of every door.
type gate struct {
	policy   atomic.Pointer[policy.Policy]
	resolver *dial.Resolver
	guard    *dial.Guard
	dialer   *dial.Dialer
	keep     *recorder
	live     liveSet
	opening  atomic.Int64      // flows that are being decided, looked up or connected
	active   func(delta int64) // counts live flows for the metrics
	now      func() time.Time
}

var _ flow.Opener = (*gate)(nil)

// query asks about f's destination, as far as it is known now.
func query(f *flow.Flow, now time.Time) policy.Query {
	return policy.Query{
		Host: f.Host, Port: f.Port, Proto: f.Proto, Seen: f.Seen,
		Source: f.Client.Addr().Unmap(), Identity: f.Identity,
		Method: f.Method, Path: f.Path, Time: now,
	}
}

// Admit implements flow.Opener.
func (g *gate) Admit(ctx context.Context, f *flow.Flow) error {
	g.opening.Add(1)
	defer g.opening.Add(-1)
	if f.Port == 0 {
		// To a policy, port 0 asks about a name before the port is known.
		return g.Refuse(f, policy.ReasonPort, "0 is no port to connect to")
	}
	p := g.policy.Load()
	q := query(f, g.now())
	f.Decision = p.Decide(&q)
	if !f.Decision.Allow {
		return g.deny(f)
	}
	addrs := []netip.Addr{f.Decision.Addr}
	if !f.Decision.Addr.IsValid() {
		answer, err := g.resolver.Lookup(ctx, f.Decision.Host)
		if err != nil {
			g.keep.decision(f)
			return g.unreachable(f, err)
		}
		f.Aliases = answer.Aliases
		var denied policy.Decision
		if addrs, denied = reachable(p, &q, answer.Addrs); len(addrs) == 0 {
			f.Decision = denied
			return g.deny(f)
		}
	}
	ok, refused := g.guard.Filter(addrs, f.Port, permitted(&f.Decision))
	if len(ok) == 0 {
		return g.forbid(f, refused)
	}
	f.Resolved = ok
	if err := g.keep.decision(f); err != nil {
		return g.unreachable(f, err)
	}
	f.Stage = flow.Admitted
	return nil
}

// reachable returns the addresses of an answer that no deny rule names. If
// none is left, it returns the decision that says so.
func reachable(p *policy.Policy, q *policy.Query, answer []netip.Addr) (left []netip.Addr, denied policy.Decision) {
	for i, a := range answer {
		d, blocked := p.DecideAddr(q, a)
		switch {
		case blocked:
			if left == nil {
				left = append(make([]netip.Addr, 0, len(answer)), answer[:i]...) // the answer is shared
			}
			denied = d
		case left != nil:
			left = append(left, a)
		}
	}
	if left == nil {
		return answer, denied
	}
	return left, denied
}

// permitted returns the private ranges that a decision opens: those its rule
// permits, and the range of an address rule that named the address as such.
func permitted(d *policy.Decision) []netip.Prefix {
	if d.Grant == nil {
		return nil
	}
	if d.Addr.IsValid() && d.Grant == d.Rule {
		if p, err := policy.ParsePrefix(d.Pattern); err == nil {
			return []netip.Prefix{p}
		}
	}
	return d.Grant.Private
}

// forbid denies a flow that policy allows and whose every address the guard
// refuses. Guarding holds in every mode.
func (g *gate) forbid(f *flow.Flow, refused []*dial.ForbiddenError) error {
	f.Decision.Allow, f.Decision.WouldDeny = false, false
	f.Decision.Reason = policy.ReasonForbiddenAddress
	f.Decision.Detail = "the name has no address that may be reached"
	if len(refused) > 0 {
		f.Resolved = nil
		f.Decision.Detail = refused[0].Error()
	}
	return g.deny(f)
}

// deny records a denial and returns the error that says so.
func (g *gate) deny(f *flow.Flow) error {
	f.Stage = flow.Ended
	g.keep.decision(f)
	return &flow.DeniedError{ID: f.ID, Decision: f.Decision}
}

// unreachable ends an admitted flow that could not be connected.
func (g *gate) unreachable(f *flow.Flow, err error) error {
	u := &flow.UnreachableError{ID: f.ID, Host: f.Host, Code: "proxy_internal_error", Err: err}
	var resolve *dial.ResolveError
	var connect *dial.DialError
	switch {
	case errors.As(err, &resolve):
		u.Code = resolve.Code
	case errors.As(err, &connect):
		u.Code = connect.Code
	case errors.Is(err, errUnrecorded):
		u.Code = "destination_unavailable" // 503: it may go better later
	case errors.Is(err, context.DeadlineExceeded):
		u.Code = "connection_timeout"
	case errors.Is(err, context.Canceled):
		u.Code = "connection_terminated"
	}
	f.Error, f.ErrorCode, f.ServerEnd = err.Error(), u.Code, flow.EndError
	f.Stage = flow.Ended
	g.keep.end(f)
	return u
}

// Dial implements flow.Opener.
func (g *gate) Dial(ctx context.Context, f *flow.Flow) (net.Conn, error) {
	g.opening.Add(1)
	defer g.opening.Add(-1)
	if f.Stage != flow.Admitted {
		return nil, &flow.DeniedError{ID: f.ID, Decision: f.Decision}
	}
	c, to, err := g.dialer.Dial(ctx, f.Resolved, f.Port, permitted(&f.Decision))
	if forbidden := (*dial.ForbiddenError)(nil); errors.As(err, &forbidden) {
		return nil, g.forbid(f, []*dial.ForbiddenError{forbidden})
	}
	if err != nil {
		return nil, g.unreachable(f, err)
	}
	f.Upstream = to
	return c, nil
}

// Look implements flow.Opener.
func (g *gate) Look(_ context.Context, f *flow.Flow, sni string) error {
	if sni != "" {
		f.Claim(flow.FromSNI, sni)
	}
	marked := f.Decision.WouldDeny
	d, flipped := g.rejudge(f, g.now())
	f.Decision = d
	if flipped {
		return g.deny(f)
	}
	g.live.update(f)
	if d.WouldDeny && !marked {
		g.keep.decision(f)
	}
	return nil
}

// rejudge decides about f again by everything that is known of it now, and
// reports whether it may no longer go on.
func (g *gate) rejudge(f *flow.Flow, now time.Time) (d policy.Decision, flipped bool) {
	p := g.policy.Load()
	q := query(f, now)
	d = p.Decide(&q)
	if !d.Allow {
		return d, true
	}
	for _, c := range f.Claims {
		if c.From != flow.FromSNI || sameHost(c.Host, &d) || d.Grant != nil && d.Grant.Opaque {
			continue
		}
		q.Host = c.Host
		if inner := p.Decide(&q); !inner.Allow || inner.WouldDeny {
			d.Reason = policy.ReasonNameMismatch
			d.Detail = "the name inside (SNI) is not the one asked for, and not allowed itself"
			if inner.Allow {
				d.WouldDeny, d.Mode = true, inner.Mode
				continue
			}
			d.Allow, d.WouldDeny = false, false
			return d, true
		}
	}
	if f.Upstream.IsValid() {
		q.Host = f.Host
		if byAddr, blocked := p.DecideAddr(&q, f.Upstream.Addr()); blocked {
			return byAddr, true
		}
		if err := g.guard.Check(f.Upstream, permitted(&d)); err != nil {
			d.Allow, d.WouldDeny = false, false
			d.Reason, d.Detail = policy.ReasonForbiddenAddress, err.Error()
			return d, true
		}
	}
	return d, false
}

// sameHost reports whether a claimed name is the one that was decided on.
func sameHost(claim string, d *policy.Decision) bool {
	name, err := policy.ParseName(claim)
	return err == nil && name == d.Host
}

// Refuse implements flow.Opener.
func (g *gate) Refuse(f *flow.Flow, reason policy.Reason, detail string) *flow.DeniedError {
	p := g.policy.Load()
	f.Decision = policy.Decision{Reason: reason, Detail: detail, Mode: policy.Enforce, Revision: p.Revision()}
	if name, addr, err := policy.ParseHost(f.Host); err == nil {
		f.Decision.Host, f.Decision.Addr = name, addr
	}
	f.Stage = flow.Ended
	g.keep.decision(f)
	return &flow.DeniedError{ID: f.ID, Decision: f.Decision}
}

// Done implements flow.Opener.
func (g *gate) Done(f *flow.Flow) {
	if f.Stage == flow.Ended {
		return
	}
	f.Stage = flow.Ended
	g.keep.end(f)
}

// recorder writes each record to the journal, the spans, the metrics and the
// console log.
type recorder struct {
	journal  audit.Sink // nil: none
	required bool       // no flow without a record
	sinks    []func(*audit.Record)
	now      func() time.Time
}

// errUnrecorded refuses a flow that could not be recorded.
var errUnrecorded = errors.New("the flow could not be recorded, and records are required")

func (r *recorder) decision(f *flow.Flow) error { return r.write(f, audit.EventDecision) }
func (r *recorder) end(f *flow.Flow)            { r.write(f, audit.EventEnd) }

// write fails only if the record is lost and records are required.
func (r *recorder) write(f *flow.Flow, e audit.Event) error {
	rec := audit.FromFlow(f, e, r.now())
	var lost error
	if r.journal != nil {
		if err := r.journal.Append(rec); err != nil && r.required {
			lost = fmt.Errorf("%w: %w", errUnrecorded, err)
		}
	}
	for _, sink := range r.sinks {
		sink(rec)
	}
	return lost
}
