package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
)

func (c Clients) check() error {
	switch {
	case c.Mode == ClientsIgnored && c.CAFile != "":
		return errors.New("client certificates: an authority but no mode; write request or require")
	case c.Mode == ClientsIgnored:
		return nil
	case c.Mode != ClientsRequested && c.Mode != ClientsRequired:
		return fmt.Errorf("client certificates: mode %q; write request or require", string(c.Mode))
	case c.CAFile == "":
		return fmt.Errorf("client certificates: mode %s needs a file with the authorities that sign them", c.Mode)
	}
	return nil
}

// clientCAs are the authorities that client certificates are verified against.
type clientCAs struct {
	opts Clients
	log  *slog.Logger
	pool atomic.Pointer[x509.CertPool]

	mu    sync.Mutex
	tried [sha256.Size]byte
}

func loadClientCAs(o Clients, log *slog.Logger) (*clientCAs, error) {
	pool, tried, err := readPool(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("client certificates: %w", err)
	}
	c := &clientCAs{opts: o, log: log, tried: tried}
	c.pool.Store(pool)
	return c, nil
}

// reload takes the authorities on disk if they changed and are good.
func (c *clientCAs) reload() {
	pool, tried, err := readPool(c.opts.CAFile)
	c.mu.Lock()
	defer c.mu.Unlock()
	if tried == c.tried {
		return
	}
	c.tried = tried
	if err != nil {
		c.log.Error("changed authorities of clients are not usable; the last good ones count", "error", err)
		return
	}
	c.pool.Store(pool)
	c.log.Info("authorities of clients reloaded", "file", c.opts.CAFile)
}

// readPool reads a file of authorities. One broken certificate spoils the file: half a list would lock people out
// without a word.
func readPool(path string) (*x509.CertPool, [sha256.Size]byte, error) {
	b, err := readPEM(path)
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), fmt.Errorf("authorities: %w; give a PEM file", err)
	}
	sum := sha256.Sum256(b)
	certs, err := parseChain(b)
	if err != nil {
		return nil, sum, fmt.Errorf("authorities %s: %w; give a PEM file of CA certificates", path, err)
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, sum, nil
}
