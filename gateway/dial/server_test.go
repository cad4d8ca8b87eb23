package dial

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestParseServer(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1":                       "udp://127.0.0.1:53",
		"127.0.0.1:5353":                  "udp://127.0.0.1:5353",
		"::1":                             "udp://[::1]:53",
		"[::1]":                           "udp://[::1]:53",
		"[::1]:5353":                      "udp://[::1]:5353",
		"::ffff:127.0.0.1":                "udp://127.0.0.1:53",
		"fe80::1%eth0":                    "udp://[fe80::1%25eth0]:53",
		"udp://127.0.0.1":                 "udp://127.0.0.1:53",
		"udp://[fe80::1%25eth0]:53":       "udp://[fe80::1%25eth0]:53",
		"udp://NS.test:5353":              "udp://ns.test:5353",
		"tcp://[::1]:53":                  "tcp://[::1]:53",
		"tls://127.0.0.1#dns.test":        "tls://127.0.0.1:853#dns.test",
		"tls://dns.test":                  "tls://dns.test:853",
		"tls://dns.test:8853#Other.test":  "tls://dns.test:8853#other.test",
		"https://dns.test":                "https://dns.test:443/dns-query",
		"https://dns.test/":               "https://dns.test:443/dns-query",
		"https://[::1]:8443/q?x=1#a.test": "https://[::1]:8443/q?x=1#a.test",
	} {
		e, err := parseServer(in)
		if err != nil || e.String() != want {
			t.Errorf("%q: got %s, %v; want %s", in, e, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                       "not an address",
		"ns.test":                "write udp://NAME:PORT",
		"127.0.0.1:0":            "not an address",
		"127.0.0.1:65536":        "not an address",
		"http://dns.test/q":      "the scheme must be udp, tcp, tls or https",
		"quic://dns.test":        "the scheme must be udp, tcp, tls or https",
		"udp://":                 "neither an address nor a host name",
		"udp://127.0.0.1:0":      "port",
		"udp://127.0.0.1:99999":  "port",
		"udp://127.1":            "neither an address nor a host name",
		"udp://127.0.0.1#x.test": "only for tls and https",
		"tls://127.0.0.1/x":      "a path is only for https",
		"tls://127.0.0.1#a..b":   "not a host name",
		"https://u:p@dns.test/q": "no user or password",
		"udp://a\nb":             "not a URL",
	} {
		if e, err := parseServer(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want an error with %q", in, e, err, want)
		}
	}
}

// What is read prints as what reads the same.
func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "[::1]:53", "fe80::1%eth0", "udp://ns.test", "tls://127.0.0.1:853#dns.test", "https://dns.test/dns-query?a=b#x.test"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseServer(s)
		if err != nil {
			return
		}
		if e.port == 0 || e.addr.IsValid() == (e.host != "") {
			t.Fatalf("%q: got %+v", s, e)
		}
		again, err := parseServer(e.String())
		if err != nil || again != e {
			t.Fatalf("%q: read as %s, and that as %s, %v", s, e, again, err)
		}
	})
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost a.test # b.test\n::1 localhost\nfe80::1%lo0 x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, e := range parseHosts(data) {
			if n, ok := normalName(name); !ok || n != name {
				t.Errorf("%q is no normal name", name)
			}
			if len(e.answer.Addrs) == 0 || len(e.answer.Addrs) > hostsPerName {
				t.Errorf("%q has %d addresses", name, len(e.answer.Addrs))
			}
			for _, a := range e.answer.Addrs {
				if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
					t.Errorf("%q has the address %s", name, a)
				}
			}
		}
		if n := len(parseResolvConf(data)); n < 1 || n > maxNameservers {
			t.Errorf("got %d name servers", n)
		}
	})
}

// No answer, however odd, makes the reader panic or bring more than it may.
func FuzzReadAnswer(f *testing.F) {
	m := new(dns.Msg).SetQuestion("a.test.", dns.TypeA)
	m.Response = true
	for _, s := range []string{"a.test. 60 IN CNAME b.test.", "b.test. 60 IN A 127.0.0.1", "b.test. 60 IN AAAA ::1", "test. 1 IN SOA a. b. 1 1 1 1 1"} {
		r, err := dns.NewRR(s)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, r)
	}
	wire, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return
		}
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			h := readAnswer(m, "a.test", qtype)
			if len(h.addrs) > maxAddrs || len(h.aliases) > maxAliases || h.ttl < 0 {
				t.Fatalf("got %d addresses, %d aliases, TTL %s", len(h.addrs), len(h.aliases), h.ttl)
			}
			for _, a := range h.addrs {
				if a.Is4() != (qtype == dns.TypeA) {
					t.Fatalf("got %s in an answer of type %d", a, qtype)
				}
			}
		}
	})
}

