package integration

import (
	"context"
	"crypto/tls"
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
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/proxy"

	"sluice/integration/testbed"
)

// load is one kind of client. It reports whether its flow was carried, and
// fails if it was neither carried nor refused.
type load struct {
	name string
	want bool
	run  func() (carried bool, err error)
}

// mixedLoad is allowed and denied flows through every door. leave closes the
// connections that its clients keep.
func mixedLoad(t *testing.T, w *world) (kinds []load, leave func()) {
	kept, fresh := w.through(t), w.through(t)
	kept.Transport.(*http.Transport).MaxIdleConnsPerHost = 8
	fresh.Transport.(*http.Transport).DisableKeepAlives = true
	socks, err := proxy.SOCKS5("tcp", w.addr, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	get := func(client *http.Client, url string) func() (bool, error) {
		return func() (bool, error) {
			res, err := client.Get(url)
			if err != nil {
				if strings.Contains(err.Error(), "Forbidden") {
					return false, nil
				}
				return false, err
			}
			defer res.Body.Close()
			_, err = io.Copy(io.Discard, res.Body)
			return res.StatusCode == 200, err
		}
	}
	hello := func(c net.Conn, name string) (bool, error) {
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		tc := tls.Client(c, &tls.Config{ServerName: name, RootCAs: w.up.CA.Pool(), NextProtos: []string{"http/1.1"}})
		fmt.Fprintf(tc, "GET /bytes?n=100000 HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name)
		n, err := io.Copy(io.Discard, tc)
		if err != nil && strings.Contains(err.Error(), "access denied") {
			return false, nil
		}
		return n > 100000, err
	}
	sni := func(name string) func() (bool, error) {
		return func() (bool, error) {
			c, err := net.Dial("tcp", w.Address("sni"))
			if err != nil {
				return false, err
			}
			return hello(c, name)
		}
	}
	bySOCKS := func(name string) func() (bool, error) {
		return func() (bool, error) {
			c, err := socks.Dial("tcp", name+":443")
			if err != nil {
				if strings.Contains(err.Error(), "not allowed") {
					return false, nil
				}
				return false, err
			}
			return hello(c, name)
		}
	}
	ws := func(url string) func() (bool, error) {
		return func() (bool, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			c, res, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: fresh})
			if err != nil {
				if res != nil && res.StatusCode == 403 || strings.Contains(err.Error(), "Forbidden") {
					return false, nil
				}
				return false, err
			}
			defer c.CloseNow()
			for range 20 {
				if err := c.Write(ctx, websocket.MessageText, []byte(strings.Repeat("x", 2000))); err != nil {
					return false, err
				}
				if _, _, err := c.Read(ctx); err != nil {
					return false, err
				}
			}
			return true, c.Close(websocket.StatusNormalClosure, "")
		}
	}
	return []load{
		{"CONNECT", true, get(fresh, "https://hlg.tokbox.com/")},
		{"CONNECT, kept", true, get(kept, "https://skinapi.soti.net/")},
		{"CONNECT, denied", false, get(fresh, "https://evil.test/")},
		{"HTTP, kept", true, get(kept, "http://hlg.tokbox.com/bytes?n=50000")},
		{"HTTP", true, get(fresh, "http://hlg.tokbox.com/")},
		{"HTTP, denied", false, get(kept, "http://evil.test/")},
		{"SOCKS5", true, bySOCKS("config.opentok.com")},
		{"SOCKS5, denied", false, bySOCKS("evil.test")},
		{"SNI", true, sni("hlg.tokbox.com")},
		{"SNI, denied", false, sni("evil.test")},
		{"WebSocket", true, ws("wss://ws.tokbox.com/ws")},
		{"WebSocket in clear", true, ws("ws://ws.tokbox.com/ws")},
		{"WebSocket, denied", false, ws("wss://evil.test/ws")},
	}, kept.CloseIdleConnections
}

// Fifteen seconds of everything at once, with reloads between, on a binary
// that watches itself for data races.
func TestSoak(t *testing.T) {
	const length, most = 15 * time.Second, 400 << 20 // the race detector takes five to ten times the memory
	up := testbed.NewUpstream(t)
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(mission("log: {flows: none}\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	g := testbed.StartCommand(t, exec.Command(testbed.RaceBinary(t), "run", "--config", path), path, "GORACE=halt_on_error=0")
	w := &world{Gateway: g, up: up, addr: g.Address("proxy"), proxy: "http://" + g.Address("proxy")}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var flows atomic.Int64
	kinds, leave := mixedLoad(t, w)
	for _, l := range kinds {
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					carried, err := l.run()
					if err != nil || carried != l.want {
						t.Errorf("%s: carried %v, %v; want %v", l.name, carried, err, l.want)
						return
					}
					flows.Add(1)
				}
			})
		}
	}
	end, tick := time.NewTimer(length), time.NewTicker(500*time.Millisecond)
	defer tick.Stop()
	var peak int64
	for i, soaking := 0, true; soaking; i++ {
		select {
		case <-end.C:
			soaking = false
		case <-tick.C:
			peak = max(peak, w.Resident())
			if i%4 == 0 {
				write(t, w.Config, withRule(mission("log: {flows: none}\n"), i))
				w.Signal(syscall.SIGHUP)
				w.Get("/v1/flows")
				w.Metric("go_goroutines")
			}
		}
	}
	close(stop)
	wg.Wait()
	leave()
	t.Logf("%d flows, %d MiB at most", flows.Load(), peak>>20)
	if peak > most {
		t.Errorf("%d MiB; want less than %d", peak>>20, most>>20)
	}
	testbed.Eventually(t, "all flows have ended", func() bool { return w.Metric("sluice_flows_active") == 0 })
	w.Stop()
	if _, code := w.Exited(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if i := strings.Index(w.Stderr(), "DATA RACE"); i >= 0 {
		t.Errorf("%s", w.Stderr()[i:min(len(w.Stderr()), i+4000)])
	}
}
