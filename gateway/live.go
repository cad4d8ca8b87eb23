package gateway

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/admin"
	"sluice/gateway/audit"
	"sluice/gateway/flow"
)

// liveShards spreads the live flows over locks, so that no two cores wait for
// each other to begin or end a flow.
const liveShards = 64

// liveSet knows the flows that are being relayed.
type liveSet struct {
	shards [liveShards]liveShard
	count  atomic.Int64
}

type liveShard struct {
	sync.Mutex
	flows map[flow.ID]*liveFlow
}

func (s *liveSet) shard(id flow.ID) *liveShard { return &s.shards[id[15]%liveShards] }

// liveFlow is a live flow as others may see it: a copy of its facts, taken
// when its relay began, and the way to cut it.
type liveFlow struct {
	mu       sync.Mutex
	facts    flow.Flow
	cut      context.CancelCauseFunc
	over     atomic.Bool // ended, or cut already: there is nothing left to judge
	gate     *gate
	released atomic.Bool
}

// Live implements flow.Opener.
func (g *gate) Live(ctx context.Context, f *flow.Flow) (context.Context, func()) {
	live, cut := context.WithCancelCause(ctx)
	lf := &liveFlow{gate: g, cut: cut}
	lf.take(f)
	shard := g.live.shard(f.ID)
	shard.Lock()
	if shard.flows == nil {
		shard.flows = map[flow.ID]*liveFlow{}
	}
	shard.flows[f.ID] = lf
	shard.Unlock()
	g.live.count.Add(1)
	g.active(1)
	// A policy may have been published between the decision and here, when
	// the reload could not see this flow yet.
	if f.Decision.Revision != g.policy.Load().Revision() {
		g.cutIfDenied(lf, g.now())
	}
	return live, lf.release
}

// release takes the flow out of the set, once.
func (lf *liveFlow) release() {
	if lf.released.Swap(true) {
		return
	}
	lf.over.Store(true)
	shard := lf.gate.live.shard(lf.facts.ID)
	shard.Lock()
	delete(shard.flows, lf.facts.ID)
	shard.Unlock()
	lf.gate.live.count.Add(-1)
	lf.gate.active(-1)
	lf.cut(nil)
}

// update tells the set what was learnt of a live flow since it began.
func (s *liveSet) update(f *flow.Flow) {
	shard := s.shard(f.ID)
	shard.Lock()
	defer shard.Unlock()
	if lf := shard.flows[f.ID]; lf != nil {
		lf.take(f)
	}
}

// take copies the facts of f. The list of claims is shared: what is in it does
// not change, and what comes behind it is not in the copy.
func (lf *liveFlow) take(f *flow.Flow) {
	lf.mu.Lock()
	defer lf.mu.Unlock()
	lf.facts = *f
	lf.facts.Claims = slices.Clip(f.Claims)
}

// copy returns the facts as they are known now.
func (lf *liveFlow) copy() flow.Flow {
	lf.mu.Lock()
	defer lf.mu.Unlock()
	return lf.facts
}

// all returns the live flows of this moment.
func (s *liveSet) all() []*liveFlow {
	list := make([]*liveFlow, 0, s.count.Load())
	for i := range s.shards {
		shard := &s.shards[i]
		shard.Lock()
		for _, lf := range shard.flows {
			list = append(list, lf)
		}
		shard.Unlock()
	}
	return list
}

// judge judges a live flow by the policy in force. One that may go on is shown
// with its new decision from now on.
func (g *gate) judge(lf *liveFlow, now time.Time) (facts flow.Flow, denied bool) {
	facts = lf.copy()
	facts.Decision, denied = g.rejudge(&facts, now)
	if !denied {
		lf.mu.Lock()
		lf.facts.Decision = facts.Decision
		lf.mu.Unlock()
	}
	return facts, denied
}

// cutIfDenied cuts and records a live flow if the policy in force denies it.
func (g *gate) cutIfDenied(lf *liveFlow, now time.Time) bool {
	facts, denied := g.judge(lf, now)
	if !denied || !lf.over.CompareAndSwap(false, true) {
		return false
	}
	g.keep.write(&facts, audit.EventDecision)
	lf.cut(&flow.CutError{End: flow.EndPolicy})
	return true
}

// rejudgeLive judges every live flow again and returns how many it found
// denied. They are cut at once, or after the grace, unless a newer policy
// allows them again by then.
func (g *gate) rejudgeLive(grace time.Duration) (cut int) {
	now := g.now()
	for _, lf := range g.live.all() {
		if grace <= 0 {
			if g.cutIfDenied(lf, now) {
				cut++
			}
			continue
		}
		if _, denied := g.judge(lf, now); denied {
			cut++
			time.AfterFunc(grace, func() { g.cutIfDenied(lf, g.now()) })
		}
	}
	return cut
}

// cutAll cuts every live flow: the gateway is stopping.
func (s *liveSet) cutAll(end flow.End) (cut int) {
	for _, lf := range s.all() {
		lf.cut(&flow.CutError{End: end})
		cut++
	}
	return cut
}

// list returns the live flows for the admin API, oldest first.
func (s *liveSet) list(limit int) []admin.Flow {
	var all []flow.Flow
	for _, lf := range s.all() {
		all = append(all, lf.copy())
	}
	slices.SortFunc(all, func(a, b flow.Flow) int { return a.Start.Compare(b.Start) })
	flows := []admin.Flow{}
	for i := range all[:min(limit, len(all))] {
		f := &all[i]
		af := admin.Flow{
			ID: f.ID.String(), Start: f.Start, Door: string(f.Door), Listener: f.Listener,
			Client: f.Client.String(), Host: f.Decision.Host, Port: f.Port, Upstream: f.Upstream.String(),
			Mode: f.Decision.Mode.String(), WouldDeny: f.Decision.WouldDeny,
		}
		if af.Host == "" {
			af.Host = f.Host
		}
		if f.Decision.Rule != nil {
			af.Rule, af.Owner = f.Decision.Rule.Name, f.Decision.Rule.Owner
		}
		if f.Identity != nil {
			af.User = f.Identity.User
		}
		flows = append(flows, af)
	}
	return flows
}
