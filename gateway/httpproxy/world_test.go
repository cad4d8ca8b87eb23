package httpproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/flow"
	"sluice/gateway/sniff"
	"sluice/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate is an Opener that decides by a map, and dials loopback only.
type gate struct {
	mu      sync.Mutex
	allow   map[string]string // host:port → address to dial; "" can not be reached
	rule    *policy.Rule
	denied  []flow.Flow
	done    []flow.Flow
	live    map[*flow.Flow]context.CancelCauseFunc
	looks   int
	dials   int
	resolve func(*flow.Flow) error
}

func newGate(allow map[string]string) *gate {
	return &gate{allow: allow, live: make(map[*flow.Flow]context.CancelCauseFunc)}
}

func (g *gate) key(f *flow.Flow) string {
	return strings.ToLower(strings.TrimSuffix(f.Host, ".")) + ":" + fmt.Sprint(f.Port)
}

func (g *gate) deny(f *flow.Flow, reason policy.Reason, detail string) *flow.DeniedError {
	f.Decision = policy.Decision{Reason: reason, Detail: detail, Rule: g.rule}
	g.denied = append(g.denied, *f)
	return &flow.DeniedError{ID: f.ID, Decision: f.Decision}
}

func (g *gate) Admit(_ context.Context, f *flow.Flow) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.allow[g.key(f)]; !ok {
		return g.deny(f, policy.ReasonNoRule, fmt.Sprintf("no rule names %q", f.Host))
	}
	f.Decision = policy.Decision{Allow: true, Host: f.Host, Rule: g.rule, Grant: g.rule}
	if g.resolve != nil {
		return g.resolve(f)
	}
	return nil
}

func (g *gate) Dial(ctx context.Context, f *flow.Flow) (net.Conn, error) {
	g.mu.Lock()
	addr := g.allow[g.key(f)]
	g.dials++
	g.mu.Unlock()
	if !f.Decision.Allow {
		return nil, errors.New("not admitted")
	}
	if addr == "" {
		return nil, &flow.UnreachableError{ID: f.ID, Host: f.Host, Code: "connection_timeout", Err: errors.New("no answer")}
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &flow.UnreachableError{ID: f.ID, Host: f.Host, Code: "connection_refused", Err: err}
	}
	f.Upstream = netip.MustParseAddrPort(c.RemoteAddr().String())
	return c, nil
}

func (g *gate) Look(_ context.Context, f *flow.Flow, sni string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.looks++
	if sni != "" && !strings.EqualFold(sni, f.Host) {
		return g.deny(f, policy.ReasonNameMismatch, "another name inside")
	}
	return nil
}

func (g *gate) Live(ctx context.Context, f *flow.Flow) (context.Context, func()) {
	live, cancel := context.WithCancelCause(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live[f] = cancel
	return live, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.live, f)
		cancel(nil)
	}
}

func (g *gate) Refuse(f *flow.Flow, reason policy.Reason, detail string) *flow.DeniedError {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deny(f, reason, detail)
}

func (g *gate) Done(f *flow.Flow) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = append(g.done, *f)
}

func (g *gate) forbid(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.allow, key)
}

// cutAll cuts what is live as a change of policy does, and says how many
// flows that were.
func (g *gate) cutAll(end flow.End) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, cancel := range g.live {
		cancel(&flow.CutError{End: end})
	}
	return len(g.live)
}

func (g *gate) denials() []flow.Flow {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]flow.Flow(nil), g.denied...)
}

func (g *gate) ends() []flow.Flow {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]flow.Flow(nil), g.done...)
}

var _ flow.Opener = (*gate)(nil)

// startDoor serves a Door on loopback until the test ends, and returns its
// address.
func startDoor(t testing.TB, g *gate, o Options) (string, *Door) {
	t.Helper()
	o.Out = g
	d := New(o)
	addr := serveLoop(t, func(ctx context.Context, c net.Conn) {
		d.Serve(ctx, sniff.NewConn(c), inbound(c))
	})
	t.Cleanup(d.Reset)
	return addr, d
}

func inbound(c net.Conn) flow.Inbound {
	return flow.Inbound{
		Listener: "test",
		Client:   netip.MustParseAddrPort(c.RemoteAddr().String()),
		Local:    netip.MustParseAddrPort(c.LocalAddr().String()),
	}
}

// serveLoop runs serve for each connection to the address it returns.
func serveLoop(t testing.TB, serve func(context.Context, net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); serve(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// startServer serves HTTP on loopback until the test ends.
func startServer(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// wire is a raw client connection.
type wire struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func dialWire(t testing.TB, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &wire{c, t, bufio.NewReader(c)}
}

func (w *wire) send(s string) {
	w.t.Helper()
	if _, err := io.WriteString(w.Conn, s); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

// response reads one response to a request of that method.
func (w *wire) response(method string) (*http.Response, string) {
	w.t.Helper()
	resp, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		w.t.Fatalf("read response: %v", err)
	}
	if method == http.MethodConnect && resp.StatusCode == http.StatusOK {
		return resp, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("read body: %v", err)
	}
	return resp, string(body)
}

// waitFor polls until ok.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}
