package gateway

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/gateway/dial"
	"sluice/gateway/flow"
)

// stopped waits for Run to return.
func (w *world) stopped() {
	w.t.Helper()
	select {
	case <-w.done:
	case <-time.After(20 * time.Second):
		w.t.Fatal("Run did not return within 20 s")
	}
}

// refusing waits until an address takes no connections.
func (w *world) refusing(addr string) {
	w.t.Helper()
	eventually(w.t, addr+" takes no connections", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

func drainFor(d time.Duration) func(*Options) {
	return func(o *Options) { o.Limits.Drain = d }
}

func TestStopLetsLiveFlowsEnd(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	for name, stop := range map[string]func(*world){
		"the context ends": func(w *world) { w.stop() },
		"Quit":             func(w *world) { w.g.Quit(); w.g.Quit() },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, up, rules(up.rule("a.example.net")), drainFor(time.Hour))
			c := w.tunnel("a.example.net")
			stop(w)
			w.refusing(w.proxy)
			w.refusing(w.router)
			if w.g.Ready() == nil {
				t.Error("it is ready while it stops")
			}
			c.echo("still here\n")
			c.Close()
			w.stopped()
			if end := w.ended("a.example.net"); end.ClientEnd != flow.EndEOF {
				t.Errorf("the flow ended by %s; want eof", end.ClientEnd)
			}
		})
	}
}

// A flow whose name is being looked up, or that is being connected, when the
// stop begins has its time like one that is connected.
func TestStopWaitsForFlowsThatAreDialled(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	z := newZone(t, "127.0.0.1")
	z.hold = make(chan struct{})
	w := start(t, up, rules(up.rule("a.example.net")), drainFor(time.Hour), func(o *Options) {
		o.Resolver = dial.ResolverOptions{Servers: []string{"udp://" + z.addr}, Timeout: time.Minute, Attempts: 1}
	})
	c := dialTCP(t, w.proxy)
	fmt.Fprintf(c, "CONNECT a.example.net:%[1]d HTTP/1.1\r\nHost: a.example.net:%[1]d\r\n\r\n", up.port)
	eventually(t, "the name is asked for", func() bool { return z.questions("a.example.net") > 0 })
	w.stop()
	w.refusing(w.proxy)
	close(z.hold)
	res, err := http.ReadResponse(c.r, &http.Request{Method: http.MethodConnect})
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT: %v %v", res, err)
	}
	c.echo("still here\n")
	c.Close()
	w.stopped()
}

func TestStopCutsWhatIsLeft(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	for name, c := range map[string]struct {
		drain time.Duration
		abort bool
	}{
		"when the time is up": {drain: 50 * time.Millisecond},
		"at once":             {drain: 0},
		"on Abort":            {drain: time.Hour, abort: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, up, rules(up.rule("a.example.net")), drainFor(c.drain))
			tunnel := w.tunnel("a.example.net")
			quiet, res := w.connect("a.example.net", up.port) // nothing was said on it yet
			if res.StatusCode != 200 {
				t.Fatal(res.Status)
			}
			w.live(2)
			w.g.Quit()
			if c.abort {
				w.refusing(w.proxy)
				tunnel.echo("still here\n")
				w.g.Abort()
				w.g.Abort()
			}
			tunnel.over()
			quiet.over()
			w.stopped()
			n := 0
			for _, r := range w.records {
				if r.Event == "end" {
					n++
					if r.ClientEnd != flow.EndDrain || r.ServerEnd != flow.EndDrain {
						t.Errorf("a flow ended by %s and %s; want drain", r.ClientEnd, r.ServerEnd)
					}
				}
			}
			if n != 2 {
				t.Errorf("%d ends recorded; want two", n)
			}
		})
	}
}

// Connections without a flow must not use up the time for handlers to return.
func TestIdleConnectionsDoNotHoldUpAStop(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")), drainFor(time.Hour))
	silent, routed := dialTCP(t, w.proxy), dialTCP(t, w.router)
	half := dialTCP(t, w.proxy)
	half.Write([]byte("CONNECT a.exam"))
	hello := dialTCP(t, w.router)
	hello.Write(clientHello(t, "a.example.net")[:20])
	socks := dialTCP(t, w.proxy)
	socks.Write([]byte{5})
	kept := dialTCP(t, w.proxy)
	kept.Write([]byte("GET http://denied.example.net/ HTTP/1.1\r\nHost: denied.example.net\r\n\r\n"))
	if _, err := kept.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all connections are accepted", func() bool {
		return w.g.open[0].Open() == 4 && w.g.open[1].Open() == 2
	})
	w.stop()
	w.stopped()
	for _, c := range []*conn{silent, routed, half, hello, socks, kept} {
		c.over()
	}
	if strings.Contains(w.log.String(), "connections closed") {
		t.Error("handlers did not return until their connections were closed by force")
	}
}

func TestRunFailsOnAnAddressInUse(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")))
	o := w.g.opt
	o.Opened = nil
	o.Listeners = []Listener{o.Listeners[0], {Name: "second", Address: w.proxy, Doors: o.Listeners[0].Doors}}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `"second"`) {
		t.Errorf("Run: %v; want an error that names the listener", err)
	}
	o.Listeners, o.Admin.Address = o.Listeners[:1], w.admin
	if g, err = New(o); err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "admin.address") {
		t.Errorf("Run: %v; want an error that names admin.address", err)
	}
}
