package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// A proxy that is not there: whatever heeds these variables fails. net/http reads them once for each process.
	for _, v := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Setenv(v, "http://127.0.0.1:1")
	}
	os.Unsetenv("NO_PROXY")
	os.Unsetenv("no_proxy")
	goleak.VerifyTestMain(m,
		// One for each directory and account, for the life of the process; see Close.
		goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
		goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).permit"),
		// Of the ACME server of the tests, which has no way to stop.
		goleak.IgnoreTopFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"),
	)
}

// eventually polls until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("did not come about: %s", what)
		case <-tick.C:
		}
	}
}

// journal is a log that can be searched while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) count(s string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Count(j.b.Bytes(), []byte(s))
}

func (j *journal) has(s string) bool { return j.count(s) > 0 }

func newJournal(t *testing.T) (*journal, *slog.Logger) {
	j := new(journal)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", j.b.String())
		}
	})
	return j, slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// running builds and starts a manager, and closes it with the test.
func running(t *testing.T, o Options) *Manager {
	t.Helper()
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return m
}

// serve runs a TLS listener that answers each connection with one line. It returns its address.
func serve(t *testing.T, c *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, c)
	return l.Addr().String()
}

func serveOn(t *testing.T, l net.Listener, c *tls.Config) {
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				s := tls.Server(conn, c)
				if s.Handshake() != nil {
					return
				}
				who := "nobody"
				if v := s.ConnectionState().VerifiedChains; len(v) > 0 {
					who = v[0][0].Subject.CommonName
				}
				io.WriteString(s, who+"\n")
				s.Close()
			})
		}
	})
}

// shake does a handshake and reads the listener's line. Verification is on unless c says otherwise.
func shake(addr string, c *tls.Config) (tls.ConnectionState, string, error) {
	raw, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return tls.ConnectionState{}, "", err
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, c)
	if err := conn.Handshake(); err != nil {
		return tls.ConnectionState{}, "", err
	}
	line, err := io.ReadAll(conn)
	return conn.ConnectionState(), string(line), err
}

// leafAt returns the certificate served for a name, unverified.
func leafAt(t *testing.T, addr, name string) *x509.Certificate {
	t.Helper()
	s, _, err := shake(addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		t.Fatalf("handshake with %s as %q: %v", addr, name, err)
	}
	return s.PeerCertificates[0]
}

func poolOf(t *testing.T, b []byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(b) {
		t.Fatalf("no certificate in %q", b)
	}
	return p
}

// testCA signs what the world around the gateway needs.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newTestCA(t *testing.T) *testCA {
	t.Helper()
	bundle, err := newAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := new(authority)
	if err := a.parse(bundle); err != nil {
		t.Fatal(err)
	}
	return &testCA{a.cert, a.key.(*ecdsa.PrivateKey), a.certificatePEM()}
}

// pair signs a leaf for names (the first is the common name too) and returns chain and key as PEM.
func (c *testCA) pair(t *testing.T, notBefore, notAfter time.Time, names ...string) (chain, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, &key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// fresh is a pair that is good for a month.
func (c *testCA) fresh(t *testing.T, names ...string) (chain, key []byte) {
	t.Helper()
	return c.pair(t, time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour), names...)
}

func (c *testCA) tlsPair(t *testing.T, names ...string) tls.Certificate {
	t.Helper()
	p, err := tls.X509KeyPair(c.fresh(t, names...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// acmeWorld is an ACME server whose validators believe every name to be on loopback.
type acmeWorld struct {
	directory string
	rootFile  string         // what the directory's own certificate is verified against
	issued    *x509.CertPool // what its certificates are verified against
	dead      atomic.Bool    // the directory cuts every connection
	requests  atomic.Int64
}

// newACMEWorld runs the server until the test ends; validators go to the given ports of 127.0.0.1.
func newACMEWorld(t *testing.T, httpPort, tlsPort int, eab map[string]string) *acmeWorld {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	quiet := log.New(io.Discard, "", 0)
	mem := db.NewMemoryStore()
	for id, key := range eab {
		if err := mem.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatal(err)
		}
	}
	authority := ca.New(quiet, mem, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: 90 * 24 * 3600}})
	validator := va.New(quiet, httpPort, tlsPort, false, loopbackDNS(t), mem)
	front := wfe.New(quiet, mem, validator, authority, []string{"ca.test"}, false, len(eab) > 0, 0, 0)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := newTestCA(t)
	w := &acmeWorld{
		directory: "https://" + l.Addr().String() + wfe.DirectoryPath,
		rootFile:  write(t, filepath.Join(t.TempDir(), "root.pem"), own.pem),
		issued:    x509.NewCertPool(),
	}
	root, err := x509.ParseCertificate(authority.GetRootCert(0).DER)
	if err != nil {
		t.Fatal(err)
	}
	w.issued.AddCert(root)
	handler := front.Handler()
	srv := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.requests.Add(1)
			handler.ServeHTTP(rw, r)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{own.tlsPair(t, "127.0.0.1")}},
		ErrorLog:  quiet,
	}
	done := make(chan struct{})
	go func() { srv.ServeTLS(&mortal{l, &w.dead}, "", ""); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return w
}

// mortal is a listener that cuts what it accepts while dead is set.
type mortal struct {
	net.Listener
	dead *atomic.Bool
}

func (m *mortal) Accept() (net.Conn, error) {
	for {
		c, err := m.Listener.Accept()
		if err != nil || !m.dead.Load() {
			return c, err
		}
		c.Close()
	}
}

// loopbackDNS answers 127.0.0.1 to every A question, over TCP, and nothing to the rest.
func loopbackDNS(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			r.Answer = append(r.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   net.IPv4(127, 0, 0, 1),
			})
		}
		w.WriteMsg(r)
	})}
	up, done := make(chan struct{}), make(chan struct{})
	srv.NotifyStartedFunc = func() { close(up) }
	go func() { srv.ActivateAndServe(); close(done) }()
	<-up
	t.Cleanup(func() { srv.Shutdown(); <-done })
	return l.Addr().String()
}

// freePort returns a port of 127.0.0.1 that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
