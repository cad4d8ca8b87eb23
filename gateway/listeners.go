package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
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
		MaxConns: connectionLimit(g.opt.Limits.Connections), MaxPerClient: g.opt.Limits.ConnectionsPerClient,
		Refused: g.refused(f),
	})
	if err != nil {
		return err
	}
	g.open = append(g.open, &opened{Listener: l, name: f.opt.Name, front: f})
	return nil
}

// complainEvery is the time between two log lines about one limit.
const complainEvery = time.Minute

// refused counts and records connections that are turned away at a limit, and
// says so in the log now and then. The accept loop of the listener calls it.
func (g *Gateway) refused(f *front) func(net.Conn, listen.Limit) {
	listener := f.opt.Name
	said := map[listen.Limit]time.Time{}
	return func(c net.Conn, limit listen.Limit) {
		f.overLimit(c, limit)
		g.telemetry.ConnectionRefused(listener, string(limit))
		if limit == listen.LimitDescriptors || time.Since(said[limit]) < complainEvery {
			return // of descriptors the accept loop speaks itself
		}
		said[limit] = time.Now()
		g.log.Warn("connections are turned away", "listener", listener, "limit", "limits."+string(limit), "client", c.RemoteAddr())
	}
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
		g.resets, g.leaves = append(g.resets, d.Reset), append(g.leaves, d.Leave)
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
	if err := g.publishAuthority(m, o); err != nil {
		return nil, err
	}
	return m, m.Start(ctx)
}

// authorityFile is where clients find the certificate of the internal
// authority, beside the storage that holds its key.
const authorityFile = "ca.pem"

// publishAuthority writes the certificate that clients of a listener with
// the internal source must trust.
func (g *Gateway) publishAuthority(m *certs.Manager, o *certs.Options) error {
	pem := m.CACertificate()
	if pem == nil {
		return nil
	}
	g.authority = filepath.Join(filepath.Dir(o.StorageDir), authorityFile)
	if have, err := os.ReadFile(g.authority); err == nil && bytes.Equal(have, pem) {
		return nil
	}
	tmp := g.authority + ".new"
	if err := os.WriteFile(tmp, pem, 0o644); err != nil {
		return fmt.Errorf("write the certificate of the internal authority: %w", err)
	}
	return os.Rename(tmp, g.authority)
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
		list = append(list, g.boundTo(o.name, o.Addr(), o.front.opt.TLS))
		list[len(list)-1].Doors = o.front.opt.Doors
	}
	if g.admin != nil {
		list = append(list, g.boundTo(adminName, g.admin.l.Addr(), g.opt.Admin.TLS))
	}
	return list
}

func (g *Gateway) boundTo(name string, addr net.Addr, o *certs.Options) Bound {
	b := Bound{Name: name, Address: addrPort(addr), TLS: o != nil}
	if o != nil && o.Source == certs.SourceInternal {
		b.Trust = g.authority
	}
	return b
}
