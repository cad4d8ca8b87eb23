package policy

import "net/netip"

// stage is how far a rule that names the destination goes along with a query:
// the further, the nearer the miss. Zero is a match.
type stage uint8

const (
	matches stage = iota
	atSource
	atUnauthenticated
	atPort
	atProtocol
	atApp
	atNoName
	atRequest
	atExpired
	atWindow
	stages
)

var stageReasons = [stages]Reason{
	atSource:          ReasonSource,
	atUnauthenticated: ReasonUnauthenticated,
	atPort:            ReasonPort,
	atProtocol:        ReasonProtocol,
	atApp:             ReasonProtocol,
	atNoName:          ReasonNoName,
	atRequest:         ReasonRequest,
	atExpired:         ReasonExpired,
	atWindow:          ReasonExpired,
}

// Details of decisions that no rule has a part in.
const (
	detailNoRule  = "no rule names this host"
	detailAddress = "no rule names this address; ask for the host by its name"
	detailNoName  = "the client sent no server name, and no rule names the address"
	detailNowhere = "the client gave neither a name nor an address"
)

// Decide answers a query. It is pure, and allocates nothing for a host in
// normal form.
//
// A deny rule beats every allow rule. One without a mode of its own blocks
// under enforce and under open, which lets out what no rule denies; under
// report it only marks the flow, as does one with mode: report anywhere.
// Marking lets nothing out: the flow still needs an allow rule, or the mode.
//
// Of the allow rules that match, the one that decides is one not on trial
// (mode: report), then the one whose pattern is the most specific: an exact
// name, then inner wildcards, then the longest suffix, then any; among equals
// the first. What no rule allows is settled by the policy's mode. The reason
// is that of the rule that came nearest to letting the flow out.
//
// A host that is no name is denied in every mode, as nothing can be dialled.
func (p *Policy) Decide(q *Query) Decision {
	d := Decision{Revision: p.revision, Mode: p.mode}
	if reason, detail := normalise(q, &d.Host, &d.Addr); reason != "" {
		d.Mode, d.Reason, d.Detail = Enforce, reason, detail
		return d
	}
	j := judge{query: q, address: d.Addr.IsValid()}
	p.each(d.Host, d.Addr, func(e *entry) { j.see(e) })
	j.settle(&d)
	return d
}

// DecideAddr asks the deny rules about an address that the name in q resolved
// to: a range that is denied is not reached by way of a name either. It reports
// false if no rule blocks the address; allow rules have no say, and no part in
// it.
func (p *Policy) DecideAddr(q *Query, a netip.Addr) (Decision, bool) {
	j := judge{query: q, address: true}
	p.addrs.walk(a.Unmap().WithZone(""), func(e *entry) {
		if e.rule.Deny {
			j.see(e)
		}
	})
	if j.deny == nil {
		return Decision{}, false
	}
	d := Decision{Revision: p.revision, Addr: a}
	d.Host, _ = ParseName(q.Host)
	j.settle(&d)
	return d, true
}

// normalise finds the name or the address that a query is about, or says what
// is wrong with it.
func normalise(q *Query, host *string, addr *netip.Addr) (Reason, string) {
	if q.Host == "" {
		switch {
		case q.Addr.IsValid():
			*addr = q.Addr.Unmap().WithZone("")
			return "", ""
		case q.Seen == SeenTLSNoName:
			return ReasonNoName, detailNoName
		}
		return ReasonMalformedName, detailNowhere
	}
	var err *NameError
	switch *host, *addr, err = parseHost(q.Host); {
	case err == nil:
		return "", ""
	case err.Address:
		return ReasonAddressLiteral, err.detail
	}
	return ReasonMalformedName, err.detail
}

// each calls visit for every entry that names the destination.
func (p *Policy) each(name string, addr netip.Addr, visit func(*entry)) {
	if addr.IsValid() {
		p.addrs.walk(addr, visit)
	} else {
		p.names.walk(name, visit)
	}
	for i := range p.any {
		visit(&p.any[i])
	}
}

