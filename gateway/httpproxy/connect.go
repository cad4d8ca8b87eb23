package httpproxy

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"sluice/gateway/flow"
	"sluice/gateway/sniff"
	"sluice/gateway/tunnel"
	"sluice/policy"
)

// established is the whole answer to CONNECT. A 2xx has no body and no framing
// fields (RFC 9110 section 9.3.6).
const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// connect serves one CONNECT request, and closes the connection. Bytes that
// came behind the head are still in c.
func (d *Door) connect(ctx context.Context, c *sniff.Conn, h *Head, in flow.Inbound) {
	f, server, refusal := d.open(ctx, h, in)
	if refusal != nil {
		refusal.send(c, h.Get("Accept"))
		tunnel.Farewell(c)
		return
	}
	if _, err := c.Write([]byte(established)); err != nil {
		server.Close()
		f.ClientEnd, f.Error = flow.EndReset, err.Error()
		d.o.Out.Done(f)
		c.Close()
		return
	}
	tunnel.Join(ctx, d.o.Out, f, c, server, d.o.HandshakeTimeout, d.o.Relay)
}

// open makes the flow of a CONNECT request and connects it. Everything that
// can be decided is decided here, before the client is told that all is well.
func (d *Door) open(ctx context.Context, h *Head, in flow.Inbound) (*flow.Flow, *sniff.Conn, *answer) {
	f := in.New(flow.DoorConnect)
	f.Host, f.Port = h.Host, h.Port
	f.Claim(flow.FromConnect, h.Host)
	if h.HostField != "" && !sameHost(h.HostField, h.Host) {
		// Some clients write another Host here: it is noted, and decides nothing.
		f.Claim(flow.FromHost, h.HostField)
	}
	if refusal := d.vet(f, h, d.o.NoConnect); refusal != nil {
		return nil, nil, refusal
	}
	server, err := tunnel.Connect(ctx, d.o.Out, f)
	if err != nil {
		a := d.refusal(err, f)
		return nil, nil, &a
	}
	return f, sniff.NewConn(server), nil
}

// vet refuses what needs no policy to be refused: a request for a door that is
// closed, one that was here before, and one that does not say who sends it.
func (d *Door) vet(f *flow.Flow, h *Head, closed bool) *answer {
	f.Traceparent = traceparent(h)
	switch {
	case closed:
		detail := "this listener takes no CONNECT requests"
		allow := "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"
		if h.Method != http.MethodConnect {
			detail, allow = "this listener takes CONNECT requests only", http.MethodConnect
		}
		a := d.denied(d.o.Out.Refuse(f, policy.ReasonProtocol, detail), f)
		a.Status = http.StatusMethodNotAllowed
		a.header.Set("Allow", allow)
		return &a
	case d.loops(h):
		a := d.denied(d.o.Out.Refuse(f, policy.ReasonLoop, "the request has been through this gateway before: see Via"), f)
		return &a
	case d.o.Authenticate == nil:
		return nil
	}
	r := &http.Request{Method: h.Method, Host: h.Host, Header: h.Header(), RemoteAddr: f.Client.String()}
	id, err := d.o.Authenticate(r)
	if err != nil {
		a := d.denied(d.o.Out.Refuse(f, policy.ReasonUnauthenticated, err.Error()), f)
		return &a
	}
	if id != nil {
		f.Identity = id
	}
	return nil
}

// loops reports whether our own pseudonym is in Via (RFC 9110 section 7.6.3).
func (d *Door) loops(h *Head) bool {
	for i := range h.Fields {
		if !strings.EqualFold(h.Fields[i].Name, "Via") {
			continue
		}
		for hop := range strings.SplitSeq(h.Fields[i].Value, ",") {
			words := strings.Fields(hop)
			if len(words) > 1 && strings.EqualFold(words[1], d.via) {
				return true
			}
		}
	}
	return false
}

// refusal turns what the gate failed with into what the client is told.
func (d *Door) refusal(err error, f *flow.Flow) answer {
	if denied := (*flow.DeniedError)(nil); errors.As(err, &denied) {
		return d.denied(denied, f)
	}
	return failed(err, f)
}

// traceparent returns the W3C trace context of a request if it is well formed.
func traceparent(h *Head) string {
	v := h.Get("Traceparent")
	if len(v) != 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return ""
	}
	for i := 0; i < len(v); i++ {
		if c := v[i]; i != 2 && i != 35 && i != 52 && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return v
}
