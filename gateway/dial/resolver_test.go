package dial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func lookup(t testing.TB, r *Resolver, name string) Answer {
	t.Helper()
	a, err := r.Lookup(t.Context(), name)
	if err != nil {
		t.Fatalf("look up %q: %v", name, err)
	}
	return a
}

func lookupFails(t testing.TB, r *Resolver, name, code, rcode string) *ResolveError {
	t.Helper()
	a, err := r.Lookup(t.Context(), name)
	var e *ResolveError
	if !errors.As(err, &e) || e.Code != code || e.Rcode != rcode {
		t.Fatalf("look up %q: got %v, %#v; want a *ResolveError of %s with rcode %q", name, a, err, code, rcode)
	}
	return e
}

func wantAddrs(t testing.TB, a Answer, want ...string) {
	t.Helper()
	if !slices.Equal(a.Addrs, addrs(want...)) {
		t.Errorf("got addresses %v; want %v", a.Addrs, want)
	}
}

func TestLookupAsksForBothFamiliesOnce(t *testing.T) {
	z := newZone(t, "a.test. 60 IN A 127.0.0.1", "a.test. 60 IN A 127.0.0.2", "a.test. 90 IN AAAA ::1")
	r, c := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	a := lookup(t, r, "a.test")
	wantAddrs(t, a, "::1", "127.0.0.1", "127.0.0.2")
	if a.FromCache || a.TTL != 60*time.Second || a.Aliases != nil {
		t.Errorf("got %+v; want a fresh answer for 60 s without aliases", a)
	}
	c.add(59 * time.Second)
	for _, name := range []string{"a.test", "A.Test", "a.test."} {
		if a := lookup(t, r, name); !a.FromCache || a.TTL != time.Second {
			t.Errorf("%s: got %+v; want it from the cache, for one more second", name, a)
		}
	}
	if n, m := z.questions("", "a.test.", "A"), z.questions("", "a.test.", "AAAA"); n != 1 || m != 1 {
		t.Errorf("got %d questions for A and %d for AAAA; want 1 and 1", n, m)
	}
	c.add(time.Second)
	if a := lookup(t, r, "a.test"); a.FromCache {
		t.Error("the answer outlived its TTL")
	}
}

func TestLookupBoundsTheTTL(t *testing.T) {
	z := newZone(t, "zero.test. 0 IN A 127.0.0.1", "long.test. 86400 IN A 127.0.0.1", "odd.test. 2147483648 IN A 127.0.0.1")
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	for name, want := range map[string]time.Duration{"zero.test": time.Second, "long.test": 5 * time.Minute, "odd.test": time.Second} {
		if a := lookup(t, r, name); a.TTL != want {
			t.Errorf("%s: got TTL %s; want %s", name, a.TTL, want)
		}
	}
}

func TestLookupFollowsAliasesWithinTheAnswer(t *testing.T) {
	z := newZone(t,
		"www.test. 300 IN CNAME Edge.CDN.test.", "edge.cdn.test. 20 IN CNAME pop.cdn.test.",
		"pop.cdn.test. 60 IN A 127.0.0.5", "pop.cdn.test. 60 IN AAAA ::1",
		"loop.test. 60 IN CNAME loop2.test.", "loop2.test. 60 IN CNAME loop.test.")
	long := []string{"end.long.test. 60 IN A 127.0.0.1"}
	for i := range 17 {
		to := fmt.Sprintf("n%d.long.test.", i+1)
		if i == 16 {
			to = "end.long.test."
		}
		long = append(long, fmt.Sprintf("n%d.long.test. 60 IN CNAME %s", i, to))
	}
	z.set(t, long...)
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	a := lookup(t, r, "www.test")
	wantAddrs(t, a, "::1", "127.0.0.5")
	if !slices.Equal(a.Aliases, []string{"edge.cdn.test", "pop.cdn.test"}) || a.TTL != 20*time.Second {
		t.Errorf("got aliases %q for %s; want the chain for 20 s", a.Aliases, a.TTL)
	}
	lookupFails(t, r, "loop.test", CodeDNSError, "NOERROR")
	lookupFails(t, r, "n0.long.test", CodeDNSError, "NOERROR") // 17 aliases
	if a := lookup(t, r, "n1.long.test"); len(a.Aliases) != 16 {
		t.Errorf("got %d aliases; want 16", len(a.Aliases))
	}
}

func TestLookupIgnoresRecordsOfOtherNames(t *testing.T) {
	z := newZone(t)
	z.handle("a.test.", func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{
			rr(t, "evil.test. 60 IN A 127.6.6.6"), rr(t, "a.test. 60 CH A 127.6.6.7"),
			rr(t, "b.test. 60 IN CNAME evil.test."), rr(t, "a.test. 60 IN TXT \"127.6.6.8\""),
		}
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, rr(t, "A.test. 60 IN A 127.0.0.1"))
		} else {
			m.Answer = append(m.Answer, rr(t, "a.test. 60 IN A 127.6.6.9")) // the wrong type
		}
		m.Extra = []dns.RR{rr(t, "a.test. 60 IN A 127.6.6.10")}
		w.WriteMsg(m)
	})
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	wantAddrs(t, lookup(t, r, "a.test"), "127.0.0.1")
	r.Lookup(t.Context(), "evil.test")
	if z.questions("", "evil.test.", "A") != 1 {
		t.Error("a record of another name was taken into the cache")
	}
}

