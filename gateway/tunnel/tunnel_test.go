package tunnel

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/sniff"
	"sluice/policy"
)

// join starts a flow to port 443 that has been connected.
func join(t *testing.T, out *opener, o relay.Options, timeout time.Duration) *world {
	t.Helper()
	client, door := pair(t)
	upstream, server := pair(t)
	w := &world{t: t, out: out, client: client, server: server, ended: make(chan struct{})}
	w.f = flow.New(flow.DoorSOCKS5, netip.AddrPort{}, netip.AddrPort{})
	w.f.Host, w.f.Port = "outer.example", 443
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	go func() {
		defer close(w.ended)
		Join(t.Context(), out, w.f, sniff.NewConn(door), sniff.NewConn(upstream), timeout, o)
	}()
	return w
}

const patience = 20 * time.Second // far over what any of these tests takes

func TestFirstBytesAreJudged(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes []byte
		want  look
	}{
		{"TLS", helloOf(t, "inner.example"), look{policy.SeenTLS, "inner.example"}},
		{"TLS without a server name", helloOf(t, ""), look{policy.SeenTLSNoName, ""}},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), look{policy.SeenHTTP, ""}},
		{"HTTP/2 preface", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), look{policy.SeenHTTP, ""}},
		{"TURN Allocate", []byte("\x00\x03\x00\x08\x21\x12\xa4\x42rest"), look{policy.SeenSTUN, ""}},
		{"anything else", []byte("\xff\xfe"), look{policy.SeenOpaque, ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &opener{}
			w := join(t, out, relay.Options{}, patience)
			w.write(w.client, c.bytes)
			w.expect(w.server, string(c.bytes))
			w.write(w.server, []byte("answer"))
			w.expect(w.client, "answer")
			w.client.CloseWrite()
			w.expectNothing(w.server)
			w.server.Close()
			f := w.wait()
			if len(out.looks) != 1 || out.looks[0] != c.want {
				t.Errorf("judged by %+v, want %+v", out.looks, c.want)
			}
			if f == nil || f.BytesIn != int64(len(c.bytes)) || f.BytesOut != 6 || f.ClientEnd != flow.EndEOF || f.ServerEnd != flow.EndEOF {
				t.Errorf("recorded %+v", f)
			}
			if c.want.sni != "" && (f.ALPN != "h2" || len(f.Claims) != 1 || f.Claims[0] != (flow.Claim{Host: c.want.sni, From: flow.FromSNI})) {
				t.Errorf("of the hello: ALPN %q, claims %+v", f.ALPN, f.Claims)
			}
		})
	}
}

func TestHelloOneByteAtATimeIsJudgedWhole(t *testing.T) {
	out := &opener{}
	w := join(t, out, relay.Options{}, patience)
	hello := helloOf(t, "inner.example")
	for i := range hello {
		w.write(w.client, hello[i:i+1])
	}
	w.expect(w.server, string(hello))
	w.client.Close()
	w.server.Close()
	w.wait()
	if len(out.looks) != 1 || out.looks[0].sni != "inner.example" {
		t.Errorf("judged by %+v", out.looks)
	}
}

func TestServerThatSpeaksFirstIsNotHeldUp(t *testing.T) {
	out := &opener{}
	w := join(t, out, relay.Options{}, patience)
	w.write(w.server, []byte("220 mail.example\r\n"))
	w.expect(w.client, "220 mail.example\r\n")
	w.write(w.client, []byte("EHLO client\r\n"))
	w.expect(w.server, "EHLO client\r\n")
	w.client.Close()
	w.server.Close()
	w.wait()
	if len(out.looks) != 1 || out.looks[0] != (look{policy.SeenSilent, ""}) {
		t.Errorf("judged by %+v, want silent", out.looks)
	}
}

