package testbed

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Answer is what a NameServer says of a name.
type Answer struct {
	Addrs  []string // both families
	TTL    uint32   // seconds
	Rcode  int
	Delay  time.Duration
	Silent bool // it never answers
}

// NameServer is a real DNS server on loopback, over UDP and TCP. A name that
// it was told nothing of does not exist.
type NameServer struct {
	URL     string // for resolver.servers
	mu      sync.Mutex
	answers map[string]Answer
	asked   map[string]int
}

// NewNameServer starts a DNS server.
func NewNameServer(t testing.TB) *NameServer {
	t.Helper()
	n := &NameServer{answers: map[string]Answer{}, asked: map[string]int{}}
	pc, l := bothOnOnePort(t)
	n.URL = "udp://" + pc.LocalAddr().String()
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: n}, {Listener: l, Handler: n}} {
		started, done := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			srv.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() { srv.Shutdown(); <-done })
	}
	return n
}

// bothOnOnePort opens UDP and TCP on the same free port of loopback.
func bothOnOnePort(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return pc, l
		}
		l.Close() // another program has the port for UDP
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

// Set says what to answer about a name from now on.
func (n *NameServer) Set(name string, a Answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name] = a
}

// Asked returns how many questions there were about a name, of any type.
func (n *NameServer) Asked(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[name]
}

// ServeDNS implements dns.Handler.
func (n *NameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		return
	}
	name := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))
	n.mu.Lock()
	n.asked[name]++
	a, known := n.answers[name]
	n.mu.Unlock()
	if a.Silent {
		return
	}
	if a.Delay > 0 {
		t := time.NewTimer(a.Delay)
		<-t.C
	}
	m := new(dns.Msg).SetReply(q)
	if m.Rcode = a.Rcode; !known {
		m.Rcode = dns.RcodeNameError
	}
	for _, text := range a.Addrs {
		if rr := record(q.Question[0], text, a.TTL); rr != nil {
			m.Answer = append(m.Answer, rr)
		}
	}
	w.WriteMsg(m)
}

// record returns the record of an address, or nil if the question is about
// the other family.
func record(q dns.Question, text string, ttl uint32) dns.RR {
	a := netip.MustParseAddr(text)
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	switch {
	case a.Is4() && q.Qtype == dns.TypeA:
		return &dns.A{Hdr: h, A: a.AsSlice()}
	case a.Is6() && q.Qtype == dns.TypeAAAA:
		return &dns.AAAA{Hdr: h, AAAA: a.AsSlice()} // also an IPv4-mapped one
	}
	return nil
}

// Trap is a listener that nobody should reach.
type Trap struct{ seen chan string }

// NewTrap listens on addresses, such as 127.0.0.1:443.
func NewTrap(t testing.TB, addresses ...string) *Trap {
	t.Helper()
	trap := &Trap{seen: make(chan string, 64)}
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("trap: %v", err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				select {
				case trap.seen <- c.RemoteAddr().String() + " to " + address:
				default:
				}
				c.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
	}
	return trap
}

// Caught returns who was caught since it was asked last.
func (trap *Trap) Caught() []string {
	var who []string
	for {
		select {
		case w := <-trap.seen:
			who = append(who, w)
		default:
			return who
		}
	}
}

// Echo listens on IP and a free port, and sends back what it gets.
func Echo(t testing.TB) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", IP+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}
