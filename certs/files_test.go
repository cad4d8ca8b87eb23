package certs

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// noPoll keeps polling out of a test that is about the notices of the kernel.
const noPoll = time.Hour

func fileOptions(t *testing.T, dir string) (Options, *journal) {
	j, log := newJournal(t)
	return Options{
		Listener: "proxy", Source: SourceFiles, PollInterval: noPoll, Logger: log,
		Files: Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")},
	}, j
}

func writePair(t *testing.T, dir string, chain, key []byte) {
	t.Helper()
	write(t, filepath.Join(dir, "tls.key"), key)
	write(t, filepath.Join(dir, "tls.crt"), chain)
}

// swap replaces a symbolic link in one step, as the kubelet does with ..data.
func swap(t *testing.T, link, target string) {
	t.Helper()
	tmp := link + "_tmp"
	if err := os.Symlink(target, tmp); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, link); err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreFollowed(t *testing.T) {
	ca := newTestCA(t)
	for _, c := range []struct {
		name string
		// prepare puts the first pair into dir and returns what replaces it by the second.
		prepare func(t *testing.T, dir string, chain1, key1, chain2, key2 []byte) func()
		poll    time.Duration
	}{
		{"written in place", func(t *testing.T, dir string, c1, k1, c2, k2 []byte) func() {
			writePair(t, dir, c1, k1)
			return func() { writePair(t, dir, c2, k2) }
		}, noPoll},
		{"renamed over", func(t *testing.T, dir string, c1, k1, c2, k2 []byte) func() {
			writePair(t, dir, c1, k1)
			return func() {
				for name, b := range map[string][]byte{"tls.key": k2, "tls.crt": c2} {
					if err := os.Rename(write(t, filepath.Join(dir, name+".new"), b), filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}, noPoll},
		{"links of a Kubernetes Secret", func(t *testing.T, dir string, c1, k1, c2, k2 []byte) func() {
			for _, v := range []struct {
				dir        string
				chain, key []byte
			}{{"..v1", c1, k1}, {"..v2", c2, k2}} {
				if err := os.Mkdir(filepath.Join(dir, v.dir), 0o700); err != nil {
					t.Fatal(err)
				}
				writePair(t, filepath.Join(dir, v.dir), v.chain, v.key)
			}
			swap(t, filepath.Join(dir, "..data"), "..v1")
			swap(t, filepath.Join(dir, "tls.crt"), "..data/tls.crt")
			swap(t, filepath.Join(dir, "tls.key"), "..data/tls.key")
			return func() { swap(t, filepath.Join(dir, "..data"), "..v2") }
		}, noPoll},
		{"behind a link out of the directory, by polling", func(t *testing.T, dir string, c1, k1, c2, k2 []byte) func() {
			far := t.TempDir()
			writePair(t, far, c1, k1)
			swap(t, filepath.Join(dir, "tls.crt"), filepath.Join(far, "tls.crt"))
			swap(t, filepath.Join(dir, "tls.key"), filepath.Join(far, "tls.key"))
			return func() { writePair(t, far, c2, k2) }
		}, 20 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			chain1, key1 := ca.fresh(t, "proxy.sluice.test", "127.0.0.1")
			chain2, key2 := ca.fresh(t, "proxy.sluice.test", "127.0.0.1", "second.sluice.test")
			replace := c.prepare(t, dir, chain1, key1, chain2, key2)
			o, _ := fileOptions(t, dir)
			o.PollInterval = c.poll
			o.Names = []string{"proxy.sluice.test", "127.0.0.1"}
			m := running(t, o)
			addr := serve(t, m.TLSConfig("h2"))
			roots := poolOf(t, ca.pem)
			for _, name := range o.Names {
				s, _, err := shake(addr, &tls.Config{ServerName: name, RootCAs: roots, NextProtos: []string{"h2"}})
				if err != nil || s.NegotiatedProtocol != "h2" {
					t.Fatalf("%s: %v, protocol %q", name, err, s.NegotiatedProtocol)
				}
			}
			replace()
			eventually(t, "the second pair is served", func() bool {
				_, _, err := shake(addr, &tls.Config{ServerName: "second.sluice.test", RootCAs: roots})
				return err == nil
			})
			if st := m.Status()[0]; st.State != StateValid || st.Name != "proxy.sluice.test second.sluice.test 127.0.0.1" {
				t.Errorf("status = %+v", st)
			}
		})
	}
}

func TestFilesKeepTheLastGoodPair(t *testing.T) {
	ca := newTestCA(t)
	chain1, key1 := ca.fresh(t, "proxy.sluice.test")
	chain2, key2 := ca.fresh(t, "second.sluice.test")
	for _, c := range []struct {
		name    string
		ruin    func(t *testing.T, o Options)
		message string
	}{
		{"key of another certificate", func(t *testing.T, o Options) { write(t, o.Files.Key, key2) }, "private key does not match public key"},
		{"half a file", func(t *testing.T, o Options) { write(t, o.Files.Cert, chain1[:len(chain1)/2]) }, "failed to find any PEM data"},
		{"file gone", func(t *testing.T, o Options) {
			if err := os.Remove(o.Files.Key); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writePair(t, dir, chain1, key1)
			o, j := fileOptions(t, dir)
			o.PollInterval = 20 * time.Millisecond
			m := running(t, o)
			addr := serve(t, m.TLSConfig())
			c.ruin(t, o)
			eventually(t, "status tells of the broken pair", func() bool { return strings.Contains(m.Status()[0].LastError, c.message) })
			if st := m.Status()[0]; st.State != StateValid || !strings.Contains(st.Why, "last good one is served") {
				t.Errorf("status = %+v; want a valid certificate and the reason", st)
			}
			said := j.count("level=ERROR")
			for range 3 {
				m.source.(*files).reload()
			}
			if n := j.count("level=ERROR"); said == 0 || n != said {
				t.Errorf("the log has %d errors, and %d after three more looks; want it said once", said, n)
			}
			if leaf := leafAt(t, addr, "proxy.sluice.test"); leaf.VerifyHostname("proxy.sluice.test") != nil {
				t.Errorf("served %v", leaf.DNSNames)
			}
			writePair(t, dir, chain2, key2)
			eventually(t, "a good pair is taken again", func() bool {
				st := m.Status()[0]
				return st.Name == "second.sluice.test" && st.LastError == ""
			})
		})
	}
}

func TestFilesThatAreBrokenAtStart(t *testing.T) {
	ca := newTestCA(t)
	chain, key := ca.fresh(t, "proxy.sluice.test")
	_, other := ca.fresh(t, "proxy.sluice.test")
	for _, c := range []struct {
		name       string
		chain, key []byte
		want       []string
	}{
		{"mismatch", chain, other, []string{"tls.crt", "tls.key", "does not match", "give the key that belongs to the first certificate"}},
		{"certificate missing", nil, key, []string{"tls.crt", "no such file", "give a PEM chain"}},
		{"key missing", chain, nil, []string{"tls.key", "no such file", "give the PEM key of"}},
		{"swapped", key, chain, []string{"tls.crt", "give a PEM chain, leaf first, and its PEM key"}},
		{"key with a passphrase", chain, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"), []string{"passphrase", "openssl pkey"}},
		{"not a certificate but a disk", make([]byte, maxPEM+1), key, []string{"tls.crt", "is it the right file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _ := fileOptions(t, t.TempDir())
			if c.chain != nil {
				write(t, o.Files.Cert, c.chain)
			}
			if c.key != nil {
				write(t, o.Files.Key, c.key)
			}
			_, err := New(o)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range append(c.want, `listener "proxy"`) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
		})
	}
}

func TestFilesThatTheClockHasOverrunAreServedAndSaid(t *testing.T) {
	ca := newTestCA(t)
	now := time.Now()
	day := 24 * time.Hour
	for _, c := range []struct {
		name     string
		from, to time.Time
		want     State
		said     string
	}{
		{"expired", now.Add(-90 * day), now.Add(-day), StateExpired, "certificate in service is expired"},
		{"nearly", now.Add(-90 * day), now.Add(day), StateExpiring, "certificate in service is expiring"},
		{"not yet", now.Add(day), now.Add(90 * day), StateNotYetValid, "certificate in service is not yet valid"},
		{"good", now.Add(-day), now.Add(90 * day), StateValid, "level=INFO msg=\"certificate in service\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			chain, key := ca.pair(t, c.from, c.to, "proxy.sluice.test")
			writePair(t, dir, chain, key)
			o, j := fileOptions(t, dir)
			m := running(t, o)
			if st := m.Status()[0]; st.State != c.want || (st.Why == "") != (c.want == StateValid) {
				t.Errorf("status = %+v; want %s", st, c.want)
			}
			if !j.has(c.said) {
				t.Errorf("the log does not say %q", c.said)
			}
			leafAt(t, serve(t, m.TLSConfig()), "proxy.sluice.test")
		})
	}
}

func TestFilesThatLackAConfiguredName(t *testing.T) {
	dir := t.TempDir()
	chain, key := newTestCA(t).fresh(t, "proxy.sluice.test", "*.wild.sluice.test")
	writePair(t, dir, chain, key)
	o, j := fileOptions(t, dir)
	o.Names = []string{"PROXY.sluice.test.", "*.wild.sluice.test", "other.sluice.test", "192.0.2.1"}
	running(t, o)
	if n := j.count("certificate lacks a name"); n != 2 || !j.has("name=other.sluice.test") || !j.has("name=192.0.2.1") {
		t.Errorf("%d names reported; want other.sluice.test and 192.0.2.1", n)
	}
}
