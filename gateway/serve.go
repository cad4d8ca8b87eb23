package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/listen"
	"sluice/gateway/sniff"
	"sluice/policy"
)

// front is one listener with the doors behind it.
type front struct {
	opt   Listener
	gate  *gate
	hello time.Duration // limit for the first bytes
	tls   *tls.Config   // nil: the listener does not speak TLS itself
	doors doors

	log      *slog.Logger
	panicked func() // counts faults
}

// doors are the ways in of one listener; a nil one is closed.
type doors struct {
	tls   door
	http  httpDoor // CONNECT and absolute-form requests
	socks door
}

// door serves one client connection to its end, and closes it.
type door interface {
	Serve(ctx context.Context, c *sniff.Conn, in flow.Inbound)
}

// httpDoor can also serve HTTP/2, which the client may choose inside TLS.
type httpDoor interface {
	door
	ServeH2(ctx context.Context, c net.Conn, in flow.Inbound)
}

// serve walks one accepted connection to the door that its first bytes call
// for. Silent clients are cut after the handshake time-out.
func (f *front) serve(ctx context.Context, c net.Conn) {
	defer f.survive(ctx, c)
	in := flow.Inbound{Listener: f.opt.Name, Client: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr()), Port: f.opt.Port}
	if f.tls != nil {
		c.SetDeadline(time.Now().Add(f.hello))
		f.serveTLS(ctx, c, in)
		return
	}
	c.SetReadDeadline(time.Now().Add(f.hello)) // nothing is written before the first bytes are there
	f.pick(ctx, sniff.NewConn(c), in)
}

// survive keeps a fault in a door from ending all other flows: the connection
// is closed, and the fault is counted and logged. What the panicking goroutine
// had begun is ended by its own deferred calls.
func (f *front) survive(ctx context.Context, c net.Conn) {
	fault := recover()
	if fault == nil {
		return
	}
	c.Close()
	f.panicked()
	f.log.ErrorContext(ctx, "a connection was closed by a fault of the gateway; please report it",
		"listener", f.opt.Name, "client", c.RemoteAddr().String(), "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
}

// serveTLS ends the client's TLS to the gateway itself.
func (f *front) serveTLS(ctx context.Context, c net.Conn, in flow.Inbound) {
	tc := tls.Server(c, f.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return
	}
	in.Secure = true
	state := tc.ConnectionState()
	if len(state.VerifiedChains) > 0 {
		in.Identity = &policy.Identity{Subject: state.PeerCertificates[0].Subject.String()}
	}
	if state.NegotiatedProtocol == "h2" && f.doors.http != nil {
		tc.SetDeadline(time.Time{})
		f.doors.http.ServeH2(ctx, tc, in)
		return
	}
	f.pick(ctx, sniff.NewConn(tc), in)
}

// pick reads as little as it takes to know what is spoken.
func (f *front) pick(ctx context.Context, c *sniff.Conn, in flow.Inbound) {
	// A client that has said nothing yet must not hold up a stop.
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	kind := sniff.KindNeedMore
	for n := 1; kind == sniff.KindNeedMore; n = len(c.Buffered()) + 1 {
		_, err := c.Peek(n)
		kind = sniff.Classify(c.Buffered())
		if err != nil && kind == sniff.KindNeedMore {
			c.Close()
			return
		}
	}
	stop() // from here on the door watches ctx
	if f.tls != nil {
		c.SetWriteDeadline(time.Time{})
	}
	// The read deadline stays until the door, or the relay, sets its own.
	switch {
	case kind == sniff.KindTLS && f.doors.tls != nil:
		f.doors.tls.Serve(ctx, c, in)
	case kind == sniff.KindHTTP && f.doors.http != nil:
		f.doors.http.Serve(ctx, c, in)
	case kind == sniff.KindSOCKS5 && f.doors.socks != nil:
		f.doors.socks.Serve(ctx, c, in)
	default:
		f.turnAway(c, in, kind)
	}
}

// turnAway refuses a client that speaks what no door of the listener takes,
// in its own protocol where there is one.
func (f *front) turnAway(c *sniff.Conn, in flow.Inbound, kind sniff.Kind) {
	defer c.Close()
	fl := in.New(flow.DoorTCP)
	fl.Seen = seenOf(kind)
	f.gate.Refuse(fl, policy.ReasonProtocol, "no door of listener "+f.opt.Name+" speaks "+kind.String())
	c.SetWriteDeadline(time.Now().Add(time.Second))
	switch kind {
	case sniff.KindTLS:
		sniff.WriteAlert(c, sniff.AlertAccessDenied)
	case sniff.KindHTTP:
		const body = "this listener does not take HTTP proxy requests\n"
		fmt.Fprintf(c, "HTTP/1.1 403 Forbidden\r\nProxy-Status: sluice; error=http_request_denied\r\n"+
			"Content-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
	case sniff.KindSOCKS5:
		c.Write([]byte{5, 0xff})
	case sniff.KindSOCKS4:
		c.Write([]byte{0, 0x5b, 0, 0, 0, 0, 0, 0})
	}
}

// overLimit records a connection that the listener closes unread.
func (f *front) overLimit(c net.Conn, limit listen.Limit) {
	in := flow.Inbound{Listener: f.opt.Name, Client: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr())}
	f.gate.Refuse(in.New(flow.DoorTCP), policy.ReasonLimit, "over limits."+string(limit)+"; the connection was closed unread")
}

func seenOf(kind sniff.Kind) policy.Seen {
	switch kind {
	case sniff.KindTLS:
		return policy.SeenTLSNoName
	case sniff.KindHTTP:
		return policy.SeenHTTP
	case sniff.KindSTUN:
		return policy.SeenSTUN
	}
	return policy.SeenOpaque
}

// addrPort reads the address of a TCP socket. Other sockets, such as those of
// tests, have none.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// has reports whether the listener has one of the doors.
func (l *Listener) has(doors ...flow.Door) bool {
	return slices.ContainsFunc(doors, func(d flow.Door) bool { return slices.Contains(l.Doors, d) })
}
