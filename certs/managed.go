package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// managed obtains and renews by certmagic, from an ACME directory or from the internal authority.
type managed struct {
	o         Options
	store     *storage
	roots     *x509.CertPool // of the ACME directory; nil for the system's
	authority *authority     // nil for ACME
	standIn   standIn

	cache *certmagic.Cache
	magic atomic.Pointer[certmagic.Config]     // nil until start
	acme  atomic.Pointer[certmagic.ACMEIssuer] // nil until start, and for internal

	mu       sync.Mutex
	failures map[string]failure
	closed   bool
	calls    sync.WaitGroup // orders under way
}

const (
	// closeWait bounds how long Close waits for an order: a directory that hangs must not hold up a shutdown.
	closeWait = 5 * time.Second
	// internalWait bounds the first asking of the internal issuer, which only waits for a lock of the storage.
	internalWait = 10 * time.Second
)

func newManaged(o Options) (*managed, error) {
	m := &managed{o: o, failures: make(map[string]failure), standIn: standIn{names: o.Names}}
	var err error
	if m.store, err = openStorage(o.StorageDir, o.Logger); err != nil {
		return nil, err
	}
	if o.Source == SourceInternal {
		m.authority, err = openAuthority(m.store, o)
		return m, err
	}
	if o.ACME.RootFile != "" {
		if m.roots, _, err = readPool(o.ACME.RootFile); err != nil {
			return nil, fmt.Errorf("ACME directory %s: %w", o.ACME.Directory, err)
		}
	}
	return m, nil
}

// start makes the certmagic parts, whose cache has a goroutine of its own, and asks for what is missing.
func (m *managed) start(ctx context.Context, wg *sync.WaitGroup, changed func()) {
	log := zapOnto(m.o.Logger)
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.magic.Load(), nil },
		RenewCheckInterval: m.o.hooks.renewCheck,
		Logger:             log,
	})
	iss := &issuer{m: m, ctx: ctx}
	cfg := certmagic.New(m.cache, certmagic.Config{
		Issuers:   []certmagic.Issuer{iss},
		KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Storage:   m.store,
		// An egress gateway calls nobody it was not told to; large issuers have given OCSP up besides.
		OCSP:       certmagic.OCSPConfig{DisableStapling: true},
		DisableARI: m.authority != nil,
		OnEvent:    m.event,
		Logger:     log,
	})
	if m.authority != nil {
		iss.next = m.authority
	} else {
		am := m.acmeIssuer(cfg)
		iss.next = am
		m.acme.Store(am)
	}
	m.magic.Store(cfg)
	m.manage(ctx, cfg, wg, changed)
}

func (m *managed) acmeIssuer(cfg *certmagic.Config) *certmagic.ACMEIssuer {
	a := m.o.ACME
	t := certmagic.ACMEIssuer{
		CA:                      a.Directory,
		Email:                   a.Email,
		Agreed:                  a.AgreeTerms,
		TrustedRoots:            m.roots,
		DisableHTTPChallenge:    !a.allows(ChallengeHTTP01),
		DisableTLSALPNChallenge: !a.allows(ChallengeTLSALPN01),
		ListenHost:              a.ListenHost,
		AltHTTPPort:             a.HTTPPort,
		AltTLSALPNPort:          a.TLSPort,
		// The variables HTTP_PROXY and the like may well name this very gateway.
		HTTPProxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Logger:    cfg.Logger,
	}
	if a.EAB.KeyID != "" {
		t.ExternalAccount = &acme.EAB{KeyID: a.EAB.KeyID, MACKey: a.EAB.MACKey}
	}
	return certmagic.NewACMEIssuer(cfg, t)
}

// manage takes what the storage has and asks for the rest, in the background unless the issuer is our own.
func (m *managed) manage(ctx context.Context, cfg *certmagic.Config, wg *sync.WaitGroup, changed func()) {
	var stored bool
	for _, name := range m.o.Names {
		if m.authority != nil {
			c, cancel := context.WithTimeout(ctx, internalWait)
			m.record(name, cfg.ManageSync(c, []string{name}))
			cancel()
		} else if _, err := cfg.CacheManagedCertificate(ctx, name); err == nil {
			stored = true
		}
		if m.best(name) == nil {
			wg.Go(func() { m.obtain(ctx, cfg, name, changed) })
		}
	}
	if stored {
		// Without this, what expired while we were away would be served until the next round of maintenance.
		wg.Go(func() { m.cache.RenewManagedCertificates(ctx) })
	}
}

// obtain asks for name until there is a certificate or ctx ends. Renewal is the work of certmagic's maintenance.
func (m *managed) obtain(ctx context.Context, cfg *certmagic.Config, name string, changed func()) {
	for attempt := 0; ; attempt++ {
		err := cfg.ManageSync(ctx, []string{name})
		if ctx.Err() != nil {
			return
		}
		if m.best(name) != nil {
			m.record(name, err)
			changed()
			return
		}
		if err == nil {
			err = errors.New("the issuer gave a certificate that is not for this name")
		}
		m.record(name, err)
		pause := m.o.hooks.retry(attempt, err)
		m.o.Logger.Warn("certificate not obtained; a self-signed one is served meanwhile",
			"name", name, "error", err, "attempt", attempt+1, "retry_in", pause.Round(time.Second))
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// retryAfter is the pause before the next order. An issuer that was not reached is tried again soon. One that
// answered and refused counts refusals (Let's Encrypt: five failed validations per name and hour), so it is left
// alone for longer.
func retryAfter(attempt int, err error) time.Duration {
	pause, most := 2*time.Second, 5*time.Minute
	var refused acme.Problem
	if errors.As(err, &refused) {
		pause, most = 5*time.Minute, 6*time.Hour
		if refused.Type == acme.ProblemTypeRateLimited {
			pause = time.Hour
		}
	}
	pause = min(pause<<min(attempt, 12), most)
	// Gateways that lost one directory together should not come back together.
	return pause + rand.N(pause/10)
}

// event hears from certmagic's maintenance, whose failures would else be seen in Status alone.
func (m *managed) event(_ context.Context, name string, data map[string]any) error {
	if renewal, _ := data["renewal"].(bool); name == "cert_failed" && renewal {
		m.o.Logger.Warn("certificate not renewed; it will be tried again",
			"name", data["identifier"], "error", data["error"], "remaining", data["remaining"])
	}
	return nil
}

func (m *managed) record(name string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.failures, name)
		return
	}
	m.failures[name] = failure{err, time.Now()}
}

func (m *managed) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	done := make(chan struct{})
	go func() {
		m.calls.Wait()
		close(done)
	}()
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		m.o.Logger.Warn("an order at the ACME directory did not end in time; it is left behind", "directory", m.o.ACME.Directory)
	}
	m.cache.Stop()
}
