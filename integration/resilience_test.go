package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/proxy"

	"sluice/integration/testbed"
)

// secured is mission with one more listener, an HTTPS proxy.
func secured(t *testing.T, extra string) string {
	t.Helper()
	cert, key := testbed.NewCA(t).LeafFiles("127.0.0.1")
	listener := fmt.Sprintf("  - {name: secure, address: \"127.0.0.1:0\", doors: [connect, http], tls: {source: files, cert: %s, key: %s}}\nadmin: {", cert, key)
	return strings.Replace(mission(extra), "admin: {", listener, 1)
}

// stalling is a client that never gets to the end of what it has to say. open
// goes as far as it must; then the bytes of send follow, one every 100 ms or,
// if it is in a hurry, all at once; then there is silence.
type stalling struct {
	name  string
	open  func(t *testing.T, w *world) net.Conn
	send  []byte
	hurry bool
}

// clientHello returns a whole ClientHello for a name.
func clientHello(t *testing.T, name string) []byte {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	go tls.Client(there, &tls.Config{ServerName: name}).Handshake() // ends when here closes
	buf := make([]byte, 4096)
	n, err := here.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// to dials a listener of the gateway.
func to(listener string) func(*testing.T, *world) net.Conn {
	return func(t *testing.T, w *world) net.Conn {
		c, err := net.Dial("tcp", w.Address(listener))
		if err != nil {
			t.Error(err)
			return nil
		}
		return c
	}
}

// inTLS dials the HTTPS proxy and ends its handshake.
func inTLS(alpn string) func(*testing.T, *world) net.Conn {
	return func(t *testing.T, w *world) net.Conn {
		c := to("secure")(t, w)
		if c == nil {
			return nil
		}
		tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}}) // its certificate is not at issue
		tc.SetDeadline(time.Now().Add(30 * time.Second))
		if err := tc.Handshake(); err != nil {
			t.Error(err)
		}
		return tc
	}
}

func tunnelOpen(t *testing.T, w *world) net.Conn {
	c, res := w.connect(t, "hlg.tokbox.com:443")
	if res.StatusCode != 200 {
		t.Error(res.Status)
	}
	return c
}

func socksOpen(t *testing.T, w *world) net.Conn {
	c := to("proxy")(t, w)
	if c != nil {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		c.Write([]byte{5, 1, 0})
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			t.Error(err)
		}
	}
	return c
}

func stallingClients(t *testing.T) []stalling {
	hello := clientHello(t, "hlg.tokbox.com")
	long := strings.Repeat("a", 250)
	crumbs := bytes.Repeat([]byte{22, 3, 1, 0, 1, 0}, 200) // a hello in records of one byte
	crumbs[5], crumbs[11], crumbs[17], crumbs[23] = 1, 0, 0xff, 0xff
	return []stalling{
		{"silent at the proxy", to("proxy"), nil, false},
		{"CONNECT by the byte", to("proxy"), []byte("CONNECT hlg.tokbox.com:443 HTTP/1.1\r\nX: " + long), false},
		{"CONNECT, half a head", to("proxy"), []byte("CONNECT hlg.tokbox.com:443 HTTP/1.1\r\nX: "), true},
		{"HTTP by the byte", to("proxy"), []byte("GET http://hlg.tokbox.com/ HTTP/1.1\r\nX: " + long), false},
		{"HTTP head without an end", to("proxy"), []byte("GET http://hlg.tokbox.com/ HTTP/1.1\r\nX: " + strings.Repeat("a", 128<<10)), true},
		{"half a method", to("proxy"), []byte("GE"), true},
		{"SOCKS5 greeting by the byte", to("proxy"), append([]byte{5, 250}, long...), false},
		{"SOCKS5 request by the byte", socksOpen, append([]byte{5, 1, 0, 3, 250}, long...), false},
		{"SOCKS5 without a request", socksOpen, nil, false},
		{"silent at the SNI router", to("sni"), nil, false},
		{"ClientHello by the byte", to("sni"), hello, false},
		{"half a ClientHello", to("sni"), hello[:len(hello)/2], true},
		{"ClientHello in crumbs", to("sni"), crumbs, true},
		{"ClientHello in a tunnel by the byte", tunnelOpen, hello, false},
		{"half a ClientHello in a tunnel", tunnelOpen, hello[:len(hello)/2], true},
		{"silent at the HTTPS proxy", to("secure"), nil, false},
		{"TLS to the HTTPS proxy by the byte", to("secure"), clientHello(t, "proxy.test"), false},
		{"silent inside TLS", inTLS("http/1.1"), nil, false},
		{"HTTP inside TLS by the byte", inTLS("http/1.1"), []byte("GET http://hlg.tokbox.com/ HTTP/1.1\r\nX: " + long), false},
		{"silent inside TLS with HTTP/2", inTLS("h2"), nil, false},
		{"HTTP/2 without settings", inTLS("h2"), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), true},
		{"HTTP/2 preface by the byte", inTLS("h2"), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), false},
	}
}