func TestClientThatOnlyListens(t *testing.T) {
	out := &opener{}
	w := join(t, out, relay.Options{}, patience)
	w.client.CloseWrite()
	w.expectNothing(w.server) // the half-close is passed on
	w.write(w.server, []byte("banner"))
	w.server.Close()
	w.expect(w.client, "banner")
	f := w.wait()
	if f == nil || f.BytesOut != 6 || len(out.looks) != 1 || out.looks[0].seen != policy.SeenSilent {
		t.Errorf("judged by %+v, recorded %+v", out.looks, f)
	}
}

func TestDeniedInsideATunnel(t *testing.T) {
	deny := func(reason policy.Reason) *opener {
		return &opener{deny: func(*flow.Flow, string) policy.Reason { return reason }}
	}
	t.Run("TLS gets an alert", func(t *testing.T) {
		out := deny(policy.ReasonNameMismatch)
		w := join(t, out, relay.Options{}, patience)
		w.write(w.client, helloOf(t, "evil.example"))
		w.expect(w.client, "\x15\x03\x03\x00\x02\x02\x31")
		w.expectNothing(w.server)
		w.client.Close()
		if f := w.wait(); f != nil {
			t.Errorf("a flow that Look denied was given to Done: %+v", f)
		}
	})
	t.Run("the rest is closed", func(t *testing.T) {
		w := join(t, deny(policy.ReasonProtocol), relay.Options{}, patience)
		w.write(w.client, []byte("\xff secret"))
		w.expectNothing(w.server)
		w.expectNothing(w.client)
		w.wait()
	})
	t.Run("the server's greeting is kept from the client", func(t *testing.T) {
		w := join(t, deny(policy.ReasonProtocol), relay.Options{}, patience)
		w.write(w.server, []byte("SSH-2.0-x\r\n"))
		w.expectNothing(w.client)
		w.wait()
	})
}

func TestMalformedHello(t *testing.T) {
	bad := helloOf(t, "inner.example")
	bad = bytes.Replace(bad, []byte("inner.example"), []byte("inner\x00example"), 1)
	t.Run("on port 443 it is refused", func(t *testing.T) {
		out := &opener{}
		w := join(t, out, relay.Options{}, patience)
		w.write(w.client, bad)
		w.expect(w.client, "\x15\x03\x03\x00\x02\x02\x2f") // illegal_parameter
		w.expectNothing(w.server)
		w.client.Close()
		w.wait()
		if len(out.refused) != 1 || out.refused[0] != policy.ReasonMalformedName || len(out.looks) != 0 {
			t.Errorf("refused for %v, judged by %+v", out.refused, out.looks)
		}
	})
	t.Run("elsewhere it is a protocol not known", func(t *testing.T) {
		out := &opener{}
		client, door := pair(t)
		upstream, server := pair(t)
		f := &flow.Flow{Port: 8443}
		client.Write(bad)
		if err := Inspect(t.Context(), out, f, sniff.NewConn(door), sniff.NewConn(upstream), patience); err != nil {
			t.Fatal(err)
		}
		if len(out.looks) != 1 || out.looks[0].seen != policy.SeenOpaque {
			t.Errorf("judged by %+v, want opaque", out.looks)
		}
		server.Close()
	})
}

func TestHelloThatStopsIsCutByOneDeadline(t *testing.T) {
	out := &opener{}
	w := join(t, out, relay.Options{}, 50*time.Millisecond)
	w.write(w.client, helloOf(t, "inner.example")[:100])
	w.expect(w.client, "\x15\x03\x03\x00\x02\x02\x32") // decode_error
	w.expectNothing(w.server)
	w.client.Close()
	w.wait()
	if len(out.refused) != 1 || out.refused[0] != policy.ReasonMalformedRequest {
		t.Errorf("refused for %v", out.refused)
	}
}

