package config

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"sluice/certs"
	"sluice/gateway"
)

// tls makes the certificate options of a listener; nil if it speaks no TLS.
func (b *builder) tls(path, listener, address string, t TLS) *certs.Options {
	if t.Source == "" {
		if !reflect.DeepEqual(t, TLS{}) {
			b.fail(path+".source", "is missing; write files, acme or internal")
		}
		return nil
	}
	before := len(b.errs)
	o := &certs.Options{
		Listener: listener, Names: t.Names, StorageDir: filepath.Join(b.stateDir(), "certs"),
		Clients: certs.Clients{CAFile: t.ClientCA},
	}
	if t.ClientCA != "" {
		o.Clients.Mode = certs.ClientsRequired
		if t.ClientAuth != "" && b.oneOf(path+".client_auth", "TLS.client_auth", t.ClientAuth) {
			o.Clients.Mode = certs.ClientMode(t.ClientAuth)
		}
	} else if t.ClientAuth != "" {
		b.fail(path+".client_auth", "needs client_ca: the authority that signs the clients' certificates")
	}
	if !b.oneOf(path+".source", "TLS.source", t.Source) {
		return nil
	}
	o.Source = certs.Source(t.Source)
	switch o.Source {
	case certs.SourceFiles:
		o.Files = certs.Files{Cert: t.Cert, Key: t.Key}
		b.need(path+".cert", t.Cert)
		b.need(path+".key", t.Key)
	case certs.SourceACME:
		o.ACME = certs.ACME{Directory: t.Directory, Email: t.Email, AgreeTerms: true, RootFile: t.CARoot}
		if _, port, err := net.SplitHostPort(address); err == nil {
			o.ACME.TLSPort, _ = strconv.Atoi(port)
		}
		b.need(path+".directory", t.Directory)
	}
	if o.Source != certs.SourceFiles && len(t.Names) == 0 {
		b.fail(path+".names", "say which names the certificate is for")
	}
	if len(b.errs) == before {
		if err := o.Check(); err != nil {
			b.fail(path, "%v", err)
		}
	}
	return o
}

func (b *builder) need(path, value string) {
	if value == "" {
		b.fail(path, "is missing")
	}
}

// admin checks the rule that an admin listener which others can reach asks
// who they are, over TLS.
func (b *builder) admin() gateway.Admin {
	a := b.l.File.Admin
	if a.Address == "" || a.Address == none {
		return gateway.Admin{}
	}
	b.address("admin.address", a.Address)
	o := gateway.Admin{Address: a.Address, TLS: b.tls("admin.tls", "admin", a.Address, a.TLS)}
	if a.TokenFile != "" {
		token, err := os.ReadFile(a.TokenFile)
		o.Token = strings.TrimSpace(string(token))
		switch {
		case err != nil:
			b.fail("admin.token_file", "%s: %s", a.TokenFile, notReadable(err))
		case len(o.Token) < 16:
			b.fail("admin.token_file", "%s holds fewer than 16 characters; make one with `openssl rand -hex 24`", a.TokenFile)
		}
	}
	host, _, err := net.SplitHostPort(a.Address)
	if ip, _ := netip.ParseAddr(host); err != nil || ip.IsLoopback() {
		return o
	}
	clientCerts := o.TLS != nil && o.TLS.Clients.Mode == certs.ClientsRequired
	if o.Token == "" && a.TokenFile == "" && !clientCerts {
		b.fail("admin.address", "%s can be reached by others: set admin.token_file or admin.tls.client_ca, or listen on 127.0.0.1", a.Address)
	}
	if o.TLS == nil {
		b.fail("admin.tls", "%s can be reached by others: set admin.tls, or listen on 127.0.0.1", a.Address)
	}
	return o
}
