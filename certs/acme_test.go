package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

func (w *acmeWorld) options(t *testing.T, name string, a ACME) Options {
	_, log := newJournal(t)
	a.Directory, a.RootFile, a.AgreeTerms, a.ListenHost = w.directory, w.rootFile, true, "127.0.0.1"
	return Options{
		Listener: "proxy", Source: SourceACME, Names: []string{name}, ACME: a, StorageDir: t.TempDir(), Logger: log,
		hooks: hooks{retry: func(int, error) time.Duration { return 20 * time.Millisecond }},
	}
}

// arrives waits until the listener serves what the directory issued, verified.
func (w *acmeWorld) arrives(t *testing.T, addr, name string, client ...tls.Certificate) tls.ConnectionState {
	t.Helper()
	var s tls.ConnectionState
	eventually(t, "the certificate of the directory is served for "+name, func() bool {
		var err error
		s, _, err = shake(addr, &tls.Config{ServerName: name, RootCAs: w.issued, Certificates: client})
		return err == nil
	})
	return s
}

func TestACMEByHTTPChallenge(t *testing.T) {
	t.Run("answered by the handler the caller mounted", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		w := newACMEWorld(t, port, 1, nil)
		m, err := New(w.options(t, "mounted.sluice.test", ACME{Challenges: []string{ChallengeHTTP01}, HTTPPort: port}))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		srv := &http.Server{Handler: m.HTTPChallengeHandler(http.NotFoundHandler())}
		done := make(chan struct{})
		go func() { srv.Serve(l); close(done) }()
		defer func() { srv.Close(); <-done }()

		addr := serve(t, m.TLSConfig("h2", "http/1.1"))
		if err := m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.arrives(t, addr, "mounted.sluice.test")
		st := m.Status()[0]
		if st.State != StateValid || st.Why != "" || st.LastError != "" {
			t.Errorf("status = %+v; want valid, no reason, no error", st)
		}
	})
	t.Run("answered on a port opened for the order", func(t *testing.T) {
		port := freePort(t)
		w := newACMEWorld(t, port, 1, nil)
		m := running(t, w.options(t, "opened.sluice.test", ACME{Challenges: []string{ChallengeHTTP01}, HTTPPort: port}))
		w.arrives(t, serve(t, m.TLSConfig()), "opened.sluice.test")
	})
	t.Run("with an external account", func(t *testing.T) {
		const mac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
		port := freePort(t)
		w := newACMEWorld(t, port, 1, map[string]string{"kid-1": mac})
		m := running(t, w.options(t, "bound.sluice.test", ACME{HTTPPort: port, Challenges: []string{ChallengeHTTP01}, EAB: EAB{"kid-1", mac}}))
		w.arrives(t, serve(t, m.TLSConfig()), "bound.sluice.test")
	})
}

func TestACMEByTLSChallengeOnTheListenerItself(t *testing.T) {
	clients := newTestCA(t)
	caFile := write(t, filepath.Join(t.TempDir(), "clients.pem"), clients.pem)
	for _, c := range []struct {
		name, host string
		clients    Clients
	}{
		{"no client certificates", "alpn.sluice.test", Clients{}},
		{"client certificates required", "alpn-mtls.sluice.test", Clients{Mode: ClientsRequired, CAFile: caFile}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			port := l.Addr().(*net.TCPAddr).Port
			w := newACMEWorld(t, 1, port, nil)
			o := w.options(t, c.host, ACME{Challenges: []string{ChallengeTLSALPN01}, TLSPort: port})
			o.Clients = c.clients
			m, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			serveOn(t, l, m.TLSConfig("h2"))
			if err := m.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			w.arrives(t, l.Addr().String(), c.host, clients.tlsPair(t, "laptop-1"))
		})
	}
}

func TestACMEByTLSChallengeOnAPortOpenedForTheOrder(t *testing.T) {
	port := freePort(t)
	w := newACMEWorld(t, 1, port, nil)
	m := running(t, w.options(t, "alpn-opened.sluice.test", ACME{Challenges: []string{ChallengeTLSALPN01}, TLSPort: port}))
	w.arrives(t, serve(t, m.TLSConfig("h2")), "alpn-opened.sluice.test")
}