// Answers under another id, to another question, to another class, and
// questions come first; the right answer comes last.
func TestLookupIgnoresStrayMessages(t *testing.T) {
	z := newZone(t)
	forge := func(q *dns.Msg, change func(*dns.Msg)) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, "a.test. 60 IN A 127.6.6.6"), rr(t, "a.test. 60 IN AAAA ::6")}
		change(m)
		return m
	}
	z.handle("a.test.", func(w dns.ResponseWriter, q *dns.Msg) {
		for _, change := range []func(*dns.Msg){
			func(m *dns.Msg) { m.Id++ },
			func(m *dns.Msg) { m.Id++; m.Truncated = true },
			func(m *dns.Msg) { m.Question[0].Name = "b.test." },
			func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX },
			func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
			func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
			func(m *dns.Msg) { m.Question = nil },
			func(m *dns.Msg) { m.Response = false },
			func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
		} {
			w.WriteMsg(forge(q, change))
		}
		w.Write([]byte("no message"))
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, "a.test. 60 IN A 127.0.0.1")}
		w.WriteMsg(m)
	})
	addr := serveDNS(t, z)
	for _, server := range []string{addr} {
		r, _ := testResolver(t, ResolverOptions{Servers: []string{server}})
		wantAddrs(t, lookup(t, r, "a.test"), "127.0.0.1")
	}
}

func TestLookupGoesToTCPUnderAFloodOfGuesses(t *testing.T) {
	z := newZone(t)
	z.handle("a.test.", func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, "a.test. 60 IN A 127.0.0.1")}
		if w.LocalAddr().Network() == "udp" {
			for range 100 {
				m.Id++
				w.WriteMsg(m)
			}
			return
		}
		w.WriteMsg(m)
	})
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	wantAddrs(t, lookup(t, r, "a.test"), "127.0.0.1")
	if z.questions("tcp", "a.test.", "A") == 0 {
		t.Error("the question was not put over TCP")
	}
}

func TestLookupAsksAgainOverTCPWhenTruncated(t *testing.T) {
	z := newZone(t)
	for _, cut := range []bool{false, true} {
		name := fmt.Sprintf("big-%t.test.", cut)
		z.handle(name, func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			if q.Question[0].Qtype == dns.TypeA {
				for i := range 100 {
					m.Answer = append(m.Answer, rr(t, fmt.Sprintf("%s 60 IN A 127.0.1.%d", name, i+1)))
				}
			}
			if w.LocalAddr().Network() == "udp" {
				m.Truncated = true
				wire, err := m.Pack()
				if err != nil {
					panic(err)
				}
				if cut {
					wire = wire[:min(len(wire), 500)] // in the middle of a record
				}
				w.Write(wire[:min(len(wire), 1232)])
				return
			}
			w.WriteMsg(m)
		})
	}
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	for _, name := range []string{"big-false.test", "big-true.test"} {
		if a := lookup(t, r, name); len(a.Addrs) != maxAddrs {
			t.Errorf("%s: got %d addresses; want the first %d of 100", name, len(a.Addrs), maxAddrs)
		}
		if z.questions("tcp", name+".", "A") != 1 {
			t.Errorf("%s: was not asked for over TCP", name)
		}
	}
}

func TestLookupKeepsNegativeAnswers(t *testing.T) {
	z := newZone(t, "empty.test. 60 IN TXT x")
	z.setSOA("test. 3600 IN SOA ns.test. h.test. 1 1 1 1 7")
	r, c := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	for _, tt := range []struct{ name, rcode string }{{"none.test", "NXDOMAIN"}, {"empty.test", "NOERROR"}} {
		lookupFails(t, r, tt.name, CodeDNSError, tt.rcode)
		c.add(6 * time.Second)
		lookupFails(t, r, tt.name, CodeDNSError, tt.rcode)
		if n := z.questions("", tt.name+".", "A"); n != 1 {
			t.Errorf("%s: got %d questions within the SOA's minimum; want 1", tt.name, n)
		}
		z.set(t, tt.name+". 60 IN A 127.0.0.1")
		c.add(time.Second)
		wantAddrs(t, lookup(t, r, tt.name), "127.0.0.1")
	}
	z.setSOA("test. 3600 IN SOA ns.test. h.test. 1 1 1 1 3600")
	lookupFails(t, r, "capped.test", CodeDNSError, "NXDOMAIN")
	c.add(30 * time.Second)
	lookupFails(t, r, "capped.test", CodeDNSError, "NXDOMAIN")
	if n := z.questions("", "capped.test.", "A"); n != 2 {
		t.Errorf("got %d questions in 30 s; want 2, whatever the SOA says", n)
	}
	z.setSOA("")
	lookupFails(t, r, "no-soa.test", CodeDNSError, "NXDOMAIN")
	c.add(time.Second)
	lookupFails(t, r, "no-soa.test", CodeDNSError, "NXDOMAIN")
	if n := z.questions("", "no-soa.test.", "A"); n != 2 {
		t.Errorf("got %d questions; want 2, as there was no SOA", n)
	}
}

