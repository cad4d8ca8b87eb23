package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func internalOptions(t *testing.T, dir string, names ...string) (Options, *journal) {
	j, log := newJournal(t)
	return Options{Listener: "admin", Source: SourceInternal, Names: names, StorageDir: dir, Logger: log}, j
}

func TestInternalIssuerServesEveryName(t *testing.T) {
	names := []string{"admin.internal-one.test", "*.pods.internal-one.test", "127.0.0.1", "::1"}
	o, _ := internalOptions(t, t.TempDir(), names...)
	m := running(t, o)
	addr := serve(t, m.TLSConfig("h2", "http/1.1"))
	roots := poolOf(t, m.CACertificate())
	for _, name := range []string{"admin.internal-one.test", "a.pods.internal-one.test", "127.0.0.1"} {
		// Right after Start: nothing is waited for, and no stand-in is seen.
		s, _, err := shake(addr, &tls.Config{ServerName: name, RootCAs: roots})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		leaf := s.PeerCertificates[0]
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life > maxLeafLifetime+backdate+time.Second {
			t.Errorf("%s: the leaf lives %s; want 90 days", name, life)
		}
		if leaf.IsCA || s.Version != tls.VersionTLS13 {
			t.Errorf("%s: authority %t, %s", name, leaf.IsCA, tls.VersionName(s.Version))
		}
	}
	st := m.Status()
	if len(st) != len(names) {
		t.Fatalf("%d statuses for %d names", len(st), len(names))
	}
	for i, s := range st {
		if s.Name != names[i] || s.State != StateValid || s.LastError != "" || !strings.HasPrefix(s.Issuer, "Sluice internal CA") {
			t.Errorf("status = %+v", s)
		}
	}
}

func TestInternalAuthorityIsKeptAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	o, _ := internalOptions(t, dir, "admin.internal-two.test")
	first, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	second, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if string(first.CACertificate()) != string(second.CACertificate()) {
		t.Error("a second manager made a second authority")
	}
	if block, rest := pem.Decode(first.CACertificate()); block.Type != "CERTIFICATE" || len(rest) != 0 {
		t.Errorf("exported a %s and %d bytes more; want a certificate alone", block.Type, len(rest))
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, authorityKey): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %s", path, fi.Mode().Perm(), err, want)
		}
	}
	// Many processes that start together make one authority.
	dir = t.TempDir()
	o.StorageDir = dir
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 8 {
		wg.Go(func() {
			m, err := New(o)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[string(m.CACertificate())] = true
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("%d authorities in one storage", len(seen))
	}
}

func TestInternalAuthorityThatIsBroken(t *testing.T) {
	good, err := newAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := newAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	old, err := newAuthority(time.Now().Add(-authorityLifetime - time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	certOf := func(b []byte) []byte { block, _ := pem.Decode(b); return pem.EncodeToMemory(block) }
	keyOf := func(b []byte) []byte { _, rest := pem.Decode(b); return rest }
	leafChain, leafKey := newTestCA(t).fresh(t, "leaf.test")
	for _, c := range []struct {
		name   string
		bundle []byte
		want   string
	}{
		{"empty", nil, "no certificate in it"},
		{"no key", certOf(good), "no private key in it"},
		{"key of another", append(certOf(good), keyOf(other)...), "does not belong to the certificate"},
		{"no authority", append(leafChain, leafKey...), "not one of an authority"},
		{"expired", old, "expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "internal"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, authorityKey), c.bundle)
			o, _ := internalOptions(t, dir, "admin.test")
			_, err := New(o)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "remove") || !strings.Contains(err.Error(), authorityKey) {
				t.Errorf("error = %v; want %q, the file and the next step", err, c.want)
			}
		})
	}
}

func TestInternalAuthorityThatIsReplacedSignsAnew(t *testing.T) {
	const name = "admin.internal-three.test"
	dir := t.TempDir()
	o, _ := internalOptions(t, dir, name)
	m := running(t, o)
	m.Close()
	if err := os.Remove(filepath.Join(dir, authorityKey)); err != nil {
		t.Fatal(err)
	}
	m = running(t, o)
	if _, _, err := shake(serve(t, m.TLSConfig()), &tls.Config{ServerName: name, RootCAs: poolOf(t, m.CACertificate())}); err != nil {
		t.Errorf("with a new authority: %v", err)
	}
}

func TestInternalRenewalOfANearlyExpiredLeafAtStart(t *testing.T) {
	const name = "admin.internal-four.test"
	o, j := internalOptions(t, t.TempDir(), name)
	o.hooks.now = func() time.Time { return time.Now().Add(-85 * 24 * time.Hour) }
	m := running(t, o)
	old := leafAt(t, serve(t, m.TLSConfig()), name)
	if st := m.Status()[0]; st.State != StateExpiring || !j.has("certificate in service is expiring") {
		t.Errorf("status = %+v; want expiring, and the log to say so", st)
	}
	m.Close()

	o.hooks.now = nil
	m = running(t, o)
	leaf := leafAt(t, serve(t, m.TLSConfig()), name)
	if leaf.SerialNumber.Cmp(old.SerialNumber) == 0 || time.Until(leaf.NotAfter) < 80*24*time.Hour {
		t.Errorf("after a restart the leaf ends %s; want a new one", leaf.NotAfter)
	}
}

func TestInternalRenewalWhileServing(t *testing.T) {
	const name = "admin.internal-five.test"
	o, _ := internalOptions(t, t.TempDir(), name)
	var behind atomic.Int64 // how far the issuer's clock lags
	behind.Store(int64(85 * 24 * time.Hour))
	o.hooks.now = func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) }
	o.hooks.renewCheck = 20 * time.Millisecond
	m := running(t, o)
	addr := serve(t, m.TLSConfig())
	roots := poolOf(t, m.CACertificate())
	behind.Store(0)
	eventually(t, "a fresh leaf takes over", func() bool {
		s, _, err := shake(addr, &tls.Config{ServerName: name, RootCAs: roots})
		if err != nil {
			t.Fatalf("a handshake was lost on the way: %v", err)
		}
		return time.Until(s.PeerCertificates[0].NotAfter) > 80*24*time.Hour
	})
	if st := m.Status()[0]; st.State != StateValid {
		t.Errorf("status = %+v", st)
	}
}

