package httpproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sluice/gateway/flow"
	"sluice/policy"
)

// exchange is one admitted request and its response.
type exchange struct {
	door     *Door
	conn     context.Context // of the client's connection
	f        *flow.Flow
	admitted flow.Flow // f as it was when it was admitted; never written
	pool     *http.Transport
	guard    *guard // nil in HTTP/2
	accept   string

	cut     context.CancelCauseFunc
	idle    *time.Timer
	idleFor time.Duration // 0: none
	max     int64         // bytes both ways; 0: no limit

	in, out atomic.Int64 // body bytes from and to the client
	started atomic.Bool  // the client has seen a part of the response
	// answering: the response is the gateway's own, and must reach the client
	// though the flow was cut.
	answering atomic.Bool
	broken    error // why the exchange failed
	short     bool  // the response broke off behind its head
}

type exchangeKey struct{}

// forward sends an admitted request on and the response back.
func (s *session) forward(w http.ResponseWriter, r *http.Request, h *Head, f *flow.Flow) {
	d := s.door
	live, release := d.o.Out.Live(r.Context(), f)
	defer release()
	ctx, cut := context.WithCancelCause(live)
	defer cut(nil)
	x := &exchange{
		door: d, conn: s.ctx, f: f, admitted: *f, guard: s.guard, accept: h.Get("Accept"), cut: cut,
		pool: s.upstreams(r).pool(f.Decision.Grant),
	}
	x.bounds()
	stop := x.cutClient(ctx, w)

	out := d.outgoing(r.WithContext(x.context(ctx)), h)
	out.Body = x.requestBody(out.Body)
	if h.WebSocket {
		x.upgrade(ctx, w, out)
	} else {
		d.proxy.ServeHTTP(&responseWriter{ResponseWriter: w, x: x}, out)
	}

	stop()
	x.end(ctx)
	if x.short {
		panic(http.ErrAbortHandler) // an end without an end: the client must not take it for the whole
	}
}

// bounds sets the limits of the exchange: its rule's, or else the relay's.
func (x *exchange) bounds() {
	x.idleFor, x.max = x.door.o.Relay.IdleTimeout, x.door.o.Relay.MaxBytes
	if x.idleFor == 0 {
		x.idleFor = time.Hour
	}
	if rule := x.f.Decision.Grant; rule != nil {
		if rule.Idle != 0 {
			x.idleFor = rule.Idle
		}
		if rule.MaxBytes != 0 {
			x.max = rule.MaxBytes
		}
	}
	if x.idleFor > 0 {
		x.idle = time.AfterFunc(x.idleFor, func() { x.cut(&flow.CutError{End: flow.EndIdle}) })
	}
}

// moved counts body bytes. It fails when they are more than may pass.
func (x *exchange) moved(way *atomic.Int64, n int) error {
	way.Add(int64(n))
	if x.idle != nil && n > 0 {
		x.idle.Reset(x.idleFor)
	}
	if x.max > 0 && x.in.Load()+x.out.Load() > x.max {
		limit := &flow.CutError{End: flow.EndLimit}
		x.cut(limit)
		return limit
	}
	return nil
}

// cutClient frees a write to a client that takes nothing, when the flow is
// cut. One that has seen nothing yet gets an answer instead.
func (x *exchange) cutClient(ctx context.Context, w http.ResponseWriter) (stop func()) {
	done := make(chan struct{})
	control := http.NewResponseController(w)
	unhook := context.AfterFunc(ctx, func() {
		defer close(done)
		// The context also ends with the client's own bytes, when they break off
		// or are malformed; the answer to that must not be stopped.
		if x.started.Load() && !x.answering.Load() && x.cutBy(ctx) != nil {
			control.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // then it ends by itself
		}
	})
	return func() {
		if x.idle != nil {
			x.idle.Stop()
		}
		if !unhook() {
			<-done
		}
	}
}

// context carries the exchange to the transport, and the address that was
// connected back into the record.
func (x *exchange) context(ctx context.Context) context.Context {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if addr, ok := info.Conn.RemoteAddr().(*net.TCPAddr); ok {
				ap := addr.AddrPort()
				x.f.Upstream = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
			}
		},
	})
	return context.WithValue(ctx, exchangeKey{}, x)
}

// roundTrip is the way of a request to the server and back. It always has a
// response: goproxy would show the client a bare error.
func (x *exchange) roundTrip(r *http.Request) *http.Response {
	resp, err := x.pool.RoundTrip(x.pinned(r))
	if err == nil && x.fault() != nil {
		resp.Body.Close() // the server answered to half a request
		err = x.fault()
	}
	if err != nil {
		return x.failure(r, err)
	}
	switch resp.StatusCode {
	case http.StatusSwitchingProtocols:
		resp.Body.Close()
		return x.respond(r, "http_upgrade_failed", "the server changed to a protocol that was not asked for")
	case http.StatusProxyAuthRequired:
		resp.Body.Close() // a client would answer with the password for this gateway
		return x.respond(r, "http_protocol_error", "the server answered 407 as if it were a proxy")
	}
	x.clean(resp)
	resp.Body = &countedBody{x: x, body: resp.Body}
	return resp
}

