package audit

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/gateway/flow"
	"sluice/policy"
)

var testTime = time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.UTC)

// deniedFlow is a flow with a value in every field that a denial can have.
func deniedFlow() *flow.Flow {
	f := flow.New(flow.DoorConnect, netip.MustParseAddrPort("[::ffff:192.0.2.7]:40000"), netip.MustParseAddrPort("192.0.2.1:3128"))
	f.Start = testTime
	f.Listener = "proxy"
	f.OriginalDst = netip.MustParseAddrPort("198.51.100.4:443")
	f.Identity = &policy.Identity{User: "alice", Groups: []string{"finance", "staff"}, Subject: "CN=alice", Namespace: "shop", ServiceAccount: "web", Process: "/usr/bin/curl"}
	f.Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	f.Host, f.Port, f.Proto, f.Seen = "Evil.Example.", 443, policy.TCP, policy.SeenTLS
	f.Claim(flow.FromConnect, "Evil.Example.")
	f.Claim(flow.FromSNI, "evil.example")
	f.Method, f.Path, f.ALPN, f.ECH = "CONNECT", "/a", "h2", true
	f.Decision = policy.Decision{
		Mode: policy.Enforce, Reason: policy.ReasonDenyRule, Detail: "a deny rule names it", Host: "evil.example", Pattern: "*.example", Revision: "r1",
		Rule: &policy.Rule{Name: "no-evil", Owner: "sec", Service: "svc", Deny: true, Pos: policy.Position{File: "p.yaml", Line: 12}},
	}
	f.Status = 403
	return f
}

// endedFlow adds what an allowed flow knows at its end.
func endedFlow() *flow.Flow {
	f := deniedFlow()
	f.Decision.Allow, f.Decision.WouldDeny, f.Decision.Mode = true, true, policy.Report
	f.Resolved = []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::1")}
	f.Aliases = []string{"cdn.example"}
	f.Upstream = netip.MustParseAddrPort("203.0.113.9:443")
	f.BytesIn, f.BytesOut, f.ClientEnd, f.ServerEnd = 10, 20, flow.EndEOF, flow.EndReset
	f.Error, f.ErrorCode = "reset", "connection_terminated"
	return f
}

func TestFromFlow(t *testing.T) {
	f := deniedFlow()
	r := *FromFlow(f, EventDecision, testTime.Add(1234567*time.Nanosecond))
	for _, c := range []struct {
		field     string
		got, want any
	}{
		{"id", r.ID, f.ID.String()},
		{"client without its disguise", r.Client, netip.MustParseAddr("192.0.2.7")},
		{"client port", r.ClientPort, uint16(40000)},
		{"role", r.Role, "alice"},
		{"host", r.Host, "evil.example"},
		{"raw host", r.HostRaw, "Evil.Example."},
		{"rule position", r.RulePos, "p.yaml:12"},
		{"decision", r.Decision, "deny"},
		{"mode", r.Mode, "enforce"},
		{"app", r.App, "tls"},
		{"duration", r.DurationMS, 1.234},
		{"trace", r.TraceID, "4bf92f3577b34da6a3ce929d0e0e4736"},
		{"parent", r.ParentSpanID, "00f067aa0ba902b7"},
		{"sampled", r.Sampled, true},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %v; want %v", c.field, c.got, c.want)
		}
	}
	if len(r.SpanID) != 16 || r.SpanID == r.ParentSpanID {
		t.Errorf("span id %q", r.SpanID)
	}
}