func TestInternalIssuerWithAStorageThatFails(t *testing.T) {
	const name = "admin.internal-six.test"
	dir := t.TempDir()
	o, _ := internalOptions(t, dir, name)
	o.hooks.retry = func(int, error) time.Duration { return 10 * time.Millisecond }
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	// A file where a directory must be: this stops root as well.
	blocker := write(t, filepath.Join(dir, "certificates"), nil)
	if err := m.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	addr := serve(t, m.TLSConfig())
	if leaf := leafAt(t, addr, name); !strings.Contains(leaf.Subject.CommonName, "self-signed") {
		t.Errorf("served %s; want the self-signed one", leaf.Subject)
	}
	if st := m.Status()[0]; st.State != StateSelfSigned || st.LastError == "" {
		t.Errorf("status = %+v; want the error", st)
	}
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	roots := poolOf(t, m.CACertificate())
	eventually(t, "the real certificate takes over", func() bool {
		_, _, err := shake(addr, &tls.Config{ServerName: name, RootCAs: roots})
		return err == nil
	})
}

func TestBeforeStartASelfSignedCertificateIsServed(t *testing.T) {
	o, _ := internalOptions(t, t.TempDir(), "admin.internal-seven.test", "127.0.0.1")
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafAt(t, serve(t, m.TLSConfig()), "admin.internal-seven.test")
	for _, n := range o.Names {
		if err := leaf.VerifyHostname(n); err != nil {
			t.Error(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(context.Background()); err == nil {
		t.Error("Start after Close did not fail")
	}
}

func TestCloseStopsEverything(t *testing.T) {
	here := goleak.IgnoreCurrent()
	dir := t.TempDir()
	chain, key := newTestCA(t).fresh(t, "proxy.sluice.test")
	writePair(t, dir, chain, key)
	fo, _ := fileOptions(t, dir)
	io, _ := internalOptions(t, t.TempDir(), "admin.internal-eight.test")
	for _, o := range []Options{fo, io} {
		ctx, cancel := context.WithCancel(context.Background())
		m, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
		cancel() // the end of the context alone must not break Close
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if len(m.Status()) != 1 {
			t.Error("no status after Close")
		}
	}
	goleak.VerifyNone(t, here)
}

// tool returns the path of a program, or skips; in CI its absence is a failure.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func TestOpenSSLVerifiesTheListener(t *testing.T) {
	openssl := tool(t, "openssl")
	const name = "admin.internal-nine.test"
	clients := newTestCA(t)
	dir := t.TempDir()
	o, _ := internalOptions(t, filepath.Join(dir, "storage"), name, "127.0.0.1")
	o.Clients = Clients{Mode: ClientsRequested, CAFile: write(t, filepath.Join(dir, "clients.pem"), clients.pem)}
	m := running(t, o)
	addr := serve(t, m.TLSConfig("h2", "http/1.1"))
	root := write(t, filepath.Join(dir, "root.pem"), m.CACertificate())
	chain, key := clients.fresh(t, "laptop-1")
	cert := []string{"-cert", write(t, filepath.Join(dir, "c.crt"), chain), "-key", write(t, filepath.Join(dir, "c.key"), key)}
	for _, c := range []struct {
		name string
		args []string
		want []string
		fail bool
	}{
		{"by name, TLS 1.3", []string{"-servername", name, "-verify_hostname", name, "-tls1_3", "-alpn", "h2"}, []string{"ALPN protocol: h2", "TLSv1.3", "nobody"}, false},
		{"by name, TLS 1.2", []string{"-servername", name, "-verify_hostname", name, "-tls1_2"}, []string{"TLSv1.2", "nobody"}, false},
		{"by address, without SNI", []string{"-noservername", "-verify_ip", "127.0.0.1"}, []string{"nobody"}, false},
		{"with a client certificate", append([]string{"-servername", name}, cert...), []string{"laptop-1"}, false},
		{"TLS 1.1 is refused", []string{"-servername", name, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, nil, true},
		{"another name does not verify", []string{"-servername", "x.test", "-verify_hostname", "x.test"}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			args := append([]string{"s_client", "-connect", addr, "-CAfile", root, "-verify_return_error", "-ign_eof"}, c.args...)
			out, err := exec.CommandContext(ctx, openssl, args...).CombinedOutput()
			if (err != nil) != c.fail {
				t.Fatalf("openssl: %v\n%s", err, out)
			}
			for _, w := range c.want {
				if !strings.Contains(string(out), w) {
					t.Errorf("output lacks %q:\n%s", w, out)
				}
			}
		})
	}
}

func TestTheAuthorityRefusesAForgedRequest(t *testing.T) {
	o, _ := internalOptions(t, t.TempDir(), "admin.internal-ten.test")
	m := running(t, o)
	_, err := m.managed.authority.Issue(t.Context(), &x509.CertificateRequest{DNSNames: o.Names})
	if err == nil {
		t.Error("a request without a signature was signed")
	}
}
