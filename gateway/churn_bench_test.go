package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/audit"
	"sluice/gateway/dial"
	"sluice/gateway/flow"
	"sluice/policy"
)

const (
	benchHost   = "a.bench.test"
	benchDenied = "a.denied.test"
	benchAnswer = 512
)

// BenchmarkChurnConnect is the whole life of a flow through CONNECT: from the
// accepted connection to its two records. The client and the server are in
// the figures too, but allocate next to nothing.
func BenchmarkChurnConnect(b *testing.B) {
	w := newBenchWorld(b)
	request := fmt.Appendf(nil, "CONNECT %s:%d HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n", benchHost, w.upstream)
	hello := benchHello(b, benchHost)
	b.ReportAllocs()
	for b.Loop() {
		c := w.dial(b, "proxy")
		c.write(request)
		c.readUntil([]byte("\r\n\r\n"))
		c.write(hello)
		c.readAll(benchAnswer)
	}
}

// BenchmarkChurnTLS is the same by the server name of a ClientHello.
func BenchmarkChurnTLS(b *testing.B) {
	w := newBenchWorld(b)
	hello := benchHello(b, benchHost)
	b.ReportAllocs()
	for b.Loop() {
		c := w.dial(b, "sni")
		c.write(hello)
		c.readAll(benchAnswer)
	}
}

// BenchmarkDenyConnect is a CONNECT that policy refuses, with its record and
// the answer that says why.
func BenchmarkDenyConnect(b *testing.B) {
	w := newBenchWorld(b)
	request := fmt.Appendf(nil, "CONNECT %s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", benchDenied)
	b.ReportAllocs()
	for b.Loop() {
		c := w.dial(b, "proxy")
		c.write(request)
		c.readUntil([]byte("record: "))
		c.close()
	}
}

// benchWorld is a gateway in this process, with a server behind it.
type benchWorld struct {
	upstream int // port
	ports    map[string]int
}

func newBenchWorld(b *testing.B) *benchWorld {
	b.Helper()
	w := &benchWorld{upstream: benchUpstream(b), ports: map[string]int{}}
	p, err := policy.Compile([]policy.Source{{File: "bench", Spec: policy.Spec{Rules: []policy.RuleSpec{{
		Name: "bench", To: policy.ToSpec{
			Hosts: []string{"*.bench.test"}, Apps: []string{"tls"}, Ports: []policy.PortRange{policy.PortRange(fmt.Sprint(w.upstream))},
		},
	}}}}}, policy.Options{})
	if err != nil {
		b.Fatal(err)
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	opened := make(chan []Bound, 1)
	g, err := New(Options{
		Listeners: []Listener{
			{Name: "proxy", Address: "127.0.0.1:0", Doors: []flow.Door{flow.DoorConnect}},
			{Name: "sni", Address: "127.0.0.1:0", Doors: []flow.Door{flow.DoorTLS}, Port: uint16(w.upstream)},
		},
		Resolver: dial.ResolverOptions{
			Servers: []string{"127.0.0.1:1"}, Hosts: []dial.Host{{Name: benchHost, Addresses: []netip.Addr{loopback}}},
		},
		Permit:  []netip.Prefix{netip.PrefixFrom(loopback, 8)},
		Limits:  Limits{Handshake: 10 * time.Second, Connect: 10 * time.Second, Drain: time.Second},
		Policy:  p,
		Journal: &audit.Options{Dir: b.TempDir()},
		Flows:   "none",
		Opened:  func(list []Bound) { opened <- list },
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	for _, l := range <-opened {
		w.ports[l.Name] = int(l.Address.Port())
	}
	return w
}

// benchUpstream answers one connection after the other: it reads until a
// ClientHello must be there, answers, and closes.
func benchUpstream(b *testing.B) (port int) {
	b.Helper()
	l, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(syscall.Bind(l, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(l, 128)); err != nil {
		b.Fatal(err)
	}
	at, err := syscall.Getsockname(l)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf, answer := make([]byte, 16<<10), make([]byte, benchAnswer)
		for {
			fd, _, err := syscall.Accept4(l, syscall.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			for n := 0; n < 5 || n < 5+int(buf[3])<<8+int(buf[4]); {
				m, err := syscall.Read(fd, buf[n:])
				if err != nil || m == 0 {
					break
				}
				n += m
			}
			syscall.Write(fd, answer) //nolint:errcheck // the client checks
			syscall.Close(fd)
		}
	}()
	b.Cleanup(func() {
		syscall.Shutdown(l, syscall.SHUT_RDWR) //nolint:errcheck // ends the accept
		<-done
		syscall.Close(l)
	})
	return at.(*syscall.SockaddrInet4).Port
}

// benchHello is a real ClientHello, as crypto/tls makes it.
func benchHello(b *testing.B, name string) []byte {
	b.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go tls.Client(client, &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}).Handshake() //nolint:errcheck // it is cut
	buf := make([]byte, 16<<10)
	n, err := server.Read(buf)
	if err != nil {
		b.Fatal(err)
	}
	return buf[:n]
}

// benchConn is a blocking socket: it leaves the netpoller to the gateway.
type benchConn struct {
	b  *testing.B
	fd int
}

var benchBuf [4 << 10]byte

func (w *benchWorld) dial(b *testing.B, listener string) benchConn {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: w.ports[listener]})
	}
	if err != nil {
		b.Fatal(err)
	}
	return benchConn{b, fd}
}

func (c benchConn) write(p []byte) {
	if _, err := syscall.Write(c.fd, p); err != nil {
		c.b.Fatal(err)
	}
}

// readUntil reads an answer that has mark in it.
func (c benchConn) readUntil(mark []byte) {
	n := 0
	for !bytes.Contains(benchBuf[:n], mark) {
		m, err := syscall.Read(c.fd, benchBuf[n:])
		if err != nil || m == 0 {
			c.b.Fatalf("answer ended: %v, %q", err, benchBuf[:n])
		}
		n += m
	}
	if bytes.HasPrefix(mark, []byte("\r\n")) && !strings.HasPrefix(string(benchBuf[:12]), "HTTP/1.1 200") {
		c.b.Fatalf("answer %q", benchBuf[:n])
	}
}

// readAll reads to the end, and closes.
func (c benchConn) readAll(want int) {
	n := 0
	for {
		m, err := syscall.Read(c.fd, benchBuf[:])
		if n += m; err != nil || m == 0 {
			if err != nil || n != want {
				c.b.Fatalf("answer of %d bytes, want %d; %v", n, want, err)
			}
			c.close()
			return
		}
	}
}

func (c benchConn) close() { syscall.Close(c.fd) }