func TestHost(t *testing.T) {
	for _, c := range []struct {
		name              string
		given, norm, addr string
		host, raw         string
	}{
		{"as judged", "a.test", "a.test", "", "a.test", ""},
		{"other case", "A.test", "a.test", "", "a.test", "A.test"},
		{"address", "192.0.2.1", "", "192.0.2.1", "192.0.2.1", ""},
		{"address in disguise", "0xc0000201", "", "192.0.2.1", "192.0.2.1", "0xc0000201"},
		{"malformed", "a.test\r\nX: y\x00", "", "", "", `a.test\r\nX: y\x00`},
		{"terminal escape", "\x1b[2Ja.test", "", "", "", `\x1b[2Ja.test`},
		{"right-to-left override", "a\u202etest", "", "", "", `a\u202etest`},
		{"not UTF-8", "a\xff.test", "", "", "", `a\xff.test`},
		{"too long", strings.Repeat("a", 5000), "", "", "", strings.Repeat("a", maxName) + "…"},
		{"none", "", "", "", "", ""},
	} {
		f := flow.New(flow.DoorConnect, netip.AddrPort{}, netip.AddrPort{})
		f.Host, f.Decision.Host = c.given, c.norm
		if c.addr != "" {
			f.Decision.Addr = netip.MustParseAddr(c.addr)
		}
		if r := *FromFlow(f, EventDecision, f.Start); r.Host != c.host || r.HostRaw != c.raw {
			t.Errorf("%s: got host %q, raw %q; want %q, %q", c.name, r.Host, r.HostRaw, c.host, c.raw)
		}
	}
}

func TestTraceparent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
	for _, c := range []struct {
		name, header string
		ok, sampled  bool
	}{
		{"sampled", good + "01", true, true},
		{"unsampled", good + "00", true, false},
		{"flags with random bit", good + "03", true, true},
		{"flags even letter", good + "0a", true, false},
		{"flags odd letter", good + "0b", true, true},
		{"later version with more fields", "01" + good[2:] + "01-more", true, true},
		{"version 00 with more fields", good + "01-more", false, false},
		{"later version with a longer flag", "01" + good[2:] + "011", false, false},
		{"forbidden version", "ff" + good[2:] + "01", false, false},
		{"upper case", strings.ToUpper(good) + "01", false, false},
		{"zero trace", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", false, false},
		{"zero span", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false, false},
		{"cut", good, false, false},
		{"none", "", false, false},
	} {
		f := flow.New(flow.DoorHTTP, netip.AddrPort{}, netip.AddrPort{})
		f.Traceparent = c.header
		r := *FromFlow(f, EventDecision, f.Start)
		if ok := r.ParentSpanID != ""; ok != c.ok || r.Sampled != c.sampled {
			t.Errorf("%s: got taken %v, sampled %v; want %v, %v", c.name, ok, r.Sampled, c.ok, c.sampled)
		}
		if !validID(r.TraceID) || !validID(r.SpanID) {
			t.Errorf("%s: got ids %q, %q", c.name, r.TraceID, r.SpanID)
		}
		if again := *FromFlow(f, EventEnd, f.Start); again.TraceID != r.TraceID || again.SpanID != r.SpanID {
			t.Errorf("%s: the ids of the same flow differ", c.name)
		}
	}
}

func TestAppendJSONAllocatesNothing(t *testing.T) {
	r := *FromFlow(endedFlow(), EventEnd, testTime)
	buf := make([]byte, 0, 8192)
	if n := testing.AllocsPerRun(100, func() { r.AppendJSON(buf[:0]) }); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

// sameJSON fails unless AppendJSON gives one line that says what encoding/json
// says of the record.
func sameJSON(t *testing.T, r *Record) {
	t.Helper()
	got := r.AppendJSON(nil)
	want, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsAny(got, "\r\n\x00\x1b\x7f\u0085\u2028\u2029") {
		t.Errorf("got a byte that ends or hides a line: %q", got)
	}
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("got %s: %v", got, err)
	}
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestAppendJSONAgreesWithEncodingJSON(t *testing.T) {
	for _, f := range []*flow.Flow{deniedFlow(), endedFlow(), flow.New(flow.DoorTLS, netip.AddrPort{}, netip.AddrPort{})} {
		for _, e := range []Event{EventDecision, EventEnd} {
			r := *FromFlow(f, e, testTime.Add(time.Second))
			sameJSON(t, &r)
			var back Record
			if err := json.Unmarshal(r.AppendJSON(nil), &back); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back.AppendJSON(nil), r.AppendJSON(nil)) {
				t.Errorf("read back: got %s; want %s", back.AppendJSON(nil), r.AppendJSON(nil))
			}
		}
	}
	sameJSON(t, &Record{})
	sameJSON(t, &Record{Client: netip.MustParseAddr("fe80::1%e\"th\n0"), Upstream: netip.MustParseAddrPort("[fe80::1%a\"b]:1")})
}

