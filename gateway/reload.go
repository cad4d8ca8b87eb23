package gateway

import (
	"context"
	"errors"
	"time"

	"sluice/gateway/admin"
	"sluice/policy"
)

// Reload reads the configuration again and puts its policy in force. On an
// error the policy in force stays, and the result says why. Live flows are
// judged by the new policy, and only those that it denies are cut.
func (g *Gateway) Reload(ctx context.Context) (admin.ReloadResult, error) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	res := admin.ReloadResult{Time: g.gate.now().UTC(), Revision: g.gate.policy.Load().Revision()}
	err := errors.New("this gateway has no configuration to read again")
	var loaded *Reloaded
	if g.opt.Load != nil {
		loaded, err = g.opt.Load(ctx)
	}
	if err != nil {
		res.Error = err.Error()
		g.telemetry.PolicyRefused()
	} else {
		res.OK, res.Notes = true, loaded.Notes
		res.Changed = loaded.Policy.Revision() != res.Revision
		res.Cut = g.publish(loaded.Policy)
		res.Revision = loaded.Policy.Revision()
	}
	g.lastReload.Store(&res)
	return res, err
}

// ReloadLogged reloads and says in the log what came of it.
func (g *Gateway) ReloadLogged(ctx context.Context, why string) {
	res, err := g.Reload(ctx)
	if err != nil {
		g.log.Error("reload refused; the last good policy stays in force", "why", why, "revision", res.Revision, "error", err)
		return
	}
	g.log.Info("reloaded", "why", why, "changed", res.Changed, "revision", res.Revision, "flows_cut", res.Cut)
	for _, note := range res.Notes {
		g.log.Warn("reload", "note", note)
	}
}

// publish puts a policy in force and returns how many live flows it denies.
func (g *Gateway) publish(p *policy.Policy) (cut int) {
	g.gate.policy.Store(p)
	g.telemetry.PolicyLoaded(p.Revision(), len(p.Rules()))
	for _, reset := range g.resets {
		reset()
	}
	cut = g.gate.rejudgeLive(g.opt.Limits.RevokeGrace)
	select {
	case g.published <- struct{}{}:
	default:
	}
	return cut
}

// keepTime judges live flows again at each moment when a rule expires or a
// time window opens or closes.
func (g *Gateway) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := 24 * time.Hour
		now := g.gate.now()
		if next := g.gate.policy.Load().NextChange(now); !next.IsZero() {
			wait = min(wait, next.Sub(now)+time.Millisecond)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-g.published:
		case <-timer.C:
			if n := g.gate.rejudgeLive(0); n > 0 {
				g.log.Info("a rule expired", "flows_cut", n)
			}
		}
	}
}
