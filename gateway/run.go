package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sluice/certs"
	"sluice/gateway/admin"
	"sluice/gateway/audit"
	"sluice/gateway/dial"
	"sluice/gateway/flow"
	"sluice/gateway/telemetry"
)

// Gateway is one running egress gateway.
type Gateway struct {
	opt        Options
	log        *slog.Logger
	gate       *gate
	journal    *audit.Journal // nil: none is kept
	telemetry  *telemetry.Telemetry
	certs      []*certs.Manager
	authority  string // file with the certificate of the internal authority; "" if no listener uses it
	open       []*opened
	admin      *adminServer // nil: there is none
	resets     []func()     // called when a new policy is published
	leaves     []func()     // called when the gateway begins to stop
	started    time.Time
	ready      atomic.Bool
	reloading  sync.Mutex
	lastReload atomic.Pointer[admin.ReloadResult]
	published  chan struct{}
	self       atomic.Pointer[[]netip.AddrPort] // our own listeners, which the guard refuses

	quit    chan struct{} // closed: begin to stop
	abort   chan struct{} // closed: do not wait for live flows any longer
	quitOne sync.Once
	abtOne  sync.Once
}

// New builds a gateway, opens its journal and prepares its exports. It
// listens only in Run, which must be called to release what New took.
func New(o Options) (*Gateway, error) {
	if o.Policy == nil {
		return nil, errors.New("gateway: no policy")
	}
	g := &Gateway{
		opt: o, log: o.Logger, started: time.Now(), published: make(chan struct{}, 1),
		quit: make(chan struct{}), abort: make(chan struct{}),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.self.Store(&[]netip.AddrPort{})
	resolver, err := dial.NewResolver(o.Resolver)
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	g.gate = &gate{resolver: resolver, now: time.Now}
	guard := dial.NewGuard(dial.GuardOptions{Permit: o.Permit, Self: func() []netip.AddrPort { return *g.self.Load() }})
	if g.telemetry, err = telemetry.Setup(context.Background(), o.Telemetry, g.log); err != nil {
		resolver.Close()
		return nil, err
	}
	keep := &recorder{now: time.Now}
	if o.Journal != nil {
		if g.journal, err = audit.Open(*o.Journal, g.log); err != nil {
			return nil, errors.Join(err, g.release())
		}
		keep.journal, keep.required = g.journal, o.Journal.Required
	}
	keep.sinks = append(keep.sinks, g.count)
	if log := g.flowLog(); log != nil {
		keep.sinks = append(keep.sinks, log)
	}
	g.gate.guard, g.gate.keep, g.gate.active = guard, keep, g.telemetry.Active
	g.gate.dialer = &dial.Dialer{Timeout: o.Limits.Connect, Guard: guard}
	g.gate.policy.Store(o.Policy)
	g.telemetry.PolicyLoaded(o.Policy.Revision(), len(o.Policy.Rules()))
	if g.journal != nil {
		if err := g.telemetry.RegisterJournal(g.journal.Stats); err != nil {
			return nil, errors.Join(err, g.release())
		}
	}
	return g, nil
}

// count gives a record to the metrics and the spans.
func (g *Gateway) count(r *audit.Record) {
	switch {
	case r.Event == audit.EventEnd:
		g.telemetry.Ended(r)
	case r.Denied():
		g.telemetry.Denied(r)
	default:
		g.telemetry.Allowed(r)
	}
}

// flowLog returns what repeats records in the log, or nil.
func (g *Gateway) flowLog() func(*audit.Record) {
	switch g.opt.Flows {
	case "none":
		return nil
	case "all":
		return func(r *audit.Record) { audit.Log(context.Background(), g.log, r) }
	}
	return func(r *audit.Record) {
		if r.Event == audit.EventDecision && (r.Denied() || r.WouldDeny) {
			audit.Log(context.Background(), g.log, r)
		}
	}
}

// Run opens the listeners and serves until ctx ends, Quit is asked for or a
// listener fails. It then stops accepting, lets live flows end within
// Limits.Drain, cuts the rest, and writes out records and spans.
func (g *Gateway) Run(ctx context.Context) error {
	serving, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	err := g.openAll(serving)
	if err == nil {
		err = g.serveUntil(ctx, serving)
	}
	g.ready.Store(false)
	g.drain(cut)
	return errors.Join(err, g.release())
}

// serveUntil serves until it is time to stop, and says why if that is an
// error.
func (g *Gateway) serveUntil(ctx, serving context.Context) error {
	failed := make(chan error, len(g.open))
	for _, o := range g.open {
		go func() { failed <- o.Serve(serving, o.front.serve) }()
	}
	if g.admin != nil {
		go g.admin.serve()
	}
	stopTime, stop := context.WithCancel(serving)
	defer stop()
	go g.keepTime(stopTime)
	g.ready.Store(true)
	if g.opt.Opened != nil {
		g.opt.Opened(g.bound())
	}
	select {
	case <-ctx.Done():
		return nil
	case <-g.quit:
		return nil
	case err := <-failed:
		return err
	}
}

const (
	drainPoll  = 20 * time.Millisecond
	cutTimeout = 5 * time.Second // for handlers to return once their flows are cut
	flushLimit = 10 * time.Second
)

// drain stops accepting and lets live flows end, then cuts what is left.
func (g *Gateway) drain(cut context.CancelCauseFunc) {
	if n := g.gate.live.count.Load(); n > 0 {
		g.log.Info("stopping: live flows may end", "flows", n, "within", g.opt.Limits.Drain)
	}
	for _, o := range g.open {
		o.StopAccepting()
	}
	for _, leave := range g.leaves {
		leave()
	}
	deadline := time.NewTimer(g.opt.Limits.Drain)
	defer deadline.Stop()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
wait:
	// Between Dial and Live a door has a flow to itself for a moment: only a
	// second look that finds none is believed.
	for idle := 0; idle < 2; {
		if g.gate.live.count.Load() == 0 && g.gate.opening.Load() == 0 {
			if idle++; idle == 2 {
				break
			}
		} else {
			idle = 0
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			break wait
		case <-g.abort:
			break wait
		}
	}
	if n := g.gate.live.cutAll(flow.EndDrain); n > 0 {
		g.log.Warn("stopping: flows cut", "flows", n)
	}
	cut(&flow.CutError{End: flow.EndDrain})
	ctx, cancel := context.WithTimeout(context.Background(), cutTimeout)
	defer cancel()
	for _, o := range g.open {
		if err := o.Close(ctx); err != nil {
			g.log.Warn("stopping", "listener", o.name, "error", err)
		}
	}
	if g.admin != nil {
		g.admin.stop(ctx)
	}
}

// release writes out records and spans, and closes what New opened.
func (g *Gateway) release() error {
	var errs []error
	for _, m := range g.certs {
		errs = append(errs, m.Close())
	}
	if g.journal != nil {
		errs = append(errs, g.journal.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
	defer cancel()
	if err := g.telemetry.Shutdown(ctx); err != nil {
		g.log.Error("stopping: telemetry", "error", err)
	}
	g.gate.resolver.Close()
	return errors.Join(errs...)
}

// Quit begins to stop, as the end of Run's context does.
func (g *Gateway) Quit() { g.quitOne.Do(func() { close(g.quit) }) }

// Abort makes a stop cut live flows at once.
func (g *Gateway) Abort() { g.abtOne.Do(func() { close(g.abort) }) }

// ReopenJournal begins a new journal file, for programs that rotate by name.
func (g *Gateway) ReopenJournal() {
	if g.journal == nil {
		return
	}
	if err := g.journal.Reopen(); err != nil {
		g.log.Error("reopen journal", "error", err)
	}
}