func TestACMEValidationIsNoWayAroundClientCertificates(t *testing.T) {
	clients := newTestCA(t)
	w := newACMEWorld(t, 1, 1, nil)
	w.dead.Store(true)
	j, log := newJournal(t)
	const host = "guarded.sluice.test"
	o := w.options(t, host, ACME{Challenges: []string{ChallengeTLSALPN01}, TLSPort: freePort(t)})
	o.Logger = log
	o.Clients = Clients{Mode: ClientsRequired, CAFile: write(t, filepath.Join(t.TempDir(), "clients.pem"), clients.pem)}
	m := running(t, o)
	addr := serve(t, m.TLSConfig("http/1.1"))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		_, line, err := shake(addr, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{acmeTLS1}, MaxVersion: version})
		if err == nil || line != "" {
			t.Errorf("%s: a stranger that says acme-tls/1 read %q, error %v; want a cut connection", tls.VersionName(version), line, err)
		}
	}
	if j.has("level=WARN msg=\"tls-alpn challenge\"") {
		t.Error("a stranger can fill the log with warnings")
	}
	before := j.count("tls-alpn challenge")
	if _, _, err := shake(addr, &tls.Config{ServerName: "x.test", InsecureSkipVerify: true, NextProtos: []string{acmeTLS1}}); err == nil {
		t.Error("a validation for a foreign name was answered")
	}
	if j.count("tls-alpn challenge") != before {
		t.Error("a foreign name was looked up in the storage")
	}
	// The same while a validation could be under way: the handshake may complete, what follows it may not.
	cfg := m.validationConfig()
	cfg.GetCertificate = m.source.certificate
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, cfg)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s, line, err := shake(l.Addr().String(), &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{acmeTLS1}, MaxVersion: version})
		if err == nil || line != "" {
			t.Errorf("%s: read %q, error %v; want nothing to follow a validation", tls.VersionName(version), line, err)
		}
		if version == tls.VersionTLS13 && s.NegotiatedProtocol != acmeTLS1 {
			t.Errorf("TLS 1.3: the validator negotiated %q; want %q before the cut", s.NegotiatedProtocol, acmeTLS1)
		}
	}
}

