package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; none is meant to reach it.
const patience = 20 * time.Second

// world is one relayed flow, seen from its two ends.
type world struct {
	t              *testing.T
	client, server net.Conn // the far ends: of the program, and of its server
	cut            context.CancelFunc
	done           chan Result
}

// link makes a connection: far is what a program holds, near what the relay gets.
type link func(t testing.TB) (far, near net.Conn)

// wrap changes what the relay gets.
type wrap func(net.Conn) net.Conn

func begin(t *testing.T, e Engine, o Options, client, server link, wraps ...wrap) *world {
	t.Helper()
	w := &world{t: t, done: make(chan Result, 1)}
	var near [2]net.Conn
	w.client, near[0] = client(t)
	w.server, near[1] = server(t)
	for i, f := range wraps {
		if f != nil {
			near[i] = f(near[i])
		}
	}
	for _, c := range []net.Conn{w.client, w.server} {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cut := context.WithCancel(t.Context())
	w.cut = cut
	o.Engine = e
	go func() { w.done <- Run(ctx, near[0], near[1], o) }()
	t.Cleanup(func() {
		cut()
		w.client.Close()
		w.server.Close()
	})
	return w
}

func (w *world) result() Result {
	w.t.Helper()
	select {
	case r := <-w.done:
		return r
	case <-time.After(patience):
		w.t.Fatal("the relay did not end")
		panic("unreachable")
	}
}

func (w *world) wantEnds(client, server string) Result {
	w.t.Helper()
	r := w.result()
	if r.Client != client || r.Server != server {
		w.t.Errorf("sides ended by %q and %q (%v); want %q and %q", r.Client, r.Server, r.Err, client, server)
	}
	return r
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("send %q: %v", s, err)
	}
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("received %q, %v; want %q", got, err, want)
	}
}

func wantEOF(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d bytes, %v; want EOF", n, err)
	}
}

// wantReset reads to the end, which must be a reset, and returns what came first.
func wantReset(t *testing.T, c net.Conn) []byte {
	t.Helper()
	var got bytes.Buffer
	if _, err := got.ReadFrom(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read ended by %v; want a reset", err)
	}
	return got.Bytes()
}

func closeWriteOf(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(closeWriter).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func resetOf(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func overTCP(t testing.TB) (far, near net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return far, near
}

func overTLS(t testing.TB) (far, near net.Conn) {
	t.Helper()
	f, n := overTCP(t)
	return tls.Client(f, &tls.Config{InsecureSkipVerify: true}), //nolint:gosec // a pipe, not a peer
		tls.Server(n, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
}

// overPipe makes connections that can not be half-closed.
func overPipe(testing.TB) (far, near net.Conn) { return net.Pipe() }

var makeCertificate = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	c, err := makeCertificate()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lookedInto is a connection as the doors leave it: some bytes are read already.
type lookedInto struct {
	net.Conn
	buf []byte
}

func (c *lookedInto) Buffered() []byte  { return c.buf }
func (c *lookedInto) Discard(n int)     { c.buf = c.buf[n:] }
func (c *lookedInto) NetConn() net.Conn { return c.Conn }

func withPrefix(s string) wrap {
	return func(c net.Conn) net.Conn { return &lookedInto{c, []byte(s)} }
}

// descriptors counts the open ones of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names) - 1 // the one that reads
}

// eventually polls ok; what says what was waited for.
func eventually(t testing.TB, what func() string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what())
		}
	}
}
