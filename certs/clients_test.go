package certs

import (
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestClientCertificates(t *testing.T) {
	ours, theirs := newTestCA(t), newTestCA(t)
	good, bad := ours.tlsPair(t, "laptop-1"), theirs.tlsPair(t, "intruder")
	var expired tls.Certificate
	{
		var err error
		if expired, err = tls.X509KeyPair(ours.pair(t, time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour), "laptop-0")); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		mode ClientMode
		cert *tls.Certificate
		who  string // empty: refused
	}{
		{"ignored, none", ClientsIgnored, nil, "nobody"},
		{"ignored, one of ours", ClientsIgnored, &good, "nobody"},
		{"requested, none", ClientsRequested, nil, "nobody"},
		{"requested, one of ours", ClientsRequested, &good, "laptop-1"},
		{"requested, of another authority", ClientsRequested, &bad, ""},
		{"required, none", ClientsRequired, nil, ""},
		{"required, one of ours", ClientsRequired, &good, "laptop-1"},
		{"required, of another authority", ClientsRequired, &bad, ""},
		{"required, expired", ClientsRequired, &expired, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			chain, key := ours.fresh(t, "proxy.sluice.test")
			writePair(t, dir, chain, key)
			o, _ := fileOptions(t, dir)
			if c.mode != ClientsIgnored {
				o.Clients = Clients{Mode: c.mode, CAFile: write(t, filepath.Join(dir, "clients.pem"), ours.pem)}
			}
			m := running(t, o)
			addr := serve(t, m.TLSConfig())
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				conf := &tls.Config{ServerName: "proxy.sluice.test", RootCAs: poolOf(t, ours.pem), MaxVersion: version}
				if c.cert != nil {
					// Whatever the listener asks for: a client need not be polite.
					conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
				}
				_, who, err := shake(addr, conf)
				if c.who == "" && (err == nil || who != "") {
					t.Errorf("%s: was let in as %q, error %v", tls.VersionName(version), who, err)
				}
				if c.who != "" && (err != nil || who != c.who+"\n") {
					t.Errorf("%s: was let in as %q, error %v; want %s", tls.VersionName(version), who, err, c.who)
				}
			}
		})
	}
}

func TestClientAuthoritiesAreFollowed(t *testing.T) {
	first, second := newTestCA(t), newTestCA(t)
	dir := t.TempDir()
	chain, key := first.fresh(t, "proxy.sluice.test")
	writePair(t, dir, chain, key)
	o, j := fileOptions(t, dir)
	o.Clients = Clients{Mode: ClientsRequired, CAFile: write(t, filepath.Join(dir, "clients.pem"), first.pem)}
	m := running(t, o)
	addr := serve(t, m.TLSConfig())

	// One client keeps its session, and must not get in by it after its authority is gone.
	session := tls.NewLRUClientSessionCache(1)
	enter := func(ca *testCA, cache tls.ClientSessionCache) error {
		_, _, err := shake(addr, &tls.Config{
			ServerName: "proxy.sluice.test", RootCAs: poolOf(t, first.pem), ClientSessionCache: cache,
			Certificates: []tls.Certificate{ca.tlsPair(t, "laptop-1")},
		})
		return err
	}
	if err := enter(first, session); err != nil {
		t.Fatal(err)
	}
	if err := enter(second, nil); err == nil {
		t.Fatal("the second authority counts before it is named")
	}
	write(t, o.Clients.CAFile, []byte("no authority"))
	eventually(t, "the broken file is said", func() bool { return j.has("the last good ones count") })
	if err := enter(first, nil); err != nil {
		t.Errorf("with a broken file: %v; want the last good authorities to count", err)
	}
	write(t, o.Clients.CAFile, second.pem)
	eventually(t, "the second authority counts", func() bool { return enter(second, nil) == nil })
	if err := enter(first, session); err == nil {
		t.Error("a client of the first authority is let in by its old session")
	}
}

func TestClientOptionsThatAreWrong(t *testing.T) {
	dir := t.TempDir()
	chain, key := newTestCA(t).fresh(t, "proxy.sluice.test")
	writePair(t, dir, chain, key)
	empty := write(t, filepath.Join(dir, "empty.pem"), nil)
	for _, c := range []struct {
		name    string
		clients Clients
		want    string
	}{
		{"authority without mode", Clients{CAFile: empty}, "write request or require"},
		{"mode without authority", Clients{Mode: ClientsRequired}, "needs a file"},
		{"unknown mode", Clients{Mode: "maybe", CAFile: empty}, `mode "maybe"`},
		{"file that is missing", Clients{Mode: ClientsRequired, CAFile: filepath.Join(dir, "none.pem")}, "no such file"},
		{"file without a certificate", Clients{Mode: ClientsRequired, CAFile: empty}, "empty.pem: no certificate in it"},
	} {
		o, _ := fileOptions(t, dir)
		o.Clients = c.clients
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}
