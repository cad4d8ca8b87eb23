package httpproxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"sluice/gateway/flow"
	"sluice/policy"
)

// session is what the requests of one client connection have in common.
type session struct {
	door  *Door
	ctx   context.Context // of the connection
	in    flow.Inbound
	guard *guard // nil in HTTP/2

	streams sync.RWMutex // held for reading by every HTTP/2 stream that is served

	mu      sync.Mutex
	own     *upstreams // set once a request carried a login for its connection
	resetAt int64      // the door's resets that own has seen
}

// ServeHTTP implements http.Handler for requests that came through the guard.
func (s *session) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v, ok := s.guard.take()
	if !ok {
		panic(http.ErrAbortHandler)
	}
	defer func() {
		s.guard.done()
		if s.guard.taken {
			s.guard.Close() // net/http does not, once it gave the connection up
		}
	}()
	// A proxy answers while it reads: an origin may answer before it has the
	// whole body.
	http.NewResponseController(w).EnableFullDuplex() //nolint:errcheck // HTTP/1 has it
	s.answer(w, r, v)
	if r.ContentLength != 0 {
		// What is left of the body is read here and not by net/http, which in
		// full duplex would read on the connection twice at once and panic.
		// The client gets the answer first: it may be waiting for it.
		http.NewResponseController(w).Flush() //nolint:errcheck // the connection has the error too
		s.guard.hurry()
		r.Body.Close() //nolint:errcheck // the guard has the error too
		if s.guard.fault() != nil {
			panic(http.ErrAbortHandler) // net/http would look for a request in the pieces
		}
	}
}

// answer answers one request that came through the guard.
func (s *session) answer(w http.ResponseWriter, r *http.Request, v verdict) {
	if v.err != nil {
		s.serveMalformed(w, v.err, r.Header.Get("Accept"))
		return
	}
	if r.Method != v.head.Method || r.RequestURI != v.head.Target || r.ContentLength != v.head.Length {
		panic(http.ErrAbortHandler) // net/http read another request than the guard
	}
	if v.head.Form != FormOrigin {
		s.serve(w, r, v.head)
		return
	}
	if s.door.o.Local != nil {
		s.door.o.Local.ServeHTTP(w, r)
		return
	}
	a := malformed(bad("%s", toProxyText), flow.ID{})
	a.serve(w, r.Header.Get("Accept"), true)
}

// serveMalformed answers what was no request. A client that sent nothing, or
// not in time, is no flow, and leaves no record.
func (s *session) serveMalformed(w http.ResponseWriter, e *HeadError, accept string) {
	var id flow.ID
	if e.Status != http.StatusRequestTimeout {
		id = s.door.o.Out.Refuse(s.in.New(flow.DoorHTTP), policy.ReasonMalformedRequest, e.Detail).ID
	}
	a := malformed(e, id)
	a.serve(w, accept, s.guard != nil)
}

// serve walks one absolute-form request from its decision to its end.
func (s *session) serve(w http.ResponseWriter, r *http.Request, h *Head) {
	f := s.in.New(flow.DoorHTTP)
	f.Host, f.Port, f.Seen = h.Host, h.Port, policy.SeenHTTP
	f.Method, f.Path = h.Method, plainPath(h.Path)
	f.Claim(flow.FromHost, h.Host)
	refusal := s.door.vet(f, h, s.door.o.NoHTTP)
	if refusal == nil {
		refusal = s.door.vetRequest(f, h)
	}
	if refusal == nil && h.Method == http.MethodOptions && h.Get("Max-Forwards") == "0" {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK) // RFC 9110 section 7.6.2: it was meant for us
		return
	}
	if refusal == nil {
		if err := s.door.o.Out.Admit(r.Context(), f); err != nil {
			a := s.door.refused(err, f)
			refusal = &a
		}
	}
	if refusal != nil {
		refusal.serve(w, h.Get("Accept"), s.door.leaving.Load())
		return
	}
	s.forward(w, r, h, f)
}

// refused is refusal for what Admit failed with. The end of a flow that was
// allowed, but has no address, is recorded here.
func (d *Door) refused(err error, f *flow.Flow) answer {
	a := d.refusal(err, f)
	if a.Reason == "" {
		f.Status, f.Error, f.ErrorCode = a.Status, err.Error(), a.Error
		d.o.Out.Done(f)
	}
	return a
}

// vetRequest refuses requests that would not reach their destination as what
// they were decided on.
func (d *Door) vetRequest(f *flow.Flow, h *Head) *answer {
	switch {
	case h.HostField != "" && !sameHost(h.HostField, h.Host):
		f.Claim(flow.FromHost, h.HostField)
		detail := fmt.Sprintf("the URL names %q, the Host field %q", h.Host, h.HostField)
		a := d.denied(d.o.Out.Refuse(f, policy.ReasonNameMismatch, detail), f)
		return &a
	case h.Method == http.MethodTrace:
		// It would show the client's credentials to whoever can make it ask.
		a := d.denied(d.o.Out.Refuse(f, policy.ReasonRequest, "TRACE is not forwarded"), f)
		a.Status = http.StatusMethodNotAllowed
		a.header.Set("Allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH")
		return &a
	}
	return nil
}

// plainPath returns the path that rules are about: as it is written and sent
// on, without the query. Policy knows which encodings can be read in two ways;
// decoded, /a%2Fb would be let out as /a/b.
func plainPath(path string) string {
	path, _, _ = strings.Cut(path, "?")
	if path == "" {
		return "/"
	}
	return path
}

// outgoing makes the request that is sent on from the one that came in.
func (d *Door) outgoing(r *http.Request, h *Head) *http.Request {
	out := r.Clone(r.Context())
	out.Trailer = r.Trailer // filled when the body ends
	out.Close, out.RequestURI, out.TransferEncoding = false, "", nil
	out.URL.Scheme, out.URL.User = "http", nil
	out.URL.Host = net.JoinHostPort(h.Host, strconv.Itoa(int(h.Port)))
	path, _, _ := strings.Cut(h.Path, "?")
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		out.URL.Opaque = path // as written, not as net/url would write it
	}
	if r.Body == nil || r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	stripHop(out.Header)
	delete(out.Header, "Host")
	d.addVia(out.Header, r.ProtoMajor, r.ProtoMinor)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // else net/http writes its own
	}
	if n, err := strconv.Atoi(out.Header.Get("Max-Forwards")); err == nil && n > 0 && r.Method == http.MethodOptions {
		out.Header.Set("Max-Forwards", strconv.Itoa(n-1))
	}
	return out
}

// upstreams returns the pool that the request may take a connection from.
// NTLM and Negotiate log a connection in, not a request: what was logged in
// for one client must never serve another.
func (s *session) upstreams(r *http.Request) *upstreams {
	s.mu.Lock()
	defer s.mu.Unlock()
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if s.own == nil && (strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate")) {
		s.own = newUpstreams(&s.door.o)
	}
	if s.own == nil {
		return s.door.servers
	}
	if n := s.door.resets.Load(); n != s.resetAt {
		s.own.reset()
		s.resetAt = n
	}
	return s.own
}

// close ends what the session kept for itself.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil {
		s.own.reset()
	}
}
