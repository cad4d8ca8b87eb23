package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// issuer stands before the real issuer: it lets only configured names through, never asks a person, ends with the
// manager, and keeps what went wrong for Status.
type issuer struct {
	m    *managed
	ctx  context.Context
	next certmagic.Issuer
}

// errClosed is what an order gets that comes after Close.
var errClosed = errors.New("certs: closed")

func (i *issuer) IssuerKey() string { return i.next.IssuerKey() }

// PreCheck implements certmagic.PreChecker. Interactive is never passed on: it would ask for an email on stdin.
func (i *issuer) PreCheck(ctx context.Context, names []string, _ bool) error {
	if err := i.m.decide(names); err != nil {
		return err
	}
	if pc, ok := i.next.(certmagic.PreChecker); ok {
		return pc.PreCheck(ctx, names, false)
	}
	return nil
}

func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	names := slices.Clone(csr.DNSNames)
	for _, ip := range csr.IPAddresses {
		names = append(names, ip.String())
	}
	if err := i.m.decide(names); err != nil {
		return nil, err
	}
	ctx, leave, err := i.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	cert, err := i.next.Issue(ctx, csr)
	if i.ctx.Err() == nil {
		for _, n := range names {
			i.m.record(n, err)
		}
	}
	return cert, err
}

// GetRenewalInfo implements certmagic.RenewalInfoGetter (RFC 9773) for ACME.
func (i *issuer) GetRenewalInfo(ctx context.Context, cert certmagic.Certificate) (acme.RenewalInfo, error) {
	g, ok := i.next.(certmagic.RenewalInfoGetter)
	if !ok {
		return acme.RenewalInfo{}, errors.New("this issuer has no renewal information")
	}
	ctx, leave, err := i.enter(ctx)
	if err != nil {
		return acme.RenewalInfo{}, err
	}
	defer leave()
	return g.GetRenewalInfo(ctx, cert)
}

// enter counts a call, so that Close can wait for it, and ends it with the manager: certmagic's jobs run on
// contexts of their own.
func (i *issuer) enter(ctx context.Context) (context.Context, func(), error) {
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	if i.m.closed || i.ctx.Err() != nil {
		return nil, nil, errClosed
	}
	i.m.calls.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(i.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
		i.m.calls.Done()
	}, nil
}

// decide refuses every name that is not configured, whatever asked for it.
func (m *managed) decide(names []string) error {
	if len(names) == 0 {
		return certmagic.ErrNoRetry{Err: errors.New("request without a name")}
	}
	for _, n := range names {
		if !slices.Contains(m.o.Names, strings.ToLower(n)) {
			return certmagic.ErrNoRetry{Err: fmt.Errorf("name %q is not configured for listener %q", n, m.o.Listener)}
		}
	}
	return nil
}
