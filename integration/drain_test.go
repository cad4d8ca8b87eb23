package integration

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/integration/testbed"
)

// raw is a rule for tunnels to the echo server of a test.
const raw = `    - {name: raw, to: {hosts: ["*.supportsquare.io"], ports: ["1-65535"], app: opaque}}` + "\n"

// echoTunnel opens a tunnel to an echo server, and proves that it works.
func (w *world) echoTunnel(t *testing.T, port string) net.Conn {
	t.Helper()
	c, res := w.connect(t, "passerelle.supportsquare.io:"+port)
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	if !echoes(c) {
		t.Fatal("the tunnel does not carry")
	}
	return c
}

func echoes(c net.Conn) bool {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	defer c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c, "\x01echo"); err != nil {
		return false
	}
	buf := make([]byte, 5)
	_, err := io.ReadFull(c, buf)
	return err == nil && string(buf) == "\x01echo"
}

// again sends one request on a connection to the proxy that may be kept.
func again(t *testing.T, c net.Conn) *http.Response {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, "GET http://hlg.tokbox.com/ HTTP/1.1\r\nHost: hlg.tokbox.com\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("request on a kept connection: %v %v", res, err)
	}
	io.Copy(io.Discard, res.Body)
	return res
}

// awaitExit waits for the end of the process and checks its exit code.
func (w *world) awaitExit(t *testing.T, want int) {
	t.Helper()
	testbed.Eventually(t, "the process has ended", func() bool { ended, _ := w.Exited(); return ended })
	if _, code := w.Exited(); code != want {
		t.Errorf("exit code %d; want %d", code, want)
	}
}

// stopping are the ways to ask a gateway to stop.
var stopping = map[string]func(t *testing.T, w *world){
	"SIGTERM": func(_ *testing.T, w *world) { w.Signal(syscall.SIGTERM) },
	"SIGINT":  func(_ *testing.T, w *world) { w.Signal(syscall.SIGINT) },
	"quitquitquit": func(t *testing.T, w *world) {
		if code, body := w.Post("/quitquitquit"); code != http.StatusAccepted {
			t.Errorf("quitquitquit: %d %s", code, body)
		}
	},
}

// A gateway that is asked to stop says so, takes no more connections, and
// lets what is under way come to its end.
func TestStopLetsFlowsEnd(t *testing.T) {
	for name, stop := range stopping {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, raw+"limits: {drain_timeout: 60s}\n")
			port := testbed.Echo(t)
			tunnel := w.echoTunnel(t, port)
			defer tunnel.Close()
			if code, _ := w.Get("/readyz"); code != 200 {
				t.Fatalf("readyz before: %d", code)
			}
			kept, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			if res := again(t, kept); res.Close {
				t.Error("a connection is not kept between requests")
			}
			stop(t, w)
			testbed.Eventually(t, "readyz says 503", func() bool { code, _ := w.Get("/readyz"); return code == 503 })
			testbed.Eventually(t, "no new connections", func() bool {
				c, err := net.Dial("tcp", w.addr)
				if err == nil {
					c.Close()
				}
				return errors.Is(err, syscall.ECONNREFUSED)
			})
			if code, _ := w.Get("/healthz"); code != 200 {
				t.Errorf("healthz while it stops: %d", code)
			}
			if !echoes(tunnel) {
				t.Error("the live tunnel does not go on")
			}
			if ended, _ := w.Exited(); ended {
				t.Error("it ended before its last flow")
			}
			if res := again(t, kept); !res.Close {
				t.Error("a client is not told to take its next request elsewhere")
			}
			tunnel.Close()
			w.awaitExit(t, 0)
			if r := w.Await("event", "end", "door", "connect"); r.Str("client_end") != "eof" {
				t.Errorf("record: %v", r)
			}
		})
	}
}

// awaitCut wants the connection to be cut.
func awaitCut(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the flow is not cut: %v", err)
	}
}

