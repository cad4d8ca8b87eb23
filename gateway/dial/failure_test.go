package dial

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestLookupOneFamilyFails(t *testing.T) {
	z := newZone(t)
	a := func(w dns.ResponseWriter, q *dns.Msg) bool {
		if q.Question[0].Qtype != dns.TypeA {
			return false
		}
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 60 IN A 127.0.0.1")}
		w.WriteMsg(m)
		return true
	}
	for name, rcode := range map[string]int{"servfail.test.": dns.RcodeServerFailure, "nxdomain.test.": dns.RcodeNameError, "notimp.test.": dns.RcodeNotImplemented} {
		z.handle(name, func(w dns.ResponseWriter, q *dns.Msg) {
			if !a(w, q) {
				w.WriteMsg(new(dns.Msg).SetRcode(q, rcode))
			}
		})
	}
	z.handle("silent.test.", func(w dns.ResponseWriter, q *dns.Msg) { a(w, q) })
	z.handle("both.test.", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)) })
	z.handle("half.test.", func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q) // no A, and AAAA fails: nobody knows
		if q.Question[0].Qtype == dns.TypeAAAA {
			m.Rcode = dns.RcodeServerFailure
		}
		w.WriteMsg(m)
	})
	r, c := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	for _, name := range []string{"servfail.test", "nxdomain.test", "notimp.test"} {
		wantAddrs(t, lookup(t, r, name), "127.0.0.1")
	}
	r.familyWait = familyWait
	wantAddrs(t, lookup(t, r, "silent.test"), "127.0.0.1")
	if a := lookup(t, r, "silent.test"); a.TTL > partialTTL {
		t.Errorf("got TTL %s for an answer that lacks a family; want at most %s", a.TTL, partialTTL)
	}
	lookupFails(t, r, "half.test", CodeDNSError, "SERVFAIL")
	lookupFails(t, r, "both.test", CodeDNSError, "SERVFAIL")
	lookupFails(t, r, "both.test", CodeDNSError, "SERVFAIL")
	if n := z.questions("", "both.test.", "A"); n != 1 {
		t.Errorf("got %d questions within a second of a failure; want 1", n)
	}
	c.add(time.Second)
	lookupFails(t, r, "both.test", CodeDNSError, "SERVFAIL")
	if n := z.questions("", "both.test.", "A"); n != 2 {
		t.Errorf("got %d questions; want 2, as a failure is kept for a second", n)
	}
}

func TestLookupTriesTheNextServer(t *testing.T) {
	good := newZone(t, "a.test. 60 IN A 127.0.0.1", "b.test. 60 IN A 127.0.0.2")
	goodAddr := serveDNS(t, good)
	refusing := newZone(t)
	for _, name := range []string{"a.test.", "b.test."} {
		refusing.handle(name, func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) })
	}
	refusingAddr := serveDNS(t, refusing)
	for name, first := range map[string]string{"closed": closedPort(t).String(), "silent": deadUDP(t), "refusing": refusingAddr} {
		t.Run(name, func(t *testing.T) {
			r, c := testResolver(t, ResolverOptions{Servers: []string{first, goodAddr}, Timeout: 4 * time.Second})
			wantAddrs(t, lookup(t, r, "a.test"), "127.0.0.1")
			before := refusing.questions("", "b.test.", "A")
			wantAddrs(t, lookup(t, r, "b.test"), "127.0.0.2")
			if refusing.questions("", "b.test.", "A") != before {
				t.Error("the server that helped out was not asked first")
			}
			if r.list()[0] != r.servers[1] {
				t.Error("the server that helped out is not the first in line")
			}
			c.add(preferFor)
			if r.list()[0] != r.servers[0] {
				t.Error("the first server did not get its place back")
			}
		})
	}
}

func TestLookupGivesUp(t *testing.T) {
	z := newZone(t)
	z.handle("refused.test.", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) })
	addr := serveDNS(t, z)
	r, _ := testResolver(t, ResolverOptions{Servers: []string{deadUDP(t)}, Timeout: 200 * time.Millisecond})
	lookupFails(t, r, "a.test", CodeDNSTimeout, "")
	r, _ = testResolver(t, ResolverOptions{Servers: []string{closedPort(t).String()}})
	lookupFails(t, r, "a.test", CodeDNSError, "")
	r, _ = testResolver(t, ResolverOptions{Servers: []string{deadUDP(t), addr}, Timeout: 1500 * time.Millisecond})
	lookupFails(t, r, "refused.test", CodeDNSError, "REFUSED")
	if n := z.questions("", "refused.test.", "A"); n != 1 {
		t.Errorf("a server that refused was asked %d times; want once", n)
	}
}

func TestLookupHearsASlowServer(t *testing.T) {
	z := newZone(t, "a.test. 60 IN A 127.0.0.1")
	release := make(chan struct{})
	z.handle("a.test.", func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		w.WriteMsg(z.reply(q))
	})
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}, Timeout: time.Minute, Attempts: 1000})
	got := make(chan Answer, 1)
	go func() {
		a, _ := r.Lookup(t.Context(), "a.test")
		got <- a
	}()
	await(t, func() bool { return z.questions("", "a.test.", "A") >= 3 }) // the first two are given up for lost, but still heard
	close(release)
	wantAddrs(t, <-got, "127.0.0.1")
}

func TestLookupWithoutEDNS(t *testing.T) {
	z := newZone(t, "a.test. 60 IN A 127.0.0.1")
	for name, bare := range map[string]bool{"a.test.": false, "b.test.": true} {
		z.handle(name, func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			if q.IsEdns0() != nil {
				m.Rcode = dns.RcodeFormatError
				if bare {
					m.Question = nil
				}
			} else if q.Question[0].Qtype == dns.TypeA {
				m.Answer = []dns.RR{rr(t, name+" 60 IN A 127.0.0.1")}
			}
			w.WriteMsg(m)
		})
	}
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	wantAddrs(t, lookup(t, r, "a.test"), "127.0.0.1")
	wantAddrs(t, lookup(t, r, "b.test"), "127.0.0.1")
}

// await polls until ok, for at most 20 seconds.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		<-tick.C
	}
}
