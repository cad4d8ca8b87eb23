package gateway

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// zone is a DNS server that counts the questions for each name.
type zone struct {
	addr     string
	fallback []netip.Addr
	mu       sync.Mutex
	records  map[string][]netip.Addr
	asked    map[string]int
	hold     chan struct{} // answers wait for it to be closed; nil: they do not
}

// newZone starts a server. The fallback is the answer for names that are not
// set; without one, they do not exist.
func newZone(t testing.TB, fallback ...string) *zone {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{addr: pc.LocalAddr().String(), records: map[string][]netip.Addr{}, asked: map[string]int{}}
	for _, a := range fallback {
		z.fallback = append(z.fallback, netip.MustParseAddr(a))
	}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, Handler: z, NotifyStartedFunc: func() { close(started) }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() { srv.Shutdown(); <-done })
	return z
}

func (z *zone) set(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[name] = nil
	for _, a := range addrs {
		z.records[name] = append(z.records[name], netip.MustParseAddr(a))
	}
}

func (z *zone) questions(name string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[name]
}

// names returns how many names were asked for.
func (z *zone) names() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return len(z.asked)
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))
	z.mu.Lock()
	z.asked[name]++
	addrs, known := z.records[name]
	z.mu.Unlock()
	if z.hold != nil {
		<-z.hold
	}
	if !known {
		addrs = z.fallback
	}
	m := new(dns.Msg).SetReply(q)
	if len(addrs) == 0 {
		m.Rcode = dns.RcodeNameError
	}
	for _, a := range addrs {
		h := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: 300}
		switch {
		case a.Is4() && q.Question[0].Qtype == dns.TypeA:
			h.Rrtype = dns.TypeA
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && q.Question[0].Qtype == dns.TypeAAAA:
			h.Rrtype = dns.TypeAAAA
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	w.WriteMsg(m)
}
