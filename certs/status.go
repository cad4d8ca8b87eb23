package certs

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// State says how good what is served is.
type State string

// The states of what is served.
const (
	StateValid       State = "valid"
	StateExpiring    State = "expiring"      // less than a sixth of its lifetime is left: renewal is overdue
	StateExpired     State = "expired"       // served all the same: it is the best there is
	StateNotYetValid State = "not_yet_valid" // its time has not come, or our clock is wrong
	StateSelfSigned  State = "self_signed"   // stands in until the issuer answers
)

// Status is what is known of one certificate of a listener.
type Status struct {
	Name        string    `json:"name"` // the configured name; for files the names in the certificate
	Source      Source    `json:"source"`
	State       State     `json:"state"`       // of what is served now
	Why         string    `json:"why"`         // in words, with the next step where there is one; empty if all is well
	Issuer      string    `json:"issuer"`      // common name, or the whole subject, of the issuer
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the leaf, hexadecimal
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	LastError   string    `json:"last_error,omitempty"` // of the last attempt to load, obtain or renew; empty if it went well
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// describe fills in what the leaf tells.
func (s *Status) describe(leaf *x509.Certificate, now time.Time) {
	sum := sha256.Sum256(leaf.Raw)
	s.Fingerprint = hex.EncodeToString(sum[:])
	s.NotBefore, s.NotAfter = leaf.NotBefore, leaf.NotAfter
	s.Issuer = leaf.Issuer.CommonName
	if s.Issuer == "" {
		s.Issuer = leaf.Issuer.String()
	}
	left := leaf.NotAfter.Sub(now)
	switch {
	case now.Before(leaf.NotBefore):
		s.State, s.Why = StateNotYetValid, "the certificate is not valid yet; check the clock of this host"
	case left <= 0:
		s.State, s.Why = StateExpired, "the certificate expired; clients will refuse it until it is replaced"
	case left < leaf.NotAfter.Sub(leaf.NotBefore)/6:
		s.State, s.Why = StateExpiring, "less than a sixth of its lifetime is left; it should have been replaced"
	default:
		s.State = StateValid
	}
}

// failure is the last error of one name.
type failure struct {
	err error
	at  time.Time
}

func (f failure) fill(s *Status) {
	if f.err != nil {
		s.LastError, s.LastErrorAt = f.err.Error(), f.at
	}
}

// states remembers what was said, so that the log has changes and not repetitions.
type states struct {
	mu   sync.Mutex
	last map[string]State
}

func (l *states) say(log *slog.Logger, now []Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := make(map[string]State, len(now))
	for _, s := range now {
		// A renewed certificate is worth a line too, so the leaf is part of what is compared.
		key := s.Name + " " + s.Fingerprint
		if s.State == StateSelfSigned {
			key = s.Name // the stand-in is made anew each half day; that is no news
		}
		next[key] = s.State
		if l.last[key] == s.State {
			continue
		}
		level, msg := slog.LevelInfo, "certificate in service"
		if s.State != StateValid {
			level, msg = slog.LevelWarn, "certificate in service is "+strings.ReplaceAll(string(s.State), "_", " ")
		}
		log.Log(context.Background(), level, msg, "name", s.Name, "source", string(s.Source), "state", string(s.State), "why", s.Why,
			"issuer", s.Issuer, "not_after", s.NotAfter, "fingerprint", s.Fingerprint, "error", s.LastError)
	}
	l.last = next
}