func TestNewResolverRefuses(t *testing.T) {
	for want, o := range map[string]ResolverOptions{
		`DNS server "ns.test": not an address`:                      {Servers: []string{"ns.test"}},
		`fixed answer for "a..b": not a host name`:                  {Hosts: []Host{{"a..b", addrs("127.0.0.1")}}},
		`fixed answer for "a.test": give at least one address`:      {Hosts: []Host{{Name: "a.test"}}},
		`fixed answer for "a.test": "fe80::1%lo" is not an address`: {Hosts: []Host{{"a.test", addrs("fe80::1%lo")}}},
		`no value can be negative`:                                  {Timeout: -1},
		`the highest TTL, 1s, is below the lowest, 2s`:              {MinTTL: 2 * time.Second, MaxTTL: time.Second},
	} {
		if _, err := NewResolver(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v; want an error with %q", o, err, want)
		}
	}
}

// Every kind of server, also one that is given by name.
func TestLookupOverEveryTransport(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://"+closedPort(t).String()) // must not count
	cert, pool := certificate(t)
	z := newZone(t, "a.test. 60 IN A 127.0.0.1", "a.test. 60 IN AAAA ::1")
	plain := serveDNS(t, z)
	_, plainPort, _ := net.SplitHostPort(plain)
	dot, doh := serveDoT(t, z, cert), serveDoH(t, z, cert)
	_, dotPort, _ := net.SplitHostPort(dot.String())
	_, dohPort, _ := net.SplitHostPort(doh.String())
	for _, server := range []string{
		plain, "udp://" + plain, "tcp://" + plain, "udp://dns.test:" + plainPort,
		"tls://" + dot.String(), "tls://" + dot.String() + "#dns.test", "tls://dns.test:" + dotPort,
		"https://" + doh.String(), "https://" + doh.String() + "/dns-query#dns.test", "https://dns.test:" + dohPort + "/dns-query",
	} {
		r, _ := testResolver(t, ResolverOptions{Servers: []string{server}, RootCAs: pool, Hosts: []Host{{"dns.test", addrs("127.0.0.1")}}})
		wantAddrs(t, lookup(t, r, "a.test"), "::1", "127.0.0.1")
		lookupFails(t, r, "none.test", CodeDNSError, "NXDOMAIN")
	}
	for _, server := range []string{"tls://" + dot.String() + "#other.test", "https://" + doh.String() + "#other.test", "tls://" + plain} {
		r, _ := testResolver(t, ResolverOptions{Servers: []string{server}, RootCAs: pool, Timeout: 500 * time.Millisecond})
		if a, err := r.Lookup(t.Context(), "a.test"); err == nil {
			t.Errorf("%s: got %+v; want an error, as the certificate is for another name", server, a)
		}
	}
	if r, _ := testResolver(t, ResolverOptions{Servers: []string{"tls://" + dot.String()}}); true {
		e := lookupFails(t, r, "a.test", CodeDNSError, "")
		if !strings.Contains(e.Error(), "certificate") {
			t.Errorf("got %v; want the certificate as the cause", e)
		}
	}
}

// countingListener counts what it accepts.
type countingListener struct {
	net.Listener
	accepted atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

func TestTLSConnectionsAreKept(t *testing.T) {
	cert, pool := certificate(t)
	z := newZone(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &countingListener{Listener: inner}
	start(t, &dns.Server{Listener: tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}}), Handler: z})
	r, _ := testResolver(t, ResolverOptions{Servers: []string{"tls://" + l.Addr().String()}, RootCAs: pool})
	for _, name := range []string{"a.test", "b.test", "c.test", "d.test", "e.test"} {
		lookupFails(t, r, name, CodeDNSError, "NXDOMAIN")
	}
	if n := l.accepted.Load(); n > 2 {
		t.Errorf("got %d connections for ten questions, two at a time; want at most 2", n)
	}
}

// The server closes each connection after its first answer.
func TestKeptConnectionMayBeClosedByTheServer(t *testing.T) {
	z := newZone(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	start(t, &dns.Server{Listener: l, Handler: z, MaxTCPQueries: 1})
	r, _ := testResolver(t, ResolverOptions{Servers: []string{"tcp://" + l.Addr().String()}, Attempts: 1})
	for _, name := range []string{"a.test", "b.test", "c.test", "d.test"} {
		lookupFails(t, r, name, CodeDNSError, "NXDOMAIN")
	}
}

func TestHTTPSServerThatIsNone(t *testing.T) {
	cert, pool := certificate(t)
	var elsewhere atomic.Int32
	for name, h := range map[string]http.HandlerFunc{
		"error":    func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"web page": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) },
		"noise": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/dns-message")
			w.Write([]byte("noise"))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				elsewhere.Add(1)
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(h)
			s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			s.StartTLS()
			defer s.Close()
			r, _ := testResolver(t, ResolverOptions{Servers: []string{s.URL}, RootCAs: pool})
			lookupFails(t, r, "a.test", CodeDNSError, "")
		})
	}
	if elsewhere.Load() > 0 {
		t.Error("a redirect was followed")
	}
}