func TestEndsBeforeTheFirstByte(t *testing.T) {
	for _, c := range []struct {
		name           string
		act            func(w *world)
		client, server flow.End
	}{
		{"client closes", func(w *world) {
			w.client.Close()
			w.expectNothing(w.server)
			w.server.Close()
		}, flow.EndEOF, flow.EndEOF},
		{"client resets", func(w *world) { w.client.SetLinger(0); w.client.Close() }, flow.EndReset, ""},
		{"server closes", func(w *world) { w.server.Close(); w.expectNothing(w.client) }, "", flow.EndEOF},
		{"server resets", func(w *world) { w.server.SetLinger(0); w.server.Close(); w.expectNothing(w.client) }, "", flow.EndReset},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &opener{}
			w := join(t, out, relay.Options{}, patience)
			c.act(w)
			f := w.wait()
			if f == nil || f.ClientEnd != c.client || f.ServerEnd != c.server || len(out.looks) != 0 {
				t.Errorf("judged by %+v, recorded %+v; want ends %q and %q", out.looks, f, c.client, c.server)
			}
		})
	}
}

func TestSilenceEndsAtTheRulesIdleTimeout(t *testing.T) {
	out := &opener{}
	client, door := pair(t)
	upstream, server := pair(t)
	f := &flow.Flow{Decision: policy.Decision{Allow: true, Grant: &policy.Rule{Idle: 20 * time.Millisecond}}}
	Join(t.Context(), out, f, sniff.NewConn(door), sniff.NewConn(upstream), patience, relay.Options{})
	w := &world{t: t, out: out}
	w.expectNothing(client)
	w.expectNothing(server)
	if len(out.done) != 1 || f.ClientEnd != flow.EndIdle || f.ServerEnd != flow.EndIdle {
		t.Errorf("recorded %+v", out.done)
	}
}

func TestCutSaysWhoCutIt(t *testing.T) {
	for _, c := range []struct {
		name  string
		first string
		cause error
		want  flow.End
	}{
		{"while silent, by policy", "", &flow.CutError{End: flow.EndPolicy}, flow.EndPolicy},
		{"while silent, by the stop of the gateway", "", context.Canceled, flow.EndDrain},
		{"within a hello, by policy", "\x16\x03\x01", &flow.CutError{End: flow.EndPolicy}, flow.EndPolicy},
		{"while relayed, by policy", "\xff", &flow.CutError{End: flow.EndPolicy}, flow.EndPolicy},
		{"while relayed, by drain", "\xff", &flow.CutError{End: flow.EndDrain}, flow.EndDrain},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &opener{}
			w := join(t, out, relay.Options{}, patience)
			w.write(w.client, []byte(c.first))
			if c.first == "\xff" {
				w.expect(w.server, c.first)
			}
			for cut := context.CancelCauseFunc(nil); cut == nil; {
				out.mu.Lock()
				cut = out.cut
				out.mu.Unlock()
				runtime.Gosched()
			}
			out.cut(c.cause)
			f := w.wait()
			if f == nil || f.ClientEnd != c.want || f.ServerEnd != c.want {
				t.Errorf("recorded %+v, want both ends %q", f, c.want)
			}
		})
	}
}

func TestRuleLimitsTheBytes(t *testing.T) {
	f := &flow.Flow{Decision: policy.Decision{Grant: &policy.Rule{MaxBytes: 7, Idle: time.Minute}}}
	o := ruled(f, relay.Options{IdleTimeout: time.Hour, MaxBytes: 1 << 30, HalfCloseTimeout: time.Second})
	if o.MaxBytes != 7 || o.IdleTimeout != time.Minute || o.HalfCloseTimeout != time.Second {
		t.Errorf("got %+v", o)
	}
}

func TestConnectRecordsWhatCanNotBeReached(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody answers there now
	out := &opener{to: l.Addr().String()}
	_, err = Connect(t.Context(), out, &flow.Flow{Host: "down.example"})
	unreachable := (*flow.UnreachableError)(nil)
	if !errors.As(err, &unreachable) {
		t.Fatalf("got %v", err)
	}
	if len(out.done) != 1 || out.done[0].ErrorCode != "connection_refused" || out.done[0].Error == "" {
		t.Errorf("recorded %+v", out.done)
	}
}
