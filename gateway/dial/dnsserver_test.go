package dial

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zone is what a test's DNS server knows, and which questions it got. A
// handler set for a name replaces the records.
type zone struct {
	mu       sync.Mutex
	records  map[string][]dns.RR // by name, lower case, with trailing dot
	handlers map[string]dns.HandlerFunc
	asked    map[string]int // by network, name and type, such as "udp a.test. A"
	soa      string
}

func newZone(t testing.TB, records ...string) *zone {
	z := &zone{records: map[string][]dns.RR{}, handlers: map[string]dns.HandlerFunc{}, asked: map[string]int{}}
	z.set(t, records...)
	return z
}

func rr(t testing.TB, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// set replaces the records of the names that are given.
func (z *zone) set(t testing.TB, records ...string) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	fresh := map[string]bool{}
	for _, s := range records {
		r := rr(t, s)
		name := strings.ToLower(r.Header().Name)
		if !fresh[name] {
			fresh[name], z.records[name] = true, nil
		}
		z.records[name] = append(z.records[name], r)
	}
}

func (z *zone) setSOA(soa string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.soa = soa
}

func (z *zone) handle(name string, h dns.HandlerFunc) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.handlers[name] = h
}

// questions returns how often a question came, on whatever network if that is "".
func (z *zone) questions(network, name, qtype string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := 0
	for k, v := range z.asked {
		if strings.HasSuffix(k, " "+name+" "+qtype) && strings.HasPrefix(k, network) {
			n += v
		}
	}
	return n
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name, qtype := strings.ToLower(q.Question[0].Name), dns.TypeToString[q.Question[0].Qtype]
	z.mu.Lock()
	z.asked[w.LocalAddr().Network()+" "+name+" "+qtype]++
	h := z.handlers[name]
	z.mu.Unlock()
	if h != nil {
		h(w, q)
		return
	}
	w.WriteMsg(z.reply(q))
}

// reply answers as a recursive server does: with the chain of aliases.
func (z *zone) reply(q *dns.Msg) *dns.Msg {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	name := strings.ToLower(q.Question[0].Name)
	for range 40 {
		rrs, ok := z.records[name]
		if !ok {
			m.Rcode = dns.RcodeNameError
			break
		}
		next := ""
		for _, r := range rrs {
			if c, ok := r.(*dns.CNAME); ok {
				m.Answer, next = append(m.Answer, r), strings.ToLower(c.Target)
			} else if r.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, r)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if z.soa != "" {
		r, err := dns.NewRR(z.soa)
		if err != nil {
			panic(err)
		}
		m.Ns = append(m.Ns, r)
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(4096, false)
	}
	return m
}

// serveDNS serves h over UDP and TCP on one port of 127.0.0.1.
func serveDNS(t testing.TB, h dns.Handler) string {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			l.Close() // the port is taken for UDP: try another
			continue
		}
		start(t, &dns.Server{Listener: l, Handler: h})
		start(t, &dns.Server{PacketConn: p, Handler: h})
		return l.Addr().String()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return ""
}

func start(t testing.TB, s *dns.Server) {
	ready, done := make(chan struct{}), make(chan struct{})
	s.NotifyStartedFunc = func() { close(ready) }
	s.ReadTimeout, s.IdleTimeout = time.Minute, func() time.Duration { return time.Minute }
	go func() {
		defer close(done)
		s.ActivateAndServe()
	}()
	<-ready
	t.Cleanup(func() {
		s.Shutdown()
		<-done
	})
}

// certificate returns a self-signed one for dns.test and 127.0.0.1.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"dns.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func serveDoT(t testing.TB, h dns.Handler, cert tls.Certificate) netip.AddrPort {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, &dns.Server{Listener: l, Handler: h})
	return netip.MustParseAddrPort(l.Addr().String())
}

// dohWriter takes the one answer of a handler.
type dohWriter struct {
	dns.ResponseWriter
	msg *dns.Msg
}

func (w *dohWriter) WriteMsg(m *dns.Msg) error { w.msg = m; return nil }
func (w *dohWriter) LocalAddr() net.Addr       { return dohAddr{} }

type dohAddr struct{}

func (dohAddr) Network() string { return "https" }
func (dohAddr) String() string  { return "" }

func serveDoH(t testing.TB, h dns.Handler, cert tls.Certificate) netip.AddrPort {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		q := new(dns.Msg)
		if err != nil || q.Unpack(body) != nil || q.Id != 0 || r.URL.Path != "/dns-query" ||
			r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/dns-message" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		answer := &dohWriter{}
		h.ServeDNS(answer, q)
		wire, err := answer.msg.Pack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/dns-message")
		w.Write(wire)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// deadUDP is an address where nobody ever answers; silent keeps what comes.
func deadUDP(t testing.TB) string {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p.LocalAddr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// clock is a clock that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func testResolver(t testing.TB, o ResolverOptions) (*Resolver, *clock) {
	t.Helper()
	if o.HostsFile == "" {
		o.HostsFile = NoHostsFile
	}
	c := &clock{now: time.Now()}
	r, err := newResolver(o, c.time)
	if err != nil {
		t.Fatal(err)
	}
	r.familyWait = time.Minute // so that a slow machine changes no answer
	t.Cleanup(r.Close)
	return r, c
}
