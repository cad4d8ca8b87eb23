package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"sluice/certs"
	"sluice/gateway/admin"
	"sluice/gateway/flow"
	"sluice/gateway/httpproxy"
	"sluice/gateway/listen"
	"sluice/gateway/socks5"
	"sluice/gateway/transparent"
)

// opened is a listener that is open, and what serves its connections.
type opened struct {
	*listen.Listener
	name  string
	front *front
}

// openAll opens every listener, and the admin listener last, so that health
// is not answered before flows can be.
func (g *Gateway) openAll(ctx context.Context) error {
	for _, l := range g.opt.Listeners {
		f, err := g.newFront(ctx, l)
		if err != nil {
			return err
		}
		if err := g.openOne(ctx, f); err != nil {
			return err
		}
	}
	if err := g.openAdmin(ctx); err != nil {
		return err
	}
	var self []netip.AddrPort
	for _, b := range g.bound() {
		self = append(self, b.Address)
	}
	g.self.Store(&self)
	return nil
}

func (g *Gateway) openOne(ctx context.Context, f *front) error {
	l, err := listen.Listen(ctx, listen.Options{
		Name: f.opt.Name, Address: f.opt.Address, Logger: g.log,
		MaxConns: g.opt.Limits.Connections, MaxPerClient: g.opt.Limits.ConnectionsPerClient,
	})
	if err != nil {
		return err
	}
	g.open = append(g.open, &opened{Listener: l, name: f.opt.Name, front: f})
	return nil
}

// newFront builds the doors of one listener.
func (g *Gateway) newFront(ctx context.Context, l Listener) (*front, error) {
	if l.Port == 0 {
		l.Port = 443
	}
	lim := g.opt.Limits
	f := &front{opt: l, gate: g.gate, hello: lim.Handshake, log: g.log, panicked: g.telemetry.Panicked}
	if l.has(flow.DoorTLS) {
		f.doors.tls = &transparent.Door{Out: g.gate, HandshakeTimeout: lim.Handshake, Relay: g.opt.Relay}
	}
	if l.has(flow.DoorSOCKS5) {
		f.doors.socks = &socks5.Door{Out: g.gate, HandshakeTimeout: lim.Handshake, Relay: g.opt.Relay}
	}
	if l.has(flow.DoorConnect, flow.DoorHTTP) {
		d := httpproxy.New(httpproxy.Options{
			Out: g.gate, NoConnect: !l.has(flow.DoorConnect), NoHTTP: !l.has(flow.DoorHTTP),
			HeaderTimeout: lim.Handshake, HandshakeTimeout: lim.Handshake, Relay: g.opt.Relay, Log: g.log,
		})
		g.resets = append(g.resets, d.Reset)
		f.doors.http = d
	}
	if l.TLS != nil {
		m, err := g.manage(ctx, l.TLS)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		f.tls = m.TLSConfig("h2", "http/1.1")
	}
	return f, nil
}

// manage starts to keep the certificate of a listener.
func (g *Gateway) manage(ctx context.Context, o *certs.Options) (*certs.Manager, error) {
	m, err := certs.New(*o)
	if err != nil {
		return nil, err
	}
	g.certs = append(g.certs, m)
	return m, m.Start(ctx)
}

// adminName is the name of the admin listener in messages.
const adminName = "admin"

// adminServer is the open admin listener.
type adminServer struct {
	srv  *http.Server
	l    net.Listener
	done chan struct{}
}

func (g *Gateway) openAdmin(ctx context.Context) error {
	a := g.opt.Admin
	if a.Address == "" {
		return nil
	}
	srv := &http.Server{
		Handler: admin.Handler(admin.Options{
			Control: g, Metrics: g.telemetry.MetricsHandler(), Token: a.Token, Proxy: g.proxyAddress(),
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	l, err := net.Listen("tcp", a.Address)
	if err != nil {
		return fmt.Errorf("admin listener: %w; set admin.address, or --admin, to a free address", err)
	}
	if a.TLS != nil {
		m, err := g.manage(ctx, a.TLS)
		if err != nil {
			l.Close()
			return fmt.Errorf("admin listener: %w", err)
		}
		l = tls.NewListener(l, m.TLSConfig("http/1.1"))
	}
	g.admin = &adminServer{srv: srv, l: l, done: make(chan struct{})}
	return nil
}

// serve answers until stop. A failure of the admin listener is not one of the
// gateway.
func (a *adminServer) serve() {
	defer close(a.done)
	a.srv.Serve(a.l)
}

// stop lets requests that are being answered end, within ctx.
func (a *adminServer) stop(ctx context.Context) {
	if a.srv.Shutdown(ctx) != nil {
		a.srv.Close()
	}
	a.l.Close()
	<-a.done
}

// proxyAddress is the address for the PAC file: that of the first listener
// with a CONNECT door and without TLS.
func (g *Gateway) proxyAddress() string {
	for _, o := range g.open {
		if o.front.tls == nil && o.front.opt.has(flow.DoorConnect) {
			return o.Addr().String()
		}
	}
	return ""
}

// bound lists the open listeners, the admin listener last and without doors.
func (g *Gateway) bound() []Bound {
	var list []Bound
	for _, o := range g.open {
		list = append(list, Bound{Name: o.name, Address: addrPort(o.Addr()), Doors: o.front.opt.Doors, TLS: o.front.tls != nil})
	}
	if g.admin != nil {
		list = append(list, Bound{Name: adminName, Address: addrPort(g.admin.l.Addr()), TLS: g.opt.Admin.TLS != nil})
	}
	return list
}