func TestLookupOfOneNameIsOneQuestion(t *testing.T) {
	z := newZone(t, "a.test. 60 IN A 127.0.0.1")
	release := make(chan struct{})
	z.handle("a.test.", func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		w.WriteMsg(z.reply(q))
	})
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}, Timeout: time.Minute, Attempts: 1})
	gone, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.Lookup(gone, "a.test")
		first <- err
	}()
	await(t, func() bool { return z.questions("", "a.test.", "A") > 0 })
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for range 100 {
		wg.Go(func() {
			_, err := r.Lookup(t.Context(), "a.test")
			errs <- err
		})
	}
	cancel() // the one who asked first leaves
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller who left got %v; want context.Canceled", err)
	}
	close(release)
	wg.Wait()
	for range 100 {
		if err := <-errs; err != nil {
			t.Errorf("a caller who stayed got %v", err)
		}
	}
	r.resolve("a.test") // a flight that starts just after another one landed
	if n, m := z.questions("", "a.test.", "A"), z.questions("", "a.test.", "AAAA"); n != 1 || m != 1 {
		t.Errorf("got %d questions for A and %d for AAAA; want 1 and 1", n, m)
	}
}

func TestLookupIsFullyQualified(t *testing.T) {
	z := newZone(t, "a.corp.test. 60 IN A 127.0.0.1")
	addr := netip.MustParseAddrPort(serveDNS(t, z))
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, conf, fmt.Sprintf("search corp.test\noptions ndots:5\nnameserver %s\n", addr.Addr()))
	r, _ := testResolver(t, ResolverOptions{ResolvConf: conf})
	r.system.get(r.now())[0].port = addr.Port()
	lookupFails(t, r, "a", CodeDNSError, "NXDOMAIN")
	if z.questions("", "a.", "A") != 1 || z.questions("", "a.corp.test.", "A") != 0 {
		t.Error("the name was not asked for as it stands")
	}
}

func TestLookupRefusesWhatIsNoName(t *testing.T) {
	r, _ := testResolver(t, ResolverOptions{Servers: []string{deadUDP(t)}})
	for _, name := range []string{"", ".", "a..b", ".a", "a.test..", "127.0.0.1", "0x7f.1", "a.0x7f", "2130706433", "::1", "[::1]", "a b.test",
		"a\x00.test", "a\n.test", "ü.test", "a/.test", "a#.test", "a%2e.test", "*.test", strings.Repeat("a", 64) + ".test",
		strings.Repeat("a.", 126) + "ab.", "a@b.test", "a:53"} {
		lookupFails(t, r, name, CodeDNSError, "")
	}
	lookupFails(t, r, "x.onion", CodeDNSError, "NXDOMAIN")
	lookupFails(t, r, "x.invalid", CodeDNSError, "NXDOMAIN")
	wantAddrs(t, lookup(t, r, "localhost"), "::1", "127.0.0.1")
	wantAddrs(t, lookup(t, r, "x.localhost."), "::1", "127.0.0.1")
}

func TestCacheIsBounded(t *testing.T) {
	z := newZone(t)
	for i := range 200 {
		z.set(t, fmt.Sprintf("n%d.test. 60 IN A 127.0.0.1", i))
	}
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}, CacheSize: 10})
	for i := range 200 {
		lookup(t, r, fmt.Sprintf("n%d.test", i))
	}
	r.cache.CleanUp()
	if n := r.cache.EstimatedSize(); n > 10 {
		t.Errorf("got %d names in the cache; want at most 10", n)
	}
}

func TestLookupAfterClose(t *testing.T) {
	r, _ := testResolver(t, ResolverOptions{Servers: []string{deadUDP(t)}, Timeout: time.Minute})
	failed := make(chan error, 1)
	go func() {
		_, err := r.Lookup(t.Context(), "a.test")
		failed <- err
	}()
	r.Close()
	if err := <-failed; err == nil {
		t.Error("got no error; want one, as the resolver is closed")
	}
}

func TestCachedLookupDoesNotAllocate(t *testing.T) {
	z := newZone(t, "a.test. 60 IN A 127.0.0.1")
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	lookup(t, r, "a.test")
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := r.Lookup(ctx, "a.test."); err != nil {
			t.Fatal(err)
		}
	}); n >= 1 {
		t.Errorf("got %v allocations; want none", n)
	}
}

func BenchmarkLookupCached(b *testing.B) {
	z := newZone(b, "a.test. 60 IN A 127.0.0.1", "a.test. 60 IN AAAA ::1")
	r, err := NewResolver(ResolverOptions{Servers: []string{serveDNS(b, z)}})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	lookup(b, r, "a.test")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Lookup(b.Context(), "a.test"); err != nil {
			b.Fatal(err)
		}
	}
}
