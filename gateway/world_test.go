package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/audit"
	"sluice/gateway/dial"
	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// local permits loopback to the names of one rule.
var local = []string{"127.0.0.0/8"}

// echo is an upstream on loopback that sends back what it gets.
type echo struct {
	port     uint16
	accepted atomic.Int64
}

func newEcho(t testing.TB, ip string, port uint16) *echo {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{port: l.Addr().(*net.TCPAddr).AddrPort().Port()}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.accepted.Add(1)
			all.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				// Not by splice(2), whose pipes the runtime keeps until the next
				// garbage collection: tests count descriptors.
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); all.Wait() })
	return e
}

func (e *echo) ports() []policy.PortRange {
	return []policy.PortRange{policy.PortRange(strconv.Itoa(int(e.port)))}
}

// rule lets names out to the echo server on loopback.
func (e *echo) rule(names ...string) policy.RuleSpec {
	return policy.RuleSpec{Name: "to-" + names[0], Owner: "tests", To: policy.ToSpec{Hosts: names, Ports: e.ports()}, Private: local}
}

func rules(list ...policy.RuleSpec) policy.Spec {
	return policy.Spec{Mode: "enforce", Rules: list}
}

func compile(t testing.TB, spec policy.Spec) *policy.Policy {
	t.Helper()
	p, err := policy.Compile([]policy.Source{{File: "test.yaml", Spec: spec}}, policy.Options{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// world is a running gateway with everything that it said.
type world struct {
	t       testing.TB
	g       *Gateway
	up      *echo
	proxy   string
	router  string
	admin   string
	stop    context.CancelFunc
	done    chan error // closed when Run has returned
	err     error      // of Run
	log     *lines
	loading atomic.Pointer[func() (*Reloaded, error)]
	mu      sync.Mutex
	records []audit.Record
}

// start runs a gateway: a proxy listener, a TLS router to the port of the echo
// server, and the admin API. Names that are not said otherwise are 127.0.0.1.
func start(t testing.TB, up *echo, spec policy.Spec, adjust ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, up: up, log: &lines{}, done: make(chan error)}
	opened := make(chan []Bound, 1)
	o := Options{
		Version: "test",
		Listeners: []Listener{
			{Name: "proxy", Address: "127.0.0.1:0", Doors: []flow.Door{flow.DoorConnect, flow.DoorHTTP, flow.DoorSOCKS5}},
			{Name: "router", Address: "127.0.0.1:0", Doors: []flow.Door{flow.DoorTLS}, Port: up.port},
		},
		Resolver: dial.ResolverOptions{Servers: []string{"udp://" + wildcardDNS(t)}},
		Relay:    relay.Options{IdleTimeout: time.Hour, HalfCloseTimeout: time.Minute},
		Limits:   Limits{Handshake: 30 * time.Second, Connect: 10 * time.Second, Drain: 0},
		Policy:   compile(t, spec), Loaded: "test.yaml", Flows: "none",
		Admin:  Admin{Address: "127.0.0.1:0"},
		Logger: slog.New(slog.NewTextHandler(w.log, nil)),
		Opened: func(b []Bound) { opened <- b },
		Load:   func(context.Context) (*Reloaded, error) { return (*w.loading.Load())() },
	}
	for _, f := range adjust {
		f(&o)
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.g = g
	g.gate.keep.sinks = append(g.gate.keep.sinks, func(r *audit.Record) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.records = append(w.records, *r)
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	go func() {
		w.err = g.Run(ctx)
		close(w.done)
	}()
	t.Cleanup(func() {
		cancel()
		g.Abort()
		<-w.done
		if w.err != nil {
			t.Errorf("Run: %v", w.err)
		}
		if t.Failed() {
			t.Logf("the gateway said:\n%s", w.log.String())
		}
	})
	select {
	case <-w.done:
		t.Fatalf("Run: %v", w.err)
	case list := <-opened:
		for _, b := range list {
			switch b.Name {
			case "proxy":
				w.proxy = b.Address.String()
			case "router":
				w.router = b.Address.String()
			case adminName:
				w.admin = b.Address.String()
			}
		}
	}
	return w
}

// eventually polls until ok returns true, for at most 20 seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-tick.C
	}
}

// load makes the next reload find a policy.
func (w *world) load(spec policy.Spec) {
	w.t.Helper()
	p := compile(w.t, spec)
	f := func() (*Reloaded, error) { return &Reloaded{Policy: p}, nil }
	w.loading.Store(&f)
}

// loadBroken makes the next reload fail.
func (w *world) loadBroken(msg string) {
	f := func() (*Reloaded, error) { return nil, errors.New(msg) }
	w.loading.Store(&f)
}

// find returns the records for a host, of an event, with a reason.
func (w *world) find(host string, event audit.Event, reason policy.Reason) (list []audit.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.records {
		if r.Host == host && r.Event == event && r.Reason == reason {
			list = append(list, r)
		}
	}
	return list
}

// denied waits for the one denial of a host for a reason.
func (w *world) denied(host string, reason policy.Reason) audit.Record {
	w.t.Helper()
	var list []audit.Record
	eventually(w.t, fmt.Sprintf("a denial of %s for %s", host, reason), func() bool {
		list = w.find(host, audit.EventDecision, reason)
		return len(list) > 0
	})
	if len(list) != 1 || !list[0].Denied() {
		w.t.Fatalf("records of %s for %s: %+v; want one denial", host, reason, list)
	}
	return list[0]
}

// ended waits for the end record of a host's flow.
func (w *world) ended(host string) audit.Record {
	w.t.Helper()
	var end *audit.Record
	eventually(w.t, "the end of "+host, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range w.records {
			if w.records[i].Host == host && w.records[i].Event == audit.EventEnd {
				end = &w.records[i]
			}
		}
		return end != nil
	})
	return *end
}

// live waits until so many flows are live.
func (w *world) live(n int64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d live flows", n), func() bool { return w.g.gate.live.count.Load() == n })
}

// conn is a client's connection.
type conn struct {
	net.Conn
	r *bufio.Reader
	t testing.TB
}

func dialTCP(t testing.TB, addr string) *conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return &conn{c, bufio.NewReader(c), t}
}

