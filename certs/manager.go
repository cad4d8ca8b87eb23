package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// source is one way to come by a certificate.
type source interface {
	// start begins what runs in the background and ends with ctx; it returns without waiting for an issuer.
	// changed is called when what is served has changed.
	start(ctx context.Context, wg *sync.WaitGroup, changed func())
	// certificate returns what to serve for a hello; never nil without an error.
	certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
	// status tells what certificate serves, and why.
	status() []Status
	// close is called once the context of start has ended.
	close()
}

// Manager serves and renews the certificate of one listener. Make it with New.
type Manager struct {
	opts    Options
	source  source
	managed *managed // the source again, if it is acme or internal
	clients *clientCAs
	said    states

	mu     sync.Mutex
	cancel context.CancelFunc
	closed bool
	wg     sync.WaitGroup
}

// New checks the options, reads the files they name, and makes the internal authority if there is none yet.
// It starts nothing; what it returns can already serve, with a self-signed certificate for acme and internal.
// A pair of files that is broken is an error here: there is no good one to keep yet.
func New(o Options) (*Manager, error) {
	m, err := build(o)
	if err != nil {
		return nil, fmt.Errorf("certificate of listener %q: %w", o.Listener, err)
	}
	return m, nil
}

func build(o Options) (*Manager, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	m := &Manager{opts: o}
	if o.Clients.Mode != ClientsIgnored {
		clients, err := loadClientCAs(o.Clients, o.Logger)
		if err != nil {
			return nil, err
		}
		m.clients = clients
	}
	if o.Source == SourceFiles {
		f, err := loadFiles(o)
		if err != nil {
			return nil, err
		}
		m.source = f
		return m, nil
	}
	mg, err := newManaged(o)
	if err != nil {
		return nil, err
	}
	m.source, m.managed = mg, mg
	return m, nil
}

// Start begins to watch, obtain and renew. It does not wait for an issuer: what the storage has is served at once,
// the internal issuer is asked at once, and an ACME directory is asked in the background until it answers.
// The work ends when ctx ends or Close is called; call Close in either case.
func (m *Manager) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.cancel != nil {
		return errors.New("certs: Start is called once, before Close")
	}
	ctx, m.cancel = context.WithCancel(ctx)
	m.source.start(ctx, &m.wg, m.say)
	m.say()
	if m.clients != nil {
		m.wg.Go(func() { watch(ctx, m.opts, []string{m.opts.Clients.CAFile}, m.clients.reload) })
	}
	m.wg.Go(func() { m.keepSaying(ctx) })
	return nil
}

// Close stops all work and waits for it. The last certificate can still be served.
//
// Two things of certmagic outlive it: one idle goroutine per directory and account (its rate limiter, shared by the
// whole process), and an idle connection to the directory until the directory closes it.
func (m *Manager) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if m.cancel == nil {
		return nil
	}
	m.cancel()
	m.wg.Wait()
	m.source.close()
	return nil
}

// Status tells, for each certificate of the listener, what is served and why.
func (m *Manager) Status() []Status { return m.source.status() }

// CACertificate returns the certificate of the internal authority as PEM, for clients to trust.
// It is nil for the other sources.
func (m *Manager) CACertificate() []byte {
	if m.managed == nil || m.managed.authority == nil {
		return nil
	}
	return m.managed.authority.certificatePEM()
}

// HTTPChallengeHandler answers http-01 requests that belong to an order of this manager, or of another process that
// shares its storage, and passes everything else to next.
func (m *Manager) HTTPChallengeHandler(next http.Handler) http.Handler {
	if m.managed == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if iss := m.managed.acme.Load(); iss != nil && iss.HandleHTTPChallenge(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

// keepSaying looks at the clock now and then: a certificate expires without any event.
func (m *Manager) keepSaying(ctx context.Context) {
	t := time.NewTicker(m.opts.PollInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			m.say()
		}
	}
}

// say logs what changed in Status since the last time.
func (m *Manager) say() { m.said.say(m.opts.Logger, m.source.status()) }
