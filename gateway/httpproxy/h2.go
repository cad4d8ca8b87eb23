package httpproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"sluice/gateway/flow"
	"sluice/gateway/sniff"
	"sluice/gateway/tunnel"
)

// maxStreams bounds the tunnels and requests that one client has open on one
// HTTP/2 connection. A browser keeps all its traffic on one.
const maxStreams = 256

// ServeH2 serves one connection of a client that chose HTTP/2 when it made its
// TLS connection to the gateway, and closes it. It returns when the connection
// and all its flows have ended, or ctx has.
func (d *Door) ServeH2(ctx context.Context, c net.Conn, in flow.Inbound) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s := session{door: d, ctx: ctx, in: in}
	defer s.close()
	defer func() {
		c.Close()
		s.streams.Lock()   // net/http2 does not wait for its handlers
		s.streams.Unlock() //nolint:staticcheck // SA2001: to wait is all that is wanted
	}()
	client := sniff.NewConn(c)
	if !d.awaitPreface(client) {
		return
	}
	srv := http2.Server{
		MaxConcurrentStreams: maxStreams,
		IdleTimeout:          d.o.IdleTimeout,
		ReadIdleTimeout:      time.Minute, // then a ping finds out whether the client is still there
	}
	srv.ServeConn(withState(client), &http2.ServeConnOpts{
		Context:    ctx,
		BaseConfig: &http.Server{MaxHeaderBytes: d.o.MaxHeader},
		Handler:    http.HandlerFunc(s.serveH2),
	})
}

// awaitPreface waits for what a client must begin with (RFC 9113 section 3.4),
// for as long as for a request head: net/http2 has a time of its own.
func (d *Door) awaitPreface(c *sniff.Conn) bool {
	c.SetReadDeadline(time.Now().Add(d.o.HeaderTimeout)) //nolint:errcheck // then the read fails
	if _, err := c.Peek(len(http2.ClientPreface)); err != nil {
		return false
	}
	return c.SetReadDeadline(time.Time{}) == nil
}

// withState makes c tell its TLS state: net/http2 then marks requests with
// the scheme https by it.
func withState(c net.Conn) net.Conn {
	state := tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	for below := c; below != nil; {
		if t, ok := below.(interface{ ConnectionState() tls.ConnectionState }); ok {
			state = t.ConnectionState()
			break
		}
		wrapper, ok := below.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		below = wrapper.NetConn()
	}
	return &stateConn{c, state}
}

type stateConn struct {
	net.Conn
	state tls.ConnectionState
}

// ConnectionState is looked for by net/http2.
func (c *stateConn) ConnectionState() tls.ConnectionState { return c.state }

func (s *session) serveH2(w http.ResponseWriter, r *http.Request) {
	s.streams.RLock()
	defer s.streams.RUnlock()
	if r.Context().Err() != nil {
		return // the connection ended before this stream was begun
	}
	h, err := headOfH2(r)
	if err != nil {
		s.serveMalformed(w, err, r.Header.Get("Accept"))
		return
	}
	if h.Form != FormAuthority {
		s.serve(w, r, h)
		return
	}
	f, server, refusal := s.door.open(r.Context(), h, s.in)
	if refusal != nil {
		refusal.serve(w, h.Get("Accept"), false)
		return
	}
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		server.Close()
		f.ClientEnd, f.Error = flow.EndReset, err.Error()
		s.door.o.Out.Done(f)
		return
	}
	client := newStreamConn(w, r, s.in)
	tunnel.Join(r.Context(), s.door.o.Out, f, sniff.NewConn(client), server, s.door.o.HandshakeTimeout, s.door.o.Relay)
	client.Close()
	if client.wait(); !client.ended.Load() {
		panic(http.ErrAbortHandler) // RST_STREAM: the server's data is not whole
	}
}

// headOfH2 makes the head of an HTTP/2 request (RFC 9113 section 8.3), by the
// same rules as that of an HTTP/1 one.
func headOfH2(r *http.Request) (*Head, *HeadError) {
	h := &Head{Method: r.Method, Minor: 1, Length: r.ContentLength}
	for name, values := range r.Header {
		for _, v := range values {
			h.Fields = append(h.Fields, Field{name, v})
		}
	}
	switch {
	case r.TLS != nil:
		return nil, &HeadError{http.StatusNotImplemented, httpsText}
	case r.Method == http.MethodConnect:
		h.Target = r.Host
	case r.RequestURI == "*":
		h.Target = "http://" + r.Host
	default:
		h.Target = "http://" + r.Host + r.RequestURI
	}
	// Joined, the two must come apart where they were joined.
	if _, _, err := parseAuthority(r.Host, 0); err != nil {
		return nil, err
	}
	if r.Method != http.MethodConnect && r.RequestURI != "*" && !strings.HasPrefix(r.RequestURI, "/") {
		return nil, bad("a :path that is no path")
	}
	if !isToken(h.Method) {
		return nil, bad("the method is no token")
	}
	if err := h.target(); err != nil {
		fault := bad("malformed target")
		errors.As(err, &fault)
		return nil, fault
	}
	hosts := r.Header["Host"]
	if len(hosts) > 1 {
		return nil, bad("more than one Host")
	}
	if slices.Contains(hosts, "") {
		return nil, bad("an empty Host")
	}
	if len(hosts) > 0 {
		host, _, err := parseAuthority(hosts[0], 0)
		if err != nil {
			return nil, err
		}
		h.HostField = host
	}
	return h, nil
}
