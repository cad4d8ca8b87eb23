package transparent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/sniff"
	"sluice/policy"
)

// opener lets out the hosts it knows, and remembers what it was asked.
type opener struct {
	known map[string]string // host → address to dial; "" for one that can not be reached

	mu      sync.Mutex
	flows   []flow.Flow // as admitted
	refused []policy.Reason
	done    []flow.Flow
	cut     context.CancelCauseFunc
}

func (o *opener) Admit(_ context.Context, f *flow.Flow) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flows = append(o.flows, *f)
	if _, ok := o.known[f.Host]; !ok {
		return denied(f, policy.ReasonNoRule)
	}
	return nil
}

func (o *opener) Dial(ctx context.Context, f *flow.Flow) (net.Conn, error) {
	if o.known[f.Host] == "" {
		return nil, &flow.UnreachableError{ID: f.ID, Host: f.Host, Code: "connection_refused", Err: errors.New("told so")}
	}
	return new(net.Dialer).DialContext(ctx, "tcp", o.known[f.Host])
}

func (o *opener) Look(context.Context, *flow.Flow, string) error { return nil }

func (o *opener) Live(ctx context.Context, _ *flow.Flow) (context.Context, func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ctx, o.cut = context.WithCancelCause(ctx)
	return ctx, func() { o.cut(nil) }
}

func (o *opener) Refuse(f *flow.Flow, reason policy.Reason, _ string) *flow.DeniedError {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused = append(o.refused, reason)
	return denied(f, reason)
}

func (o *opener) Done(f *flow.Flow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done = append(o.done, *f)
}

func denied(f *flow.Flow, reason policy.Reason) *flow.DeniedError {
	f.Decision = policy.Decision{Reason: reason}
	return &flow.DeniedError{ID: f.ID, Decision: f.Decision}
}

// served is one connection that a door serves.
type served struct {
	t     *testing.T
	conn  *net.TCPConn // the client's end
	ended chan struct{}
}

// serve starts d on a new connection.
func serve(t *testing.T, ctx context.Context, d *Door, in flow.Inbound) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := &served{t: t, conn: conn.(*net.TCPConn), ended: make(chan struct{})}
	s.conn.SetDeadline(time.Now().Add(20 * time.Second)) // far over what any of these tests takes
	go func() {
		defer close(s.ended)
		d.Serve(ctx, sniff.NewConn(accepted), in)
	}()
	t.Cleanup(func() { conn.Close(); <-s.ended })
	return s
}

// end closes the client's side and waits for the door.
func (s *served) end() {
	s.t.Helper()
	s.conn.Close()
	<-s.ended
}

func web(t *testing.T) (addr string, trust *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello from "+r.TLS.ServerName)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), s.Client().Transport.(*http.Transport).TLSClientConfig
}

func TestServesByServerName(t *testing.T) {
	addr, trust := web(t)
	out := &opener{known: map[string]string{"example.com": addr}} // a name in the certificate of httptest
	for _, c := range []struct {
		name string
		in   flow.Inbound
		port uint16
	}{
		{"sent here by DNS", flow.Inbound{Listener: "sni", Port: 443}, 443},
		{"redirected", flow.Inbound{OriginalDst: netip.MustParseAddrPort("192.0.2.1:8443"), Port: 443}, 8443},
	} {
		t.Run(c.name, func(t *testing.T) {
			out.flows, out.done = nil, nil
			s := serve(t, t.Context(), &Door{Out: out}, c.in)
			cfg := trust.Clone()
			cfg.ServerName, cfg.NextProtos = "example.com", []string{"http/1.1"}
			client := &http.Client{Transport: &http.Transport{
				DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return tls.Client(s.conn, cfg), nil },
			}}
			resp, err := client.Get("https://example.com/")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != "hello from example.com" {
				t.Errorf("got %q", body)
			}
			s.end()
			if len(out.done) != 1 {
				t.Fatalf("recorded %+v", out.done)
			}
			f := out.done[0]
			if f.Host != "example.com" || f.Port != c.port || f.Door != flow.DoorTLS || f.Listener != c.in.Listener ||
				f.Seen != policy.SeenTLS || f.ALPN != "http/1.1" ||
				len(f.Claims) != 1 || f.Claims[0] != (flow.Claim{Host: "example.com", From: flow.FromSNI}) {
				t.Errorf("recorded %+v", f)
			}
			if f.BytesIn == 0 || f.BytesOut == 0 || f.ClientEnd == "" {
				t.Errorf("recorded %d bytes in, %d out, ends %q and %q", f.BytesIn, f.BytesOut, f.ClientEnd, f.ServerEnd)
			}
		})
	}
}

// handshake returns why a crypto/tls client for name fails at the door.
func handshake(c net.Conn, name string) string {
	err := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}).Handshake()
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return ""
}