// FuzzRecord is exposed to everything a client can send: whatever it holds, a
// record is one line of JSON, and one line of log.
func FuzzRecord(f *testing.F) {
	f.Add("a.test", "GET", "/x", "h2", "alice", "oops", int64(1))
	f.Add("a\r\n{\"schema\":\"forged\"}", "\x1b[2J", "\u2028", "\xff\xfe", "\"\\", "\x00\x7f\u0085", int64(-1))
	f.Fuzz(func(t *testing.T, host, method, path, alpn, user, oops string, n int64) {
		fl := flow.New(flow.DoorConnect, netip.AddrPort{}, netip.AddrPort{})
		fl.Host, fl.Method, fl.Path, fl.ALPN, fl.Error = host, method, path, alpn, oops
		fl.Claim(flow.FromHost, host)
		fl.Identity = &policy.Identity{User: user, Groups: []string{user, host}}
		fl.Traceparent, fl.BytesIn = oops, n
		r := *FromFlow(fl, EventEnd, fl.Start)
		sameJSON(t, &r)
		raw := Record{Host: host, Method: method, Path: path, Groups: []string{alpn}, Claims: []flow.Claim{{Host: user}}, BytesIn: n}
		sameJSON(t, &raw)
		for _, s := range []string{r.HostRaw, r.Method, r.Path, r.ALPN, r.User, r.Error, r.Claims[0].Host, r.Groups[0]} {
			if !printable(s) {
				t.Errorf("record holds %q", s)
			}
		}
		var out bytes.Buffer
		Log(t.Context(), slog.New(slog.NewTextHandler(&out, nil)), &r)
		if line := out.String(); strings.Count(line, "\n") != 1 || !printable(strings.TrimSuffix(line, "\n")) {
			t.Errorf("log line %q", line)
		}
	})
}

func TestLog(t *testing.T) {
	denied := *FromFlow(deniedFlow(), EventDecision, testTime)
	would := *FromFlow(endedFlow(), EventDecision, testTime)
	ended := *FromFlow(endedFlow(), EventEnd, testTime)
	plain := endedFlow()
	plain.Decision.WouldDeny, plain.Decision.Reason = false, ""
	allowed := *FromFlow(plain, EventDecision, testTime)
	for _, c := range []struct {
		name string
		r    Record
		want []string
	}{
		{"denied", denied, []string{`level=WARN msg="flow denied" id=`, "client=192.0.2.7 ", "host=evil.example ", "reason=deny_rule ", "rule=no-evil ", "rule_pos=p.yaml:12 ", "owner=sec "}},
		{"would deny", would, []string{`level=WARN msg="flow allowed"`, "would_deny=true reason=deny_rule"}},
		{"allowed", allowed, []string{`level=DEBUG msg="flow allowed"`, "decision=allow"}},
		{"ended", ended, []string{`level=INFO msg="flow ended"`, "bytes_in=10 bytes_out=20", "client_end=eof server_end=reset", "error_code=connection_terminated"}},
	} {
		var out bytes.Buffer
		Log(t.Context(), slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), &c.r)
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: got %s; want %s in it", c.name, out.String(), want)
			}
		}
	}
}

func BenchmarkFromFlow(b *testing.B) {
	f := endedFlow()
	b.ReportAllocs()
	for b.Loop() {
		r := *FromFlow(f, EventEnd, testTime)
		if r.ID == "" {
			b.Fatal("no id")
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	r := *FromFlow(endedFlow(), EventEnd, testTime)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = r.AppendJSON(buf[:0])
	}
}

func BenchmarkEncodingJSON(b *testing.B) {
	r := *FromFlow(endedFlow(), EventEnd, testTime)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := json.Marshal(&r); err != nil {
			b.Fatal(err)
		}
	}
}
