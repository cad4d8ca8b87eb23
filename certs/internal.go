package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	// authorityKey names the file of the internal authority in the storage: certificate and key in one file, so
	// that a crash can not leave one without the other.
	authorityKey      = "internal/ca.pem"
	authorityLifetime = 10 * 365 * 24 * time.Hour
	authorityLock     = "internal_ca"
	// A listener can not start without its authority, but another process needs only milliseconds to make it.
	authorityWait = 10 * time.Second
)

// authority is the internal issuer: a certmagic.Issuer that signs by itself.
//
// It is not constrained to the configured names: adding a name to a listener would then need a new root in every
// client.
type authority struct {
	cert     *x509.Certificate
	key      crypto.Signer
	lifetime time.Duration
	now      func() time.Time
}

// openAuthority loads the authority of the storage, or makes it.
func openAuthority(st *storage, o Options) (*authority, error) {
	ctx, cancel := context.WithTimeout(context.Background(), authorityWait)
	defer cancel()
	if err := st.Lock(ctx, authorityLock); err != nil {
		return nil, fmt.Errorf("internal authority: %w", err)
	}
	defer st.Unlock(ctx, authorityLock)

	path := st.Filename(authorityKey)
	bundle, err := st.Load(ctx, authorityKey)
	if errors.Is(err, fs.ErrNotExist) {
		if bundle, err = newAuthority(o.hooks.now()); err == nil {
			err = st.Store(ctx, authorityKey, bundle)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("internal authority %s: %w", path, err)
	}
	a := &authority{lifetime: o.Internal.Lifetime, now: o.hooks.now}
	if err := a.parse(bundle); err != nil {
		return nil, fmt.Errorf("internal authority %s: %w; restore the file, or remove it to make a new one that clients must trust anew", path, err)
	}
	return a, a.warn(path, o.Logger)
}

// newAuthority makes the certificate and key as one PEM file.
func newAuthority(now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		// The number tells two authorities apart in a trust store.
		Subject:               pkix.Name{Organization: []string{"Sluice"}, CommonName: fmt.Sprintf("Sluice internal CA %08x", serial.Uint64()>>32)},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...), nil
}

func (a *authority) parse(bundle []byte) error {
	chain, err := parseChain(bundle)
	if err != nil {
		return err
	}
	a.cert = chain[0]
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.New("no private key in it")
		}
		if block.Type != "PRIVATE KEY" {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return err
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return fmt.Errorf("a %T can not sign", key)
		}
		a.key = signer
		break
	}
	pub, ok := a.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(a.cert.PublicKey) {
		return errors.New("the key does not belong to the certificate")
	}
	if !a.cert.IsCA {
		return errors.New("the certificate is not one of an authority")
	}
	return nil
}

// warn refuses an authority that expired, and speaks up a year before.
func (a *authority) warn(path string, log *slog.Logger) error {
	left := a.cert.NotAfter.Sub(a.now())
	if left <= 0 {
		return fmt.Errorf("internal authority %s: expired %s; remove the file to make a new one that clients must trust anew",
			path, a.cert.NotAfter.Format(time.DateOnly))
	}
	if left < 365*24*time.Hour {
		log.Warn("the internal authority expires within a year; plan its replacement", "file", path, "not_after", a.cert.NotAfter)
	}
	return nil
}

func (a *authority) certificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// IssuerKey names the place of our certificates in the storage. It holds the authority's fingerprint, so that a new
// authority does not go on serving what the old one signed.
func (a *authority) IssuerKey() string {
	sum := sha256.Sum256(a.cert.Raw)
	return "internal-" + hex.EncodeToString(sum[:8])
}

// Issue signs a leaf for the names of the request. The caller has checked the names.
func (a *authority) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	now := a.now()
	until := now.Add(a.lifetime)
	if until.After(a.cert.NotAfter) {
		until = a.cert.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Sluice"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              until,
		DNSNames:              csr.DNSNames,
		IPAddresses:           csr.IPAddresses,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	return &certmagic.IssuedCertificate{Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}
