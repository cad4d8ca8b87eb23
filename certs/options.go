// Package certs keeps the certificates of the gateway's own TLS listeners: read from files, obtained by ACME, or
// signed by an internal issuer.
//
// It does not make certificates for inspected traffic: those are signed per name, in memory, by the door that
// inspects. It is the only package that knows certmagic.
//
// A listener never waits for an issuer. Until an ACME directory has answered, a short-lived self-signed certificate
// for the same names is served, and Status and the log say so.
package certs

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// Source says where the certificate of a listener comes from.
type Source string

// The sources of a certificate; one per listener.
const (
	SourceFiles    Source = "files"    // a PEM pair on disk, reloaded when it changes
	SourceACME     Source = "acme"     // an ACME directory (RFC 8555)
	SourceInternal Source = "internal" // a small authority of our own, its key in StorageDir
)

// Challenge types that can be answered, as ACME names them.
const (
	ChallengeHTTP01    = "http-01"     // RFC 8555 section 8.3
	ChallengeTLSALPN01 = "tls-alpn-01" // RFC 8737
)

// Options describes the certificate of one listener.
type Options struct {
	// Listener names the listener in logs and errors.
	Listener string
	// Source selects which of Files, ACME and Internal counts.
	Source Source
	// Names are the DNS names (A-labels) and, except for ACME, the IP addresses that the listener is reached by.
	// Only these are ever asked of an issuer. The first is served to a client that sends no name or another one.
	// For files they may be empty; if given, a certificate that lacks one of them is served with a warning.
	Names []string

	Files    Files
	ACME     ACME
	Internal Internal
	Clients  Clients

	// StorageDir holds account keys, certificates and the internal authority. It is made with mode 0700.
	// Needed for acme and internal; several listeners and processes may share one.
	StorageDir string
	// PollInterval is how often files are compared with what is served, beside the notices of the kernel,
	// which network file systems do not send. If zero, 30 s.
	PollInterval time.Duration
	// Logger receives what happens to certificates. If nil, nothing is logged.
	Logger *slog.Logger

	hooks hooks
}

// hooks are what tests change; the zero value is what production uses.
type hooks struct {
	now        func() time.Time                           // clock of the internal issuer
	retry      func(attempt int, err error) time.Duration // pause after a refused order
	renewCheck time.Duration                              // how often certmagic looks for what to renew
}

// Files is a PEM certificate chain (leaf first) and the key that belongs to it.
type Files struct {
	Cert string
	Key  string
}

// ACME says how to obtain certificates from a directory.
type ACME struct {
	// Directory is the https URL of the ACME directory. There is no default: the gateway calls nobody unasked.
	Directory string
	// Email is the contact of the account; it may be empty.
	Email string
	// AgreeTerms must be true: the operator agreed to the terms of the directory.
	AgreeTerms bool
	// RootFile is a PEM file with the roots that the directory's own certificate is verified against.
	// If empty, the roots of the system are used.
	RootFile string
	// EAB binds the account to one that exists at the issuer (RFC 8555 section 7.3.4).
	EAB EAB
	// Challenges lists what may be used to prove a name. If empty, both http-01 and tls-alpn-01.
	Challenges []string
	// ListenHost is the host part of the addresses at which challenges are answered. If empty, all addresses.
	ListenHost string
	// HTTPPort is where http-01 is answered. If zero, 80. While an order runs the port is opened if it is free;
	// if it is taken, whatever holds it is expected to serve HTTPChallengeHandler.
	HTTPPort int
	// TLSPort is where tls-alpn-01 is answered. If zero, 443. Set it to the port of the listener itself, which
	// then answers by TLSConfig; if the port is free it is opened while an order runs.
	TLSPort int
}

// EAB is an external account binding.
type EAB struct {
	KeyID  string
	MACKey string // base64url, as the issuer hands it out
}

// Internal says how the internal authority issues.
type Internal struct {
	// Lifetime of a leaf. If zero, 90 days; from 24 h to 90 days. A leaf is renewed when a third is left.
	Lifetime time.Duration
}

// ClientMode says whether clients must show a certificate.
type ClientMode string

// Modes of client certificates.
const (
	ClientsIgnored   ClientMode = ""        // none is asked for
	ClientsRequested ClientMode = "request" // verified if the client sends one
	ClientsRequired  ClientMode = "require" // no certificate, no connection
)

// Clients says how client certificates are verified. What was verified is in tls.ConnectionState.VerifiedChains.
type Clients struct {
	Mode ClientMode
	// CAFile is a PEM file with the authorities that sign client certificates; reloaded when it changes.
	CAFile string
}

const (
	defaultPoll     = 30 * time.Second
	maxLeafLifetime = 90 * 24 * time.Hour
	// Below a day the ten minutes between two looks for what to renew would be a large part of a lifetime.
	minLeafLifetime = 24 * time.Hour
)

