package socks5

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/sniff"
	"sluice/policy"
)

// opener lets out the hosts it knows, to one server on loopback, and
// remembers what it was asked.
type opener struct {
	known map[string]string // host → address to dial, or an error type of RFC 9209
	inner string            // a server name inside that is denied

	mu      sync.Mutex
	flows   []flow.Flow // as admitted
	refused []string
	done    []flow.Flow
}

func (o *opener) Admit(_ context.Context, f *flow.Flow) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flows = append(o.flows, *f)
	if _, ok := o.known[f.Host]; !ok {
		return denied(f, policy.ReasonNoRule)
	}
	return nil
}

func (o *opener) Dial(ctx context.Context, f *flow.Flow) (net.Conn, error) {
	to := o.known[f.Host]
	if _, err := netip.ParseAddrPort(to); err != nil {
		return nil, &flow.UnreachableError{ID: f.ID, Host: f.Host, Code: to, Err: fmt.Errorf("told so")}
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to)
}

func (o *opener) Look(_ context.Context, f *flow.Flow, sni string) error {
	if o.inner != "" && sni == o.inner {
		return denied(f, policy.ReasonNameMismatch)
	}
	return nil
}

func (o *opener) Live(ctx context.Context, _ *flow.Flow) (context.Context, func()) {
	return ctx, func() {}
}

func (o *opener) Refuse(f *flow.Flow, reason policy.Reason, _ string) *flow.DeniedError {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused = append(o.refused, string(reason))
	return denied(f, reason)
}

func (o *opener) Done(f *flow.Flow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done = append(o.done, *f)
}

func denied(f *flow.Flow, reason policy.Reason) *flow.DeniedError {
	f.Decision = policy.Decision{Reason: reason}
	return &flow.DeniedError{ID: f.ID, Decision: f.Decision}
}

// listen serves connections on loopback until the test ends, and waits for
// every one of them then.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

// echo is a server that gives back what it gets.
func echo(t *testing.T) string {
	return listen(t, func(c net.Conn) {
		defer c.Close()
		io.Copy(c, c)
	})
}

// start serves d on loopback.
func start(t *testing.T, d *Door) string {
	return listen(t, func(c net.Conn) {
		d.Serve(t.Context(), sniff.NewConn(c), flow.Inbound{Listener: "test"})
	})
}

// dial connects, with a deadline far over what any of these tests takes.
func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// eventually waits until ok, which is called with the opener locked.
func (o *opener) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		o.mu.Lock()
		met := ok()
		o.mu.Unlock()
		if met {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: refused %v, done %+v", what, o.refused, o.done)
		}
	}
}
