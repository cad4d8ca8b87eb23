package certs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// files serves a PEM pair and follows its changes.
type files struct {
	o   Options
	log *slog.Logger

	mu      sync.RWMutex
	current *tls.Certificate
	tried   [sha256.Size]byte // what was last read, good or not
	failed  failure           // of the last reading
}

// loadFiles reads the pair for the first time.
func loadFiles(o Options) (*files, error) {
	f := &files{o: o, log: o.Logger}
	cert, tried, err := readPair(o.Files)
	if err != nil {
		return nil, err
	}
	f.current, f.tried = cert, tried
	f.missing(cert)
	return f, nil
}

func (f *files) start(ctx context.Context, wg *sync.WaitGroup, changed func()) {
	wg.Go(func() {
		watch(ctx, f.o, []string{f.o.Files.Cert, f.o.Files.Key}, func() {
			if f.reload() {
				changed()
			}
		})
	})
}

func (f *files) close() {}

func (f *files) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.current, nil
}

// reload takes the pair on disk if it changed and is good, and tells whether it did.
func (f *files) reload() bool {
	cert, tried, err := readPair(f.o.Files)
	f.mu.Lock()
	defer f.mu.Unlock()
	if tried == f.tried {
		return false
	}
	f.tried = tried
	if err != nil {
		f.failed = failure{err, time.Now()}
		f.log.Error("changed certificate is not usable; the last good one is served",
			"error", err, "not_after", f.current.Leaf.NotAfter)
		return false
	}
	back := f.failed.err != nil
	f.failed = failure{}
	if bytes.Equal(cert.Leaf.Raw, f.current.Leaf.Raw) && back {
		f.log.Info("the certificate on disk is usable again", "file", f.o.Files.Cert)
	}
	f.current = cert
	f.missing(cert)
	return true
}

// missing warns of configured names that the certificate lacks.
func (f *files) missing(cert *tls.Certificate) {
	for _, n := range f.o.Names {
		if err := cert.Leaf.VerifyHostname(strings.Replace(n, "*", "any", 1)); err != nil {
			f.log.Warn("certificate lacks a name of the listener; clients that use it will refuse it",
				"file", f.o.Files.Cert, "name", n)
		}
	}
}

func (f *files) status() []Status {
	f.mu.RLock()
	defer f.mu.RUnlock()
	leaf := f.current.Leaf
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	s := Status{Name: strings.Join(names, " "), Source: SourceFiles}
	s.describe(leaf, time.Now())
	if f.failed.err != nil {
		f.failed.fill(&s)
		s.Why = strings.TrimPrefix(s.Why+"; the pair on disk is not usable, the last good one is served", "; ")
	}
	return []Status{s}
}

// readPair reads and checks a pair. The sum tells one reading from another, also when it failed.
func readPair(p Files) (*tls.Certificate, [sha256.Size]byte, error) {
	chain, err := readPEM(p.Cert)
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), fmt.Errorf("certificate: %w; give a PEM chain, leaf first", err)
	}
	key, err := readPEM(p.Key)
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), fmt.Errorf("certificate key: %w; give the PEM key of %s", err, p.Cert)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d ", len(chain))
	h.Write(chain)
	h.Write(key)
	sum := [sha256.Size]byte(h.Sum(nil))
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, sum, fmt.Errorf("certificate %s with key %s: %w; %s", p.Cert, p.Key, err, advice(key, err))
	}
	if cert.Leaf == nil {
		return nil, sum, fmt.Errorf("certificate %s: %w", p.Cert, errors.New("no leaf"))
	}
	return &cert, sum, nil
}

// advice is the next step for a pair that is not usable.
func advice(key []byte, err error) string {
	switch {
	case bytes.Contains(key, []byte("ENCRYPTED")):
		return "the key has a passphrase; write it without one: openssl pkey -in KEY -out KEY.plain"
	case strings.Contains(err.Error(), "does not match"):
		return "give the key that belongs to the first certificate of the chain"
	default:
		return "give a PEM chain, leaf first, and its PEM key"
	}
}