// complete checks o and fills in the defaults.
func (o *Options) complete() error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("listener", o.Listener)
	if o.PollInterval <= 0 {
		o.PollInterval = defaultPoll
	}
	if o.hooks.now == nil {
		o.hooks.now = time.Now
	}
	if o.hooks.retry == nil {
		o.hooks.retry = retryAfter
	}
	names, err := normalNames(o.Names)
	if err != nil {
		return err
	}
	o.Names = names
	if err := o.Clients.check(); err != nil {
		return err
	}
	switch o.Source {
	case SourceFiles:
		if o.Files.Cert == "" || o.Files.Key == "" {
			return errors.New("source files: name both the certificate file and the key file")
		}
		return nil
	case SourceACME:
		if err := o.ACME.check(o.Names); err != nil {
			return fmt.Errorf("source acme: %w", err)
		}
	case SourceInternal:
		if err := o.Internal.check(); err != nil {
			return fmt.Errorf("source internal: %w", err)
		}
	default:
		return fmt.Errorf("source %q: write files, acme or internal", string(o.Source))
	}
	if len(o.Names) == 0 {
		return fmt.Errorf("source %s: no names; list the names clients reach the listener by", o.Source)
	}
	if o.StorageDir == "" {
		return fmt.Errorf("source %s: no storage directory; give one that survives a restart", o.Source)
	}
	return nil
}

func (a *ACME) check(names []string) error {
	u, err := url.Parse(a.Directory)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("directory %q: write an https URL", a.Directory)
	}
	if !a.AgreeTerms {
		return fmt.Errorf("directory %s: its terms must be agreed to; read them, then say so", a.Directory)
	}
	if (a.EAB.KeyID == "") != (a.EAB.MACKey == "") {
		return errors.New("external account binding: give both the key id and the MAC key")
	}
	// Some issuers hand the key out with padding; the ACME client takes it without.
	a.EAB.MACKey = strings.TrimRight(a.EAB.MACKey, "=")
	if _, err := base64.RawURLEncoding.DecodeString(a.EAB.MACKey); err != nil {
		return errors.New("external account binding: MAC key is not base64url; copy it as the issuer shows it")
	}
	if len(a.Challenges) == 0 {
		a.Challenges = []string{ChallengeHTTP01, ChallengeTLSALPN01}
	}
	for _, c := range a.Challenges {
		if c != ChallengeHTTP01 && c != ChallengeTLSALPN01 {
			return fmt.Errorf("challenge %q: write %s or %s", c, ChallengeHTTP01, ChallengeTLSALPN01)
		}
	}
	for _, p := range []int{a.HTTPPort, a.TLSPort} {
		if p < 0 || p > 65535 {
			return fmt.Errorf("challenge port %d: write 1 to 65535, or 0 for the default", p)
		}
	}
	for _, n := range names {
		if strings.HasPrefix(n, "*.") {
			return fmt.Errorf("name %q: http-01 and tls-alpn-01 can not prove a wildcard; list the names", n)
		}
		if _, err := netip.ParseAddr(n); err == nil {
			return fmt.Errorf("name %q: IP addresses only with files or internal", n)
		}
	}
	return nil
}

func (a *ACME) allows(challenge string) bool { return slices.Contains(a.Challenges, challenge) }

func (i *Internal) check() error {
	if i.Lifetime == 0 {
		i.Lifetime = maxLeafLifetime
	}
	if i.Lifetime < minLeafLifetime || i.Lifetime > maxLeafLifetime {
		return fmt.Errorf("lifetime %s: write %s to %s", i.Lifetime, minLeafLifetime, maxLeafLifetime)
	}
	return nil
}

// normalNames puts names into the one form that they are compared in.
func normalNames(in []string) ([]string, error) {
	var out []string
	for _, raw := range in {
		n, err := normalName(raw)
		if err != nil {
			return nil, fmt.Errorf("name %q: %w", raw, err)
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

func normalName(raw string) (string, error) {
	if ip, err := netip.ParseAddr(raw); err == nil {
		if ip.Zone() != "" {
			return "", errors.New("a certificate can not hold a zone; write the address without it")
		}
		return ip.Unmap().String(), nil
	}
	n := strings.TrimSuffix(strings.ToLower(raw), ".")
	if strings.ContainsFunc(n, func(r rune) bool { return r > 0x7f }) {
		if a, err := idna.Lookup.ToASCII(n); err == nil {
			return "", fmt.Errorf("write its A-label %q", a)
		}
		return "", errors.New("not a host name")
	}
	if len(n) > 253 {
		return "", errors.New("longer than 253 bytes")
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(n, "*."), ".") {
		if label == "" || len(label) > 63 {
			return "", errors.New("a label is empty or longer than 63 bytes")
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", errors.New("not a host name; a star may only be the whole first label")
		}
	}
	return n, nil
}

// Check says what is wrong with o, without reading a file or asking anybody.
func (o Options) Check() error { return o.complete() }
