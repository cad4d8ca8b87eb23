package sniff

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// recorder is a connection that keeps what is written and has nothing to read.
type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recorder) Write(p []byte) (int, error)      { return r.Buffer.Write(p) }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// clientHelloOf returns the first flight of a crypto/tls client.
func clientHelloOf(cfg *tls.Config) []byte {
	var r recorder
	tls.Client(&r, cfg).Handshake() // fails once the hello is written
	return r.Bytes()
}

func handshake(c net.Conn, name string) error {
	return tls.Client(c, &tls.Config{ServerName: name}).Handshake()
}

type helloCase struct {
	name  string
	bytes []byte
}

// hellos returns ClientHellos of crypto/tls under many settings.
func hellos(t testing.TB) []helloCase {
	base := func() *tls.Config { return &tls.Config{ServerName: "www.example.com"} }
	settings := []struct {
		name string
		set  func(*tls.Config)
	}{
		{"as is", func(*tls.Config) {}},
		{"one letter", func(c *tls.Config) { c.ServerName = "a" }},
		{"upper case", func(c *tls.Config) { c.ServerName = "WWW.Example.COM" }},
		{"underscore", func(c *tls.Config) { c.ServerName = "_dmarc.example.com" }},
		{"no server name", func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "", true }},
		{"address, which crypto/tls leaves out", func(c *tls.Config) { c.ServerName = "192.0.2.1" }},
		{"longest name", func(c *tls.Config) { c.ServerName = longName(253) }},
		{"h2 and http/1.1", func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }},
		{"stun.turn", func(c *tls.Config) { c.NextProtos = []string{"stun.turn"} }},
		{"TLS 1.0 at most", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }},
		{"TLS 1.1 at most", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }},
		{"TLS 1.2 at most", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		{"TLS 1.3 only", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }},
		{"one curve", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} }},
		{"one suite", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
		}},
		{"no tickets", func(c *tls.Config) { c.SessionTicketsDisabled = true }},
		{"many protocols", func(c *tls.Config) {
			for range 250 {
				c.NextProtos = append(c.NextProtos, longName(250))
			}
		}},
		{"encrypted ClientHello", func(c *tls.Config) {
			c.MinVersion, c.EncryptedClientHelloConfigList = tls.VersionTLS13, echConfig(t)
		}},
	}
	var all []helloCase
	for _, s := range settings {
		cfg := base()
		s.set(cfg)
		all = append(all, helloCase{s.name, clientHelloOf(cfg)})
	}
	return append(all, helloCase{"resumption", resumption(t)})
}

// longName returns a name of n bytes with labels of at most 63.
func longName(n int) string {
	b := bytes.Repeat([]byte("a"), n)
	for i := 60; i < n-1; i += 60 {
		b[i] = '.'
	}
	return string(b)
}

// echConfig returns an ECHConfigList with one config, for the public name
// public.example (RFC 9849 section 4).
func echConfig(t testing.TB) []byte {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bytesOf := func(v []byte) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddBytes(v) }
	}
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(extECH)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8(7)       // config id
			b.AddUint16(0x0020) // DHKEM(X25519, HKDF-SHA256)
			b.AddUint16LengthPrefixed(bytesOf(key.PublicKey().Bytes()))
			b.AddUint16LengthPrefixed(bytesOf([]byte{0, 1, 0, 1})) // HKDF-SHA256, AES-128-GCM
			b.AddUint8(32)
			b.AddUint8LengthPrefixed(bytesOf([]byte("public.example")))
			b.AddUint16(0)
		})
	})
	return b.BytesOrPanic()
}

// resumption returns the hello of a client that has a session to resume.
func resumption(t testing.TB) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"www.example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	client := &tls.Config{ServerName: "www.example.com", ClientSessionCache: tls.NewLRUClientSessionCache(1), RootCAs: x509.NewCertPool()}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	client.RootCAs.AddCert(cert)
	a, b := pair(t)
	go func() {
		s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		s.Write([]byte("x")) // the session ticket goes out before it
		s.Close()
	}()
	if _, err := io.ReadAll(tls.Client(a, client)); err != nil {
		t.Fatal(err)
	}
	return clientHelloOf(client)
}

// errStop ends a handshake when the oracle has seen the hello.
var errStop = errors.New("seen")

// oracle returns what crypto/tls reads in the ClientHello at the start of b,
// or nil if it refuses it or needs more.
func oracle(b []byte) *tls.ClientHelloInfo {
	var seen *tls.ClientHelloInfo
	c := &recorder{}
	tls.Server(struct {
		io.Reader
		*recorderWriter
	}{bytes.NewReader(b), &recorderWriter{c}}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			seen = h
			return nil, errStop
		},
	}).Handshake()
	return seen
}

// recorderWriter is the part of a recorder that does not read.
type recorderWriter struct{ r *recorder }

func (w *recorderWriter) Write(p []byte) (int, error)      { return w.r.Write(p) }
func (w *recorderWriter) Close() error                     { return nil }
func (w *recorderWriter) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *recorderWriter) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *recorderWriter) SetDeadline(time.Time) error      { return nil }
func (w *recorderWriter) SetReadDeadline(time.Time) error  { return nil }
func (w *recorderWriter) SetWriteDeadline(time.Time) error { return nil }

// differs says where h is not what crypto/tls saw, or "".
func differs(h Hello, want *tls.ClientHelloInfo) string {
	first := ""
	if len(want.SupportedProtos) > 0 {
		first = want.SupportedProtos[0]
	}
	var highest uint16
	for _, v := range want.SupportedVersions {
		if v>>8 == majorVersion {
			highest = max(highest, v)
		}
	}
	switch {
	case string(h.ServerName) != want.ServerName, h.HasServerName != (want.ServerName != ""):
		return "server name"
	case string(h.ALPN) != first:
		return "ALPN"
	case h.ECH != slices.Contains(want.Extensions, extECH):
		return "ECH"
	case highest != 0 && h.MaxVersion != highest && h.MaxVersion <= tls.VersionTLS13:
		return "version"
	}
	return ""
}

// rerecord returns the payload of the records in b as records of the sizes
// given, over and over.
func rerecord(b []byte, sizes ...int) []byte {
	payload := join(b)
	var out []byte
	for i := 0; len(payload) > 0; i++ {
		n := min(sizes[i%len(sizes)], len(payload))
		out = append(out, recordHandshake, majorVersion, 1, byte(n>>8), byte(n))
		out = append(out, payload[:n]...)
		payload = payload[n:]
	}
	return out
}