func TestACMEDirectoryThatIsDeadAtFirst(t *testing.T) {
	const host = "late.sluice.test"
	port := freePort(t)
	w := newACMEWorld(t, port, 1, nil)
	w.dead.Store(true)
	j, log := newJournal(t)
	o := w.options(t, host, ACME{Challenges: []string{ChallengeHTTP01}, HTTPPort: port})
	o.Logger = log
	m := running(t, o)
	addr := serve(t, m.TLSConfig())

	leaf := leafAt(t, addr, host)
	if leaf.VerifyHostname(host) != nil || leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil {
		t.Errorf("served %q for %v; want a self-signed certificate for %s", leaf.Subject, leaf.DNSNames, host)
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 48*time.Hour {
		t.Errorf("the self-signed certificate lives %s; want it short", life)
	}
	eventually(t, "status tells what is served, and the error", func() bool {
		st := m.Status()[0]
		return st.State == StateSelfSigned && st.LastError != "" && strings.Contains(st.Why, "self-signed") && !st.LastErrorAt.IsZero()
	})
	if !j.has("certificate in service is self signed") {
		t.Error("the log does not say that a self-signed certificate is served")
	}

	w.dead.Store(false)
	w.arrives(t, addr, host)
	eventually(t, "the log says that the real one is in service", func() bool { return j.has("msg=\"certificate in service\"") })
	if st := m.Status()[0]; st.State != StateValid || st.LastError != "" {
		t.Errorf("status = %+v; want valid, the error forgotten", st)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}

	// After a restart the stored certificate is served from the first handshake, whatever the directory does.
	w.dead.Store(true)
	before := w.requests.Load()
	m2 := running(t, o)
	if st := m2.Status()[0]; st.State != StateValid {
		t.Errorf("right after a restart: %+v; want the stored certificate", st)
	}
	if _, _, err := shake(serve(t, m2.TLSConfig()), &tls.Config{ServerName: host, RootCAs: w.issued}); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if n := w.requests.Load() - before; n != 0 {
		t.Errorf("a dead directory answered %d requests", n)
	}
}

func TestACMEDirectoryThatNeverAnswersHoldsUpNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it accepts by its backlog and says nothing
	_, log := newJournal(t)
	m := running(t, Options{
		Listener: "proxy", Source: SourceACME, Names: []string{"silent.sluice.test"}, StorageDir: t.TempDir(), Logger: log,
		ACME: ACME{Directory: "https://" + l.Addr().String() + "/dir", AgreeTerms: true},
	})
	// Start has returned and the directory has not said a word: that is the proof.
	if leaf := leafAt(t, serve(t, m.TLSConfig()), "silent.sluice.test"); leaf.VerifyHostname("silent.sluice.test") != nil {
		t.Errorf("served %v", leaf.DNSNames)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestACMEIgnoresProxyVariables(t *testing.T) {
	w := newACMEWorld(t, 1, 1, nil)
	w.dead.Store(true)
	m := running(t, w.options(t, "direct.sluice.test", ACME{}))
	// Asked for a directory elsewhere: net/http never proxies loopback. TestMain has set the variables.
	r := &http.Request{URL: &url.URL{Scheme: "https", Host: "acme.sluice.test", Path: "/dir"}}
	if u, err := http.ProxyFromEnvironment(r); u == nil {
		t.Fatalf("the variables are not in force: %v", err)
	}
	if u, err := m.managed.acme.Load().HTTPProxy(r); u != nil || err != nil {
		t.Errorf("proxy = %v, %v; want none", u, err)
	}
}

func TestOnlyConfiguredNamesAreOrdered(t *testing.T) {
	port := freePort(t)
	w := newACMEWorld(t, port, 1, nil)
	m := running(t, w.options(t, "ours.sluice.test", ACME{Challenges: []string{ChallengeHTTP01}, HTTPPort: port}))
	addr := serve(t, m.TLSConfig())
	w.arrives(t, addr, "ours.sluice.test")
	before := w.requests.Load()
	for _, sni := range []string{"theirs.sluice.test", "sub.ours.sluice.test", "xn--nxasmq6b.test", ""} {
		if leaf := leafAt(t, addr, sni); leaf.VerifyHostname("ours.sluice.test") != nil {
			t.Errorf("SNI %q was served %v; want the certificate of the first name", sni, leaf.DNSNames)
		}
	}
	if n := w.requests.Load() - before; n != 0 {
		t.Errorf("foreign names caused %d requests to the directory", n)
	}
	err := m.managed.magic.Load().ManageSync(context.Background(), []string{"theirs.sluice.test"})
	if err == nil || !strings.Contains(err.Error(), `"theirs.sluice.test" is not configured`) {
		t.Errorf("an order for a foreign name: %v; want a refusal", err)
	}
}

func TestRetryAfterGivesAnIssuerTimeAfterARefusal(t *testing.T) {
	refused := acme.Problem{Type: acme.ProblemTypeUnauthorized}
	limited := acme.Problem{Type: acme.ProblemTypeRateLimited}
	for _, c := range []struct {
		name    string
		attempt int
		err     error
		from    time.Duration
	}{
		{"not reached, first", 0, errors.New("refused"), 2 * time.Second},
		{"not reached, fourth", 3, errors.New("refused"), 16 * time.Second},
		{"not reached, for long", 1000, errors.New("refused"), 5 * time.Minute},
		{"refused, first", 0, refused, 5 * time.Minute},
		{"refused, for long", 1000, refused, 6 * time.Hour},
		{"rate limited", 0, limited, time.Hour},
	} {
		if got := retryAfter(c.attempt, c.err); got < c.from || got > c.from+c.from/10 {
			t.Errorf("%s: %s; want %s and at most a tenth more", c.name, got, c.from)
		}
	}
}

func TestStorageIsForTheOwnerAlone(t *testing.T) {
	port := freePort(t)
	w := newACMEWorld(t, port, 1, nil)
	o := w.options(t, "modes.sluice.test", ACME{Challenges: []string{ChallengeHTTP01}, HTTPPort: port})
	o.StorageDir = filepath.Join(t.TempDir(), "state", "certs")
	m := running(t, o)
	w.arrives(t, serve(t, m.TLSConfig()), "modes.sluice.test")
	var keys int
	err := filepath.WalkDir(o.StorageDir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, fi.Mode())
		}
		if strings.HasSuffix(path, ".key") {
			keys++
		}
		return nil
	})
	if err != nil || keys < 2 {
		t.Errorf("found %d keys (%v); want those of the account and the certificate", keys, err)
	}
}
