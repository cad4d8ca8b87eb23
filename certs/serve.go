package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
)

// acmeTLS1 is the protocol name of a tls-alpn-01 validation (RFC 8737 section 6.2).
const acmeTLS1 = "acme-tls/1"

// TLSConfig returns the configuration of the listener: TLS 1.2 at least, the certificate in force at each handshake,
// client certificates as Options.Clients asks, and answers to tls-alpn-01. nextProtos are what the caller speaks
// (h2, http/1.1), in order of preference. The result may be used before Start, and by many connections.
func (m *Manager) TLSConfig(nextProtos ...string) *tls.Config {
	base := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     nextProtos,
		GetCertificate: m.source.certificate,
	}
	validation := m.validationConfig()
	if m.clients == nil && validation == nil {
		return base
	}
	var current atomic.Pointer[tls.Config]
	forClients := func() *tls.Config {
		if m.clients == nil {
			return nil
		}
		pool := m.clients.pool.Load()
		if c := current.Load(); c != nil && c.ClientCAs == pool {
			return c
		}
		c := base.Clone()
		c.GetConfigForClient = nil
		m.clients.require(c, pool)
		current.Store(c)
		return c
	}
	if m.clients != nil {
		// Also in the outer configuration: whoever inspects or clones it must not see an open door.
		m.clients.require(base, m.clients.pool.Load())
	}
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if validation != nil && isValidation(hello) {
			return validation, nil
		}
		return forClients(), nil
	}
	return base
}

func (c *clientCAs) require(t *tls.Config, pool *x509.CertPool) {
	t.ClientCAs = pool
	t.ClientAuth = tls.VerifyClientCertIfGiven
	if c.opts.Mode == ClientsRequired {
		t.ClientAuth = tls.RequireAndVerifyClientCert
	}
}

func isValidation(h *tls.ClientHelloInfo) bool {
	return h.ServerName != "" && slices.Equal(h.SupportedProtos, []string{acmeTLS1})
}

// errValidated ends a validation handshake once the validator has seen what it came for.
var errValidated = errors.New("acme-tls/1: the validation is over, nothing is spoken after it")

// validationConfig is for the ACME server's own connections, or nil if it does not come this way.
//
// Such a client shows no certificate, and anybody can say acme-tls/1. It must not become a way around client
// certificates, so the connection is cut as its handshake ends: in TLS 1.3 after our Finished, which is all that a
// validator waits for. In TLS 1.2 the cut would come before it; there the validation goes through only where no
// client certificate is required, and is then an ordinary connection without one.
func (m *Manager) validationConfig() *tls.Config {
	if m.opts.Source != SourceACME || !m.opts.ACME.allows(ChallengeTLSALPN01) {
		return nil
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{acmeTLS1},
		SessionTicketsDisabled: true,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			cfg := m.managed.magic.Load()
			if cfg == nil || !slices.Contains(m.opts.Names, strings.ToLower(h.ServerName)) {
				return nil, errors.New("acme-tls/1: no order is under way")
			}
			return cfg.GetCertificate(h)
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.Version >= tls.VersionTLS13 || m.opts.Clients.Mode == ClientsRequired {
				return errValidated
			}
			return nil
		},
	}
}

// certificate picks by the name the client sent, or by the address it reached us at.
func (m *managed) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := m.best(m.pick(h)); c != nil {
		return c, nil
	}
	return m.standIn.get()
}

// pick returns the configured name that h is for. A name that is not ours gets the first: the client will say what
// is wrong better than an alert would.
func (m *managed) pick(h *tls.ClientHelloInfo) string {
	want := strings.TrimSuffix(strings.ToLower(h.ServerName), ".")
	if want == "" && h.Conn != nil {
		if a, ok := h.Conn.LocalAddr().(*net.TCPAddr); ok {
			ip, _ := netip.AddrFromSlice(a.IP)
			want = ip.Unmap().String()
		}
	}
	for _, n := range m.o.Names {
		if n == want {
			return n
		}
	}
	for _, n := range m.o.Names {
		if strings.HasPrefix(n, "*.") && certmagic.MatchWildcard(want, n) {
			return n
		}
	}
	return m.o.Names[0]
}

// best returns the certificate of a configured name that is valid longest, or nil.
func (m *managed) best(name string) *tls.Certificate {
	if m.magic.Load() == nil {
		return nil
	}
	var best *tls.Certificate
	for _, c := range m.cache.AllMatchingCertificates(name) {
		if c.Leaf != nil && (best == nil || c.Leaf.NotAfter.After(best.Leaf.NotAfter)) {
			best = &c.Certificate
		}
	}
	return best
}

func (m *managed) status() []Status {
	var out []Status
	for _, n := range m.o.Names {
		m.mu.Lock()
		failed := m.failures[n]
		m.mu.Unlock()
		s := Status{Name: n, Source: m.o.Source}
		failed.fill(&s)
		if c := m.best(n); c != nil {
			s.describe(c.Leaf, time.Now())
		} else if c, err := m.standIn.get(); err == nil {
			s.describe(c.Leaf, time.Now())
			s.State, s.Why = StateSelfSigned, "a self-signed certificate is served until the issuer has answered"
			if failed.err != nil {
				s.Why = "a self-signed certificate is served: the last order failed; it will be tried again"
			}
		} else {
			s.State, s.LastError = StateSelfSigned, err.Error()
		}
		out = append(out, s)
	}
	return out
}