// until runs the client until the gateway cuts it, and says whether it did
// within the bound.
func (s *stalling) until(t *testing.T, w *world, bound time.Duration) bool {
	c := s.open(t, w)
	if c == nil {
		return true // reported
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(bound))
	over := make(chan struct{})
	go func() {
		if s.hurry {
			c.Write(s.send)
			return
		}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := range s.send {
			if _, err := c.Write(s.send[i : i+1]); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-over:
				return
			}
		}
	}()
	_, err := io.Copy(io.Discard, c) // an answer, if any, then the end
	close(over)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// Whoever does not come to the point is cut, at whatever door: one deadline
// for the whole of a handshake, which no dripped byte extends.
func TestStallingClientsAreCut(t *testing.T) {
	w := newWorldOf(t, secured(t, "limits: {handshake_timeout: 1s}\n"))
	var wg sync.WaitGroup
	for _, s := range stallingClients(t) {
		wg.Go(func() {
			if !s.until(t, w, 10*time.Second) {
				t.Errorf("%s: not cut within 10 s at a time-out of 1 s", s.name)
			}
		})
	}
	wg.Wait()
	for _, door := range []string{"http", "socks5", "tls", "connect"} {
		w.Await("door", door, "reason", "malformed_request")
	}
}

// Two thousand of them cost little, and are in nobody's way.
func TestThousandsOfStallingClients(t *testing.T) {
	const clients, each = 2000, 100 << 10
	w := newWorldOf(t, secured(t, "limits: {handshake_timeout: 6s}\nlog: {flows: none}\n"))
	good := w.through(t)
	good.Transport.(*http.Transport).DisableKeepAlives = true
	ask := func() {
		for _, target := range []string{"https://hlg.tokbox.com/", "http://hlg.tokbox.com/"} {
			res, err := good.Get(target)
			if err != nil {
				t.Errorf("allowed request: %v", err)
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != 200 {
				t.Errorf("allowed request: %s", res.Status)
			}
		}
	}
	ask()
	kinds := stallingClients(t)
	before, most := w.Resident(), int64(0)
	var wg sync.WaitGroup
	var stayed atomic.Int64
	for i := range clients {
		wg.Go(func() {
			if s := kinds[i%len(kinds)]; !s.until(t, w, time.Minute) {
				stayed.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	asked := 0
	for waiting := true; waiting && !t.Failed(); {
		select {
		case <-done:
			waiting = false
		default:
			ask()
			asked++
			most = max(most, w.Resident())
		}
	}
	wg.Wait()
	if n := stayed.Load(); n > 0 {
		t.Errorf("%d of %d clients were not cut within a minute", n, clients)
	}
	t.Logf("%d clients: %d KiB each, %d allowed requests meanwhile", clients, (most-before)/clients>>10, 2*asked)
	if most-before > clients*each {
		t.Errorf("%d clients took %d MiB; want less than %d KiB each", clients, (most-before)>>20, each>>10)
	}
}

// With 200 descriptors and 2,000 clients the gateway neither ends nor stays
// deaf. Left to itself it turns away whom it has no descriptors for, and the
// admin API answers meanwhile; told to let more in, it waits for some.
func TestDescriptorsRunOut(t *testing.T) {
	t.Run("as many connections as descriptors allow", func(t *testing.T) {
		descriptorsRunOut(t, 0, func(w *world) {
			testbed.Eventually(t, "the log says what is short", func() bool { return strings.Contains(w.Stderr(), "limits.connections") })
			if code, body := w.Get("/readyz"); code != 200 {
				t.Errorf("readyz meanwhile: %d %s", code, body)
			}
		})
	})
	t.Run("more connections than descriptors", func(t *testing.T) {
		w := descriptorsRunOut(t, 100_000, func(w *world) {
			testbed.Eventually(t, "the log says what is short", func() bool {
				return strings.Contains(w.Stderr(), "accept: waiting") && strings.Contains(w.Stderr(), "too many open files")
			})
			testbed.Eventually(t, "descriptors are at their end", func() bool { return w.Descriptors() > 190 })
		})
		testbed.Eventually(t, "the log says that it goes on", func() bool { return strings.Contains(w.Stderr(), "accept: going on") })
	})
}

// descriptorsRunOut lets 2,000 clients in on 200 descriptors, asks what holds
// meanwhile, lets them go, and wants all to be well again.
func descriptorsRunOut(t *testing.T, limit int, meanwhile func(*world)) *world {
	t.Helper()
	up := testbed.NewUpstream(t)
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(mission(fmt.Sprintf("limits: {handshake_timeout: 60s, drain_timeout: 1s, connections: %d}\nlog: {flows: none}\n", limit))), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `ulimit -n 200; exec "$0" run --config "$1"`, testbed.Binary(t), path)
	g := testbed.StartCommand(t, cmd, path)
	w := &world{Gateway: g, up: up, addr: g.Address("proxy"), proxy: "http://" + g.Address("proxy")}
	var mu sync.Mutex
	var open []net.Conn
	var wg sync.WaitGroup
	for i := range 2000 {
		wg.Go(func() {
			c, err := net.DialTimeout("tcp", w.addr, 20*time.Second)
			if err != nil {
				return // turned away
			}
			if i%2 == 0 { // some want to go out as well
				io.WriteString(c, "CONNECT hlg.tokbox.com:443 HTTP/1.1\r\nHost: hlg.tokbox.com\r\n\r\n")
			}
			mu.Lock()
			defer mu.Unlock()
			open = append(open, c)
		})
	}
	wg.Wait()
	meanwhile(w)
	for _, c := range open {
		c.Close()
	}
	testbed.Eventually(t, "allowed requests work again", func() bool {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, "GET http://hlg.tokbox.com/ HTTP/1.1\r\nHost: hlg.tokbox.com\r\nConnection: close\r\n\r\n")
		answer, _ := io.ReadAll(c)
		return strings.Contains(string(answer), "hello from hlg.tokbox.com")
	})
	if ended, code := w.Exited(); ended {
		t.Fatalf("the gateway ended with %d", code)
	}
	if code, _ := w.Get("/readyz"); code != 200 {
		t.Errorf("readyz: %d", code)
	}
	if lines := strings.Count(w.Stderr(), "\n"); lines > 200 {
		t.Errorf("%d lines of log for one trouble", lines)
	}
	return w
}

// refusedAt reports whether a new connection from an address of this machine
// is turned away unheard.
func (w *world) refusedAt(t *testing.T, from string) bool {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", w.addr)
	if err != nil {
		return true
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n")
	answer, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("neither served nor turned away")
	}
	return len(answer) == 0
}

func TestConnectionLimits(t *testing.T) {
	for _, tc := range []struct {
		limit  string
		others bool // a client at another address is served
	}{
		{"connections", false},
		{"connections_per_client", true},
	} {
		t.Run(tc.limit, func(t *testing.T) {
			w := newWorld(t, "limits: {"+tc.limit+": 3}\n")
			var tunnels []net.Conn
			for range 3 {
				c, res := w.connect(t, "hlg.tokbox.com:443")
				defer c.Close()
				if res.StatusCode != 200 {
					t.Fatal(res.Status)
				}
				tunnels = append(tunnels, c)
			}
			if !w.refusedAt(t, "127.0.0.1") {
				t.Error("the one over is served")
			}
			if got := !w.refusedAt(t, "127.0.0.9"); got != tc.others {
				t.Errorf("a client at another address is served: %v; want %v", got, tc.others)
			}
			want := 2.0
			if tc.others {
				want = 1
			}
			if n := w.Metric("sluice_connections_refused_total", `limit="`+tc.limit+`"`, `listener="proxy"`); n != want {
				t.Errorf("%v refused connections counted; want %v", n, want)
			}
			if !strings.Contains(w.Stderr(), "limits."+tc.limit) {
				t.Error("the log does not name the limit")
			}
			// Those within the limit go on.
			for i, c := range tunnels {
				c.SetDeadline(time.Now().Add(20 * time.Second))
				if err := tls.Client(c, &tls.Config{ServerName: "hlg.tokbox.com", RootCAs: w.up.CA.Pool()}).Handshake(); err != nil {
					t.Errorf("tunnel %d: %v", i, err)
				}
			}
			tunnels[0].Close()
			testbed.Eventually(t, "there is room again", func() bool { return !w.refusedAt(t, "127.0.0.1") })
		})
	}
}

// A thousand tunnels leave nothing behind.
func TestNothingIsLeftBehind(t *testing.T) {
	w := newWorld(t, "log: {flows: none}\n")
	roots := &tls.Config{ServerName: "hlg.tokbox.com", RootCAs: w.up.CA.Pool(), NextProtos: []string{"http/1.1"}}
	overTLS := func(c net.Conn) error {
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		tc := tls.Client(c, roots)
		fmt.Fprintf(tc, "GET / HTTP/1.1\r\nHost: hlg.tokbox.com\r\nConnection: close\r\n\r\n")
		if answer, err := io.ReadAll(tc); !strings.Contains(string(answer), "hello from") {
			return fmt.Errorf("answer %q, %v", answer, err)
		}
		return nil
	}
	socks, err := proxy.SOCKS5("tcp", w.addr, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	doors := map[string]func() error{
		"connect": func() error { c, _ := w.connect(t, "hlg.tokbox.com:443"); return overTLS(c) },
		"socks5": func() error {
			c, err := socks.Dial("tcp", "hlg.tokbox.com:443")
			if err != nil {
				return err
			}
			return overTLS(c)
		},
		"tls": func() error {
			c, err := net.Dial("tcp", w.Address("sni"))
			if err != nil {
				return err
			}
			return overTLS(c)
		},
		"websocket": func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			client := w.through(t)
			ws, _, err := websocket.Dial(ctx, "ws://ws.tokbox.com/ws", &websocket.DialOptions{HTTPClient: client})
			if err != nil {
				return err
			}
			defer ws.CloseNow()
			if err := ws.Write(ctx, websocket.MessageText, []byte("x")); err != nil {
				return err
			}
			_, _, err = ws.Read(ctx)
			return err // and goes without a word
		},
	}
	round := func(n int) {
		var wg sync.WaitGroup
		for door, open := range doors {
			for range 8 {
				wg.Go(func() {
					for range n / 8 {
						if err := open(); err != nil {
							t.Errorf("%s: %v", door, err)
							return
						}
					}
				})
			}
		}
		wg.Wait()
		testbed.Eventually(t, "all flows have ended", func() bool { return w.Metric("sluice_flows_active") == 0 })
	}
	round(16) // so that all is there that stays: pools, connections of this test to the admin API
	goroutines, descriptors := w.Metric("go_goroutines"), w.Descriptors()
	round(250 + 6)
	testbed.Eventually(t, "goroutines have ended", func() bool { return w.Metric("go_goroutines") <= goroutines+5 })
	const pooled = 2 * 32 // empty pipes that the relay keeps
	testbed.Eventually(t, "descriptors are closed", func() bool { return w.Descriptors() <= descriptors+pooled })
	t.Logf("goroutines %v → %v, descriptors %d → %d", goroutines, w.Metric("go_goroutines"), descriptors, w.Descriptors())
}