func TestRefusalsAreAlerts(t *testing.T) {
	redirected := flow.Inbound{OriginalDst: netip.MustParseAddrPort("[::ffff:192.0.2.1]:443")}
	for _, c := range []struct {
		name, sni string
		in        flow.Inbound
		want      string
		host      string // asked for; "" if the door itself refuses
		reason    policy.Reason
		done      int
	}{
		{"denied by policy", "evil.example", flow.Inbound{}, "tls: access denied", "evil.example", "", 0},
		{"no server name, and nothing else to go by", "", flow.Inbound{}, "tls: missing extension", "", policy.ReasonNoName, 0},
		{"no server name, redirected", "", redirected, "tls: access denied", "192.0.2.1", "", 0},
		{"not reached", "down.example", flow.Inbound{}, "tls: internal error", "down.example", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &opener{known: map[string]string{"down.example": ""}}
			s := serve(t, t.Context(), &Door{Out: out}, c.in)
			if got := handshake(s.conn, c.sni); got != c.want {
				t.Errorf("handshake: %q, want %q", got, c.want)
			}
			s.end()
			host := ""
			if len(out.flows) == 1 {
				host = out.flows[0].Host
			}
			if host != c.host || len(out.done) != c.done {
				t.Errorf("asked for %q, want %q; recorded %+v", host, c.host, out.done)
			}
			if c.reason != "" && (len(out.refused) != 1 || out.refused[0] != c.reason) {
				t.Errorf("refused for %v, want %s", out.refused, c.reason)
			}
		})
	}
}

func TestAddressIsAskedForWithoutAServerName(t *testing.T) {
	addr, _ := web(t)
	out := &opener{known: map[string]string{"192.0.2.1": addr}}
	s := serve(t, t.Context(), &Door{Out: out}, flow.Inbound{OriginalDst: netip.MustParseAddrPort("192.0.2.1:443")})
	if err := tls.Client(s.conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err != nil {
		t.Fatal(err)
	}
	s.end()
	if f := out.done[0]; f.Seen != policy.SeenTLSNoName || len(f.Claims) != 0 {
		t.Errorf("recorded %+v", f)
	}
}

func TestMalformed(t *testing.T) {
	for _, c := range []struct {
		name, sent string
		want       string
		reason     policy.Reason // "" if it is no flow
	}{
		{"empty record", "\x16\x03\x01\x00\x00", "\x15\x03\x03\x00\x02\x02\x0a", policy.ReasonMalformedRequest},
		{"another handshake message", "\x16\x03\x01\x00\x04\x02\x00\x00\x00", "\x15\x03\x03\x00\x02\x02\x0a", policy.ReasonMalformedRequest},
		{"no TLS: no alert", "GET / HTTP/1.1\r\n\r\n", "", policy.ReasonMalformedRequest},
		{"closed within the hello", "\x16\x03\x01\x02", "", policy.ReasonMalformedRequest},
		{"closed without a word", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &opener{}
			s := serve(t, t.Context(), &Door{Out: out}, flow.Inbound{})
			io.WriteString(s.conn, c.sent)
			s.conn.CloseWrite()
			if got, _ := io.ReadAll(s.conn); string(got) != c.want {
				t.Errorf("answered %q, want %q", got, c.want)
			}
			s.end()
			if c.reason == "" && len(out.refused) == 0 {
				return
			}
			if len(out.refused) != 1 || out.refused[0] != c.reason {
				t.Errorf("refused for %v, want %q", out.refused, c.reason)
			}
		})
	}
}

func TestSilentClientIsCutByOneDeadline(t *testing.T) {
	for _, sent := range []string{"", "\x16\x03\x01"} {
		out := &opener{}
		s := serve(t, t.Context(), &Door{Out: out, HandshakeTimeout: 30 * time.Millisecond}, flow.Inbound{})
		io.WriteString(s.conn, sent)
		<-s.ended
		if len(out.refused) != 1 || out.refused[0] != policy.ReasonMalformedRequest {
			t.Errorf("after %q: refused for %v", sent, out.refused)
		}
	}
}

func TestStopCutsAClientThatWaits(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out := &opener{}
	s := serve(t, ctx, &Door{Out: out}, flow.Inbound{})
	stop()
	<-s.ended
	if len(out.refused) != 0 {
		t.Errorf("a client that had said nothing is refused for %v", out.refused)
	}
}

func TestPolicyCutsALiveFlow(t *testing.T) {
	addr, _ := web(t)
	out := &opener{known: map[string]string{"example.com": addr}}
	s := serve(t, t.Context(), &Door{Out: out, Relay: relay.Options{IdleTimeout: -1}}, flow.Inbound{})
	if err := tls.Client(s.conn, &tls.Config{ServerName: "example.com", InsecureSkipVerify: true}).Handshake(); err != nil {
		t.Fatal(err)
	}
	out.mu.Lock()
	out.cut(&flow.CutError{End: flow.EndPolicy})
	out.mu.Unlock()
	<-s.ended
	if f := out.done[0]; f.ClientEnd != flow.EndPolicy || f.ServerEnd != flow.EndPolicy {
		t.Errorf("ends %q and %q, want policy", f.ClientEnd, f.ServerEnd)
	}
}
