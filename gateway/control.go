package gateway

import (
	"errors"

	"sluice/gateway/admin"
	"sluice/policy"
)

var _ admin.Control = (*Gateway)(nil)

// Ready implements admin.Control.
func (g *Gateway) Ready() error {
	if !g.ready.Load() {
		return errors.New("starting or stopping")
	}
	return nil
}

// Status implements admin.Control.
func (g *Gateway) Status() admin.Status {
	p := g.gate.policy.Load()
	s := admin.Status{
		Version: g.opt.Version, Started: g.started.UTC(), Ready: g.ready.Load(), LiveFlows: g.gate.live.count.Load(),
		LastReload: g.lastReload.Load(),
		Policy: admin.PolicyStatus{
			Revision: p.Revision(), Mode: p.Mode().String(), Rules: len(p.Rules()), Patterns: p.Patterns(), Loaded: g.opt.Loaded,
		},
	}
	for _, w := range p.Warnings() {
		s.Policy.Warnings = append(s.Policy.Warnings, w.String())
	}
	for _, b := range g.bound() {
		l := admin.Listener{Name: b.Name, Address: b.Address.String(), TLS: b.TLS, Doors: []string{}}
		for _, d := range b.Doors {
			l.Doors = append(l.Doors, string(d))
		}
		s.Listeners = append(s.Listeners, l)
	}
	if g.authority != "" {
		s.Notes = append(s.Notes, "clients of the TLS listeners must trust "+g.authority)
	}
	for _, m := range g.certs {
		for _, c := range m.Status() {
			if c.Why != "" {
				s.Notes = append(s.Notes, "certificate of "+c.Name+": "+c.Why)
			}
		}
	}
	return s
}

// Flows implements admin.Control.
func (g *Gateway) Flows(limit int) []admin.Flow { return g.gate.live.list(limit) }

// Explain implements admin.Control.
func (g *Gateway) Explain(q policy.Query) policy.Explanation {
	return g.gate.policy.Load().Explain(&q)
}