// What does not end within the drain time-out, or by the second signal, is
// cut and recorded so, whichever door it is of.
func TestStopCutsWhatDoesNotEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		drain string
		again int // signals after the first
	}{
		"drain time-out": {"1s", 0},
		"second SIGTERM": {"10m", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, raw+"limits: {drain_timeout: "+tc.drain+"}\n")
			port := testbed.Echo(t)
			tunnel := w.echoTunnel(t, port)
			defer tunnel.Close()
			silent, res := w.connect(t, "hlg.tokbox.com:443") // no byte yet: its first ones are waited for
			defer silent.Close()
			if res.StatusCode != 200 {
				t.Fatal(res.Status)
			}
			idle, err := net.Dial("tcp", w.addr) // between two requests
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			again(t, idle)
			w.Signal(syscall.SIGTERM)
			testbed.Eventually(t, "it stops", func() bool { code, _ := w.Get("/readyz"); return code != 200 })
			for range tc.again {
				w.Signal(syscall.SIGTERM)
			}
			awaitCut(t, tunnel)
			awaitCut(t, silent)
			w.awaitExit(t, 0)
			for _, host := range []string{"passerelle.supportsquare.io", "hlg.tokbox.com"} {
				if r := w.Await("event", "end", "host", host, "door", "connect"); r.Str("client_end") != "drain" || r.Str("server_end") != "drain" {
					t.Errorf("record: %v", r)
				}
			}
			if !strings.Contains(w.Stderr(), "flows cut") {
				t.Error("the log does not say that flows were cut")
			}
		})
	}
}

// Two signals without a moment between them are two.
func TestTwoSignalsAtOnce(t *testing.T) {
	w := newWorld(t, raw+"limits: {drain_timeout: 10m}\n")
	tunnel := w.echoTunnel(t, testbed.Echo(t))
	defer tunnel.Close()
	w.Signal(syscall.SIGINT)
	w.Signal(syscall.SIGTERM)
	awaitCut(t, tunnel)
	w.awaitExit(t, 0)
}

// A gateway without flows stops at once, however many clients keep a
// connection in between.
func TestStopWithoutFlows(t *testing.T) {
	w := newWorld(t, "limits: {drain_timeout: 10m, handshake_timeout: 10m}\n")
	for range 5 {
		for _, address := range []string{w.addr, w.Address("sni")} {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
	}
	// These came after them, so all are accepted.
	w.tried(t, "evil.test:443")
	c, err := net.Dial("tcp", w.Address("sni"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := tls.Client(c, &tls.Config{ServerName: "evil.test"}).Handshake(); err == nil {
		t.Error("a denied name by SNI passes")
	}
	start := time.Now()
	w.Signal(syscall.SIGTERM)
	w.awaitExit(t, 0)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	if strings.Contains(w.Stderr(), "connections closed") {
		t.Errorf("handlers did not end by themselves: %s", w.Stderr())
	}
}

// A port that is taken ends the start with exit code 1, and words.
func TestPortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for name, tc := range map[string]struct{ config, want string }{
		"proxy": {strings.Replace(mission(""), `address: "127.0.0.1:0", doors: [connect`, fmt.Sprintf("address: %q, doors: [connect", taken), 1), `listener "proxy"`},
		"admin": {strings.Replace(mission(""), `admin: {address: "127.0.0.1:0"`, fmt.Sprintf("admin: {address: %q", taken), 1), "admin listener"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(tc.config), 0o600); err != nil {
				t.Fatal(err)
			}
			r := testbed.Run(t, nil, testbed.Binary(t), "run", "--config", path)
			if r.Code != 1 {
				t.Errorf("exit code %d", r.Code)
			}
			for _, want := range []string{tc.want, taken, "address already in use"} {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("message lacks %q: %s", want, r.Stderr)
				}
			}
			if strings.Contains(r.Stdout, "listen ") {
				t.Errorf("it says that it listens: %s", r.Stdout)
			}
		})
	}
}