// connect sends a CONNECT request and returns the status.
func (w *world) connect(host string, port uint16) (*conn, *http.Response) {
	w.t.Helper()
	c := dialTCP(w.t, w.proxy)
	target := net.JoinHostPort(host, strconv.Itoa(int(port)))
	fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	res, err := http.ReadResponse(c.r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		w.t.Fatalf("CONNECT %s: %v", target, err)
	}
	return c, res
}

// refused asks for a host and wants a status.
func (w *world) refused(host string, port uint16, status int) {
	w.t.Helper()
	c, res := w.connect(host, port)
	defer c.Close()
	if res.StatusCode != status {
		w.t.Errorf("CONNECT %s:%d: %s; want %d", host, port, res.Status, status)
	}
}

// tunnel opens a tunnel to the echo server and tries it.
func (w *world) tunnel(host string) *conn {
	w.t.Helper()
	c, res := w.connect(host, w.up.port)
	if res.StatusCode != http.StatusOK {
		w.t.Fatalf("CONNECT %s: %s; want 200", host, res.Status)
	}
	c.echo("ping " + host + "\n")
	return c
}

// echo sends a message and wants it back.
func (c *conn) echo(msg string) {
	c.t.Helper()
	if _, err := io.WriteString(c, msg); err != nil {
		c.t.Fatal(err)
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c.r, got); err != nil || string(got) != msg {
		c.t.Fatalf("echo of %q: %q, %v", msg, got, err)
	}
}

// CloseWrite ends the client's half.
func (c *conn) CloseWrite() { c.Conn.(*net.TCPConn).CloseWrite() }

// over wants the connection to be at its end.
func (c *conn) over() {
	c.t.Helper()
	n, err := io.Copy(io.Discard, c.r)
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		c.t.Fatalf("the connection is still open after %d bytes", n)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// clientHello returns the first flight of a TLS client.
func clientHello(t testing.TB, sni string) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tls.Client(client, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).Handshake()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(server, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	server.Close()
	<-done
	return append(head, body...)
}

// wildcardDNS is a DNS server for which every name is 127.0.0.1.
func wildcardDNS(t testing.TB) string { return newZone(t, "127.0.0.1").addr }

// lines is a log that is written and read at the same time.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
