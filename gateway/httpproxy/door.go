package httpproxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/sniff"
	"sluice/gateway/tunnel"
	"sluice/policy"
)

// Options of a Door. The zero value of each is usable, but for Out.
type Options struct {
	Out flow.Opener

	// NoConnect and NoHTTP close one of the two doors: requests for it are
	// refused with 405 and the reason protocol.
	NoConnect, NoHTTP bool

	HeaderTimeout    time.Duration // for a whole request head; default 10 s
	IdleTimeout      time.Duration // between two requests of a connection; default 60 s
	HandshakeTimeout time.Duration // for a whole ClientHello inside a tunnel; default 10 s
	ResponseTimeout  time.Duration // for the response head, after the request was sent; default 5 min
	MaxHeader        int           // bytes of a request or response head; default 64 KiB

	// Relay holds for tunnels; its IdleTimeout and MaxBytes also for an
	// exchange of request and response.
	Relay relay.Options

	// Instance tells this gateway from others in Via, so that a request that
	// comes back is known again. Default: random.
	Instance string

	// Authenticate, if set, says who sent a request, from its header. An error
	// refuses the request as unauthenticated: with 407 and the Challenges, the
	// values of Proxy-Authenticate, if there are any, else with 403.
	Authenticate func(*http.Request) (*policy.Identity, error)
	Challenges   []string

	// Local answers requests for the proxy itself (GET /proxy.pac). If nil
	// they get 400.
	Local http.Handler

	Log *slog.Logger // default: none
}

func (o *Options) fill() {
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&o.HeaderTimeout, 10 * time.Second}, {&o.IdleTimeout, time.Minute},
		{&o.HandshakeTimeout, 10 * time.Second}, {&o.ResponseTimeout, 5 * time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	if o.MaxHeader <= 0 || o.MaxHeader > sniff.MaxPeek {
		o.MaxHeader = min(64<<10, sniff.MaxPeek)
	}
	if o.Instance == "" {
		id := make([]byte, 6)
		rand.Read(id) //nolint:errcheck // never fails
		o.Instance = hex.EncodeToString(id)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Door serves connections of clients that use the gateway as an HTTP proxy.
// It is safe for concurrent use.
type Door struct {
	o       Options
	via     string // our pseudonym
	proxy   http.Handler
	servers *upstreams
	leaving atomic.Bool // Leave was called
	resets  atomic.Int64
}

// New makes a Door.
func New(o Options) *Door {
	o.fill()
	d := &Door{o: o, via: "sluice-" + o.Instance}
	d.servers = newUpstreams(&d.o)
	d.proxy = d.newProxy()
	return d
}

// Reset closes the idle upstream connections, so that requests after a change
// of policy are connected anew.
func (d *Door) Reset() {
	d.resets.Add(1)
	d.servers.reset()
}

// Leave makes every answer from now on the last of its connection, so that
// clients take their next request elsewhere: the gateway is stopping.
func (d *Door) Leave() { d.leaving.Store(true) }

// limits returns the bounds of one client connection.
func (d *Door) limits() limits {
	stall := d.o.Relay.IdleTimeout
	if stall <= 0 {
		stall = time.Hour // as relay's own default
	}
	return limits{head: d.o.HeaderTimeout, stall: stall, bytes: d.o.MaxHeader}
}

// Serve serves one connection that speaks HTTP/1, and closes it. It returns
// when the connection and all its flows have ended, or ctx has.
func (d *Door) Serve(ctx context.Context, c *sniff.Conn, in flow.Inbound) {
	// Most connections to a proxy are one CONNECT, whose head is there by now.
	if h := d.wholeConnect(c); h != nil {
		d.connect(ctx, c, h, in)
		return
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	g := newGuard(c, d.limits())
	err := g.readHead()
	if err == nil && g.connect == nil {
		d.serveRequests(ctx, g, in)
		g.takeBack()
	}
	if g.connect == nil {
		tunnel.Farewell(c)
		return
	}
	// The tunnel watches ctx itself: a connection that is closed under it would
	// be recorded as broken, not as cut.
	stop()
	c.SetDeadline(time.Time{}) //nolint:errcheck // then the next read fails
	d.connect(ctx, c, g.connect, in)
}

// wholeConnect takes a CONNECT request that is fit to be served off c if all
// of its head is there, and else leaves c as it is.
func (d *Door) wholeConnect(c *sniff.Conn) *Head {
	b := c.Buffered()
	if !bytes.HasPrefix(b, []byte("CONNECT ")) {
		return nil
	}
	var scan headScan
	end, fault := scan.next(b[:min(len(b), d.o.MaxHeader)])
	if fault != nil || end == 0 {
		return nil
	}
	head, err := ParseHead(string(b[:end]))
	if err != nil || head.Method != http.MethodConnect {
		return nil
	}
	c.Discard(end)
	return head
}

// serveRequests serves all but CONNECT, by net/http.
func (d *Door) serveRequests(ctx context.Context, g *guard, in flow.Inbound) {
	s := session{door: d, ctx: ctx, in: in, guard: g}
	defer s.close()
	srv := http.Server{
		Handler:                      &s,
		IdleTimeout:                  d.o.IdleTimeout,
		MaxHeaderBytes:               d.o.MaxHeader + len(standIn),
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ErrorLog:                     slog.NewLogLogger(d.o.Log.Handler(), slog.LevelDebug),
	}
	srv.Serve(&oneConn{guard: g}) //nolint:errcheck // it ends with the connection
}

// oneConn is a listener that accepts one connection, and fails when that is
// closed.
type oneConn struct {
	guard *guard
	given bool
}

// Accept implements net.Listener. net/http calls it from one goroutine.
func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.guard, nil
	}
	<-l.guard.closed
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (l *oneConn) Close() error { return nil }

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.guard.LocalAddr() }

var _ net.Listener = (*oneConn)(nil)