// pinned makes r take only a connection that its own flow could have made: one
// to the same name, when that had the same addresses that passed. An address
// that is denied to one client may be open to another.
func (x *exchange) pinned(r *http.Request) *http.Request {
	addrs := slices.Clone(x.admitted.Resolved)
	slices.SortFunc(addrs, netip.Addr.Compare)
	var key strings.Builder
	key.WriteString(x.admitted.Host)
	for _, a := range addrs {
		key.WriteString("," + a.String())
	}
	// The transport tells connections apart by the URL's host. It is not sent:
	// the field Host is r.Host, and the gate dials what it resolved.
	u := *r.URL
	u.Host = net.JoinHostPort(strings.ToLower(key.String()), strconv.Itoa(int(x.admitted.Port)))
	r = r.WithContext(r.Context())
	r.URL = &u
	return r
}

// clean makes a response's head fit to be sent on.
func (x *exchange) clean(resp *http.Response) {
	x.f.Status = resp.StatusCode
	stripHop(resp.Header)
	x.door.addVia(resp.Header, resp.ProtoMajor, resp.ProtoMinor)
	if _, ok := resp.Header["Content-Type"]; !ok {
		resp.Header["Content-Type"] = nil // else net/http would guess one
	}
}

// fault returns why the request's body was cut short, or nil.
func (x *exchange) fault() error {
	if x.guard == nil {
		return nil
	}
	return x.guard.fault()
}

// failure is the response when there is none.
func (x *exchange) failure(r *http.Request, err error) *http.Response {
	if fault := (*HeadError)(nil); errors.As(x.fault(), &fault) {
		x.broken = fault
		a := malformed(fault, x.f.ID)
		a.header = http.Header{"Connection": {"close"}}
		return x.response(r, a)
	}
	if cut := x.cutBy(r.Context()); cut != nil {
		x.broken = cut
		return x.response(r, cutAnswer(cut, x.f))
	}
	x.broken = err
	if r.Context().Err() != nil {
		x.f.ClientEnd, x.broken = flow.EndReset, errors.New("the client went away before the response")
		return x.response(r, failed(x.broken, x.f))
	}
	if unreachable := (*flow.UnreachableError)(nil); errors.As(err, &unreachable) {
		x.f.Stage = flow.Ended // the gate has recorded it, with its copy of the flow
		a := failed(unreachable, x.f)
		x.f.ErrorCode = a.Error
		return x.response(r, a)
	}
	if denied := (*flow.DeniedError)(nil); errors.As(err, &denied) {
		x.f.Stage = flow.Ended // as above
		return x.response(r, x.door.denied(denied, x.f))
	}
	return x.respond(r, errorType(err), err.Error())
}

func (x *exchange) respond(r *http.Request, token, detail string) *http.Response {
	a := failed(nil, x.f)
	a.Error, a.Detail = token, detail
	if token == "http_response_timeout" {
		a.Status = http.StatusGatewayTimeout
	}
	x.f.ErrorCode = token
	x.broken = errors.New(detail)
	return x.response(r, a)
}

// errorType is the RFC 9209 type of what a transport failed with. net/http has
// no error values for most of it, only texts; one that changes is told as
// connection_terminated.
func errorType(err error) string {
	var timeout net.Error
	switch text := err.Error(); {
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return "http_response_timeout"
	case strings.Contains(text, "server response headers exceeded"):
		return "http_response_header_section_size"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "server closed"):
		return "http_response_incomplete"
	case strings.Contains(text, "malformed"), strings.Contains(text, "transfer encoding"), strings.Contains(text, "Content-Length"):
		return "http_protocol_error"
	}
	return "connection_terminated"
}

// cutBy says who ended the context of an exchange; nil if that was the client,
// or nobody.
func (x *exchange) cutBy(ctx context.Context) *flow.CutError {
	if cut := (*flow.CutError)(nil); errors.As(context.Cause(ctx), &cut) {
		return cut
	}
	if x.conn.Err() != nil {
		return &flow.CutError{End: flow.EndDrain}
	}
	return nil
}

// cutAnswer tells a client that waits for a response why there will be none.
func cutAnswer(cut *flow.CutError, f *flow.Flow) answer {
	a := failed(cut, f)
	a.line = "The egress gateway cut this request off."
	switch cut.End {
	case flow.EndPolicy:
		a.Status, a.Error = http.StatusForbidden, "http_request_denied"
		a.Detail = "the policy has changed and no longer allows it"
	case flow.EndDrain:
		a.Status, a.Error = http.StatusServiceUnavailable, "proxy_internal_response"
	case flow.EndIdle:
		a.Status, a.Error = http.StatusGatewayTimeout, "http_response_timeout"
	case flow.EndLimit:
		a.Status, a.Error, a.Reason = http.StatusForbidden, "http_request_denied", policy.ReasonLimit
	}
	return a
}

// response makes a response of an answer.
func (x *exchange) response(r *http.Request, a answer) *http.Response {
	x.answering.Store(true)
	header, body := a.fields(x.accept)
	x.f.Status = a.Status
	return &http.Response{
		StatusCode: a.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

// end writes how the exchange ended into the record.
func (x *exchange) end(ctx context.Context) {
	f := x.f
	f.BytesIn, f.BytesOut = f.BytesIn+x.in.Load(), f.BytesOut+x.out.Load()
	if f.ClientEnd == "" && f.ServerEnd == "" {
		f.ClientEnd, f.ServerEnd = flow.EndEOF, flow.EndEOF
		if x.broken != nil {
			f.ServerEnd = flow.EndError
		}
	}
	if x.broken != nil && f.Error == "" {
		f.Error = x.broken.Error()
	}
	if cut := x.cutBy(ctx); cut != nil {
		f.ClientEnd, f.ServerEnd = cut.End, cut.End
	}
	x.door.o.Out.Done(f)
}
