package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sluice/certs"
	"sluice/gateway/admin"
	"sluice/gateway/audit"
	"sluice/gateway/dial"
	"sluice/gateway/flow"
	"sluice/gateway/httpproxy"
	"sluice/gateway/listen"
	"sluice/gateway/sniff"
	"sluice/gateway/socks5"
	"sluice/gateway/telemetry"
	"sluice/gateway/transparent"
	"sluice/policy"
)

// Gateway is one running egress gateway.
type Gateway struct {
	opt        Options
	log        *slog.Logger
	gate       *gate
	journal    *audit.Journal
	telemetry  *telemetry.Telemetry
	certs      []*certs.Manager
	fronts     []*opened
	admin      *opened
	resets     []func() // called when a new policy is published
	started    time.Time
	ready      atomic.Bool
	reloading  sync.Mutex
	lastReload atomic.Pointer[admin.ReloadResult]
	published  chan struct{}
	quit       context.CancelFunc
	quitOnce   chan struct{}
	aborted    chan struct{}
	abortOnce  sync.Once
	self       atomic.Pointer[[]netip.AddrPort] // our own listeners, which the guard refuses
}

// opened is a listener that is open.
type opened struct {
	*listen.Listener
	front *front
}

// New builds a gateway. Nothing is opened before Run.
func New(o Options) (*Gateway, error) {
	if o.Policy == nil {
		return nil, errors.New("gateway: no policy")
	}
	g := &Gateway{
		opt: o, log: o.Logger, started: time.Now(), published: make(chan struct{}, 1),
		quitOnce: make(chan struct{}), aborted: make(chan struct{}),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.self.Store(&[]netip.AddrPort{})
	resolver, err := dial.NewResolver(o.Resolver)
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	guard := dial.NewGuard(dial.GuardOptions{Permit: o.Permit, Self: func() []netip.AddrPort { return *g.self.Load() }})
	g.gate = &gate{
		resolver: resolver, guard: guard, now: time.Now,
		dialer: &dial.Dialer{Timeout: o.Limits.Connect, Guard: guard},
	}
	g.gate.policy.Store(o.Policy)
	return g, nil
}