// judge weighs the entries that name the destination of one query.
type judge struct {
	query   *Query
	address bool
	deny    *entry // blocks
	trial   *entry // a deny rule that only marks
	best    *entry // allows
	inspect Inspect
	miss    *entry // an allow rule that came nearest to a match
	missAt  stage
}

func (j *judge) see(e *entry) {
	at := e.rule.check(j.query, j.address)
	switch {
	case e.rule.Deny && at != matches:
	case e.rule.Deny && e.rule.blocks:
		if j.deny == nil {
			j.deny = e
		}
	case e.rule.Deny:
		if j.trial == nil {
			j.trial = e
		}
	case at != matches:
		if at > j.missAt || at == j.missAt && e.rank > j.miss.rank {
			j.miss, j.missAt = e, at
		}
	default:
		if j.inspect != InspectNever && e.rule.Inspect != InspectUnset {
			j.inspect = e.rule.Inspect
		}
		if j.best == nil || e.rank > j.best.rank {
			j.best = e
		}
	}
}

// settle writes the outcome into a decision that has the policy's mode and the
// destination.
func (j *judge) settle(d *Decision) {
	if j.deny != nil {
		d.rule(j.deny)
		d.Mode = Enforce
		d.Reason, d.Detail = ReasonDenyRule, j.deny.rule.detail[matches]
		return
	}
	if j.best != nil {
		d.Allow = true
		d.rule(j.best)
		d.Grant, d.Inspect = j.best.rule, j.inspect
		if d.Rule.Mode == Report {
			d.WouldDeny = true
			d.Reason, d.Detail = j.missed()
			if d.Detail == detailNoRule || d.Detail == detailAddress {
				d.Detail = d.Rule.detail[matches]
			}
		}
	} else {
		d.Allow = d.Mode != Enforce
		d.WouldDeny = d.Mode == Report
		if d.Mode != Open {
			d.Reason, d.Detail = j.missed()
		}
	}
	if j.trial != nil && d.Allow {
		d.rule(j.trial)
		d.Mode, d.WouldDeny = Report, true
		d.Reason, d.Detail = ReasonDenyRule, j.trial.rule.detail[matches]
	}
}

func (d *Decision) rule(e *entry) {
	d.Rule, d.Pattern = e.rule, e.text
	if e.rule.Mode != ModeUnset {
		d.Mode = e.rule.Mode
	}
}

// missed gives the most helpful reason why nothing allows the flow.
func (j *judge) missed() (Reason, string) {
	switch {
	case j.miss != nil:
		return stageReasons[j.missAt], j.miss.rule.detail[j.missAt]
	case !j.address:
		return ReasonNoRule, detailNoRule
	case j.query.Seen == SeenTLSNoName:
		return ReasonNoName, detailNoName
	}
	return ReasonAddressLiteral, detailAddress
}

// check returns how far a rule that names the destination goes along with q.
func (r *Rule) check(q *Query, address bool) stage {
	if at := r.who.check(q.Source, q.Identity); at != matches {
		return at
	}
	if at := r.checkTransport(q); at != matches {
		return at
	}
	if !r.Accepts(q.Seen, q.Port, address) {
		if q.Seen == SeenTLSNoName && r.Accepts(SeenTLS, q.Port, address) {
			return atNoName
		}
		return atApp
	}
	if at := r.how.check(r, q); at != matches {
		return at
	}
	if !r.when.bound() {
		return matches
	}
	switch {
	case q.Time.IsZero():
		if r.Deny {
			return matches
		}
		return atWindow
	case r.when.expired(q.Time):
		return atExpired
	case !r.when.inWindow(q.Time):
		return atWindow
	}
	return matches
}

func (r *Rule) checkTransport(q *Query) stage {
	proto := q.Proto
	if q.Port == 0 {
		if r.Deny && len(r.how.ports) > 0 {
			return atPort
		}
	} else {
		if !r.how.hasPort(q.Port) {
			return atPort
		}
		if proto == AnyProtocol {
			proto = TCP
		}
	}
	if r.how.proto == AnyProtocol || r.how.proto == proto {
		return matches
	}
	if proto == AnyProtocol && !r.Deny {
		return matches
	}
	return atProtocol
}
