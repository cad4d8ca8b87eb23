package httpproxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/gateway/flow"
	"sluice/policy"
)

// echo sends everything back, and ends when the client has.
func echo(_ context.Context, c net.Conn) {
	io.Copy(c, c)
	c.(*net.TCPConn).CloseWrite()
}

func TestConnectEcho(t *testing.T) {
	server := serveLoop(t, echo)
	for name, head := range map[string]string{
		"HTTP/1.1":                "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n",
		"HTTP/1.0":                "CONNECT echo.test:7 HTTP/1.0\r\n\r\n",
		"Host without port":       "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test\r\n\r\n",
		"other Host":              "CONNECT echo.test:7 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
		"empty line before":       "\r\nCONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test\r\n\r\n",
		"upper case, final dot":   "CONNECT ECHO.test.:7 HTTP/1.1\r\nHost: ECHO.test.\r\n\r\n",
		"trace context":           "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test\r\nTraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
		"malformed trace context": "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test\r\nTraceparent: 00-x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(map[string]string{"echo.test:7": server})
			addr, _ := startDoor(t, g, Options{})
			w := dialWire(t, addr)
			// Early data: the first bytes come in the same write as the request.
			w.send(head + "EARLY")
			if resp, body := w.response(http.MethodConnect); resp.StatusCode != 200 {
				t.Fatalf("got %d %s", resp.StatusCode, body)
			}
			w.send("LATE")
			w.Conn.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(w.r); string(got) != "EARLYLATE" || err != nil {
				t.Errorf("got %q, %v; want EARLYLATE", got, err)
			}
			waitFor(t, "the record of the end", func() bool { return len(g.ends()) == 1 })
			f := g.ends()[0]
			if f.BytesIn != 9 || f.BytesOut != 9 || f.ClientEnd != flow.EndEOF || f.Door != flow.DoorConnect || f.Seen != policy.SeenOpaque {
				t.Errorf("record %+v", f)
			}
			if claims := len(f.Claims); (name == "other Host") != (claims == 2) {
				t.Errorf("claims %v", f.Claims)
			}
			if (name == "trace context") != (f.Traceparent != "") {
				t.Errorf("traceparent %q", f.Traceparent)
			}
		})
	}
}

func TestConnectDenied(t *testing.T) {
	g := newGate(map[string]string{"down.test:443": "", "refused.test:443": "127.0.0.1:1"})
	g.rule = &policy.Rule{Name: "r\r\nX-Injected: 1", Owner: "team"}
	addr, _ := startDoor(t, g, Options{Instance: "me"})
	for name, c := range map[string]struct {
		head   string
		status int
		token  string
		reason policy.Reason
	}{
		"no rule":                  {"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n", 403, "http_request_denied", policy.ReasonNoRule},
		"allowed name, other port": {"CONNECT down.test:22 HTTP/1.1\r\nHost: down.test\r\n\r\n", 403, "http_request_denied", policy.ReasonNoRule},
		"loop":                     {"CONNECT down.test:443 HTTP/1.1\r\nHost: down.test\r\nVia: 1.1 x, 1.1 sluice-me\r\n\r\n", 502, "proxy_loop_detected", policy.ReasonLoop},
		"no answer":                {"CONNECT down.test:443 HTTP/1.1\r\nHost: down.test\r\n\r\n", 504, "connection_timeout", ""},
		"refused":                  {"CONNECT refused.test:443 HTTP/1.1\r\nHost: refused.test\r\n\r\n", 502, "connection_refused", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := dialWire(t, addr)
			// A ClientHello sent at once must not make a reset eat the answer.
			w.send(c.head + "\x16\x03\x01" + strings.Repeat("x", 2000))
			resp, body := w.response("GET")
			if resp.StatusCode != c.status || !strings.HasPrefix(resp.Header.Get("Proxy-Status"), "sluice; error="+c.token) {
				t.Errorf("got %d %v %s", resp.StatusCode, resp.Header, body)
			}
			if !strings.Contains(body, "reason: "+string(c.reason)) && c.reason != "" || resp.Header.Get("X-Injected") != "" {
				t.Errorf("header %v, body %s", resp.Header, body)
			}
			if resp.Header.Get("Proxy-Authenticate") != "" || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("header %v", resp.Header)
			}
		})
	}
}

func TestDeniedAsJSON(t *testing.T) {
	addr, _ := startDoor(t, newGate(nil), Options{})
	w := dialWire(t, addr)
	w.send("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\nAccept: application/json\r\n\r\n")
	resp, body := w.response("GET")
	if resp.Header.Get("Content-Type") != "application/json" || !strings.Contains(body, `"reason":"no_rule"`) || !strings.Contains(body, `"host":"evil.test:443"`) {
		t.Errorf("got %v %s", resp.Header, body)
	}
}

func TestClosedDoors(t *testing.T) {
	g := newGate(map[string]string{"a.test:443": "", "a.test:80": ""})
	noConnect, _ := startDoor(t, g, Options{NoConnect: true})
	noHTTP, _ := startDoor(t, g, Options{NoHTTP: true})
	for addr, head := range map[string]string{
		noConnect: "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
		noHTTP:    "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	} {
		w := dialWire(t, addr)
		w.send(head)
		if resp, body := w.response("GET"); resp.StatusCode != 405 || resp.Header.Get("Allow") == "" || !strings.Contains(body, "reason: protocol") {
			t.Errorf("%q: got %d %v %s", head, resp.StatusCode, resp.Header, body)
		}
	}
	if g.dials != 0 {
		t.Errorf("%d connections were dialled", g.dials)
	}
}

func TestAuthenticate(t *testing.T) {
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" {
			t.Error("the server got the password for the proxy")
		}
	}))
	g := newGate(map[string]string{"a.test:80": server})
	o := Options{
		Challenges: []string{`Basic realm="egress"`},
		Authenticate: func(r *http.Request) (*policy.Identity, error) {
			if r.Header.Get("Proxy-Authorization") != "Basic eDp5" {
				return nil, errors.New("no user")
			}
			return &policy.Identity{User: "x"}, nil
		},
	}
	addr, _ := startDoor(t, g, o)
	for _, method := range []string{"CONNECT a.test:80", "GET http://a.test/"} {
		w := dialWire(t, addr)
		w.send(method + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
		if resp, _ := w.response("GET"); resp.StatusCode != 407 || resp.Header.Get("Proxy-Authenticate") != `Basic realm="egress"` {
			t.Errorf("%s: got %d %v", method, resp.StatusCode, resp.Header)
		}
	}
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: Basic eDp5\r\n\r\n")
	if resp, body := w.response("GET"); resp.StatusCode != 200 {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
	if f := g.ends()[0]; f.Identity == nil || f.Identity.User != "x" {
		t.Errorf("identity %+v", f.Identity)
	}
}

// TestInnerNameMismatch allows a tunnel for one name and says another inside.
func TestInnerNameMismatch(t *testing.T) {
	got := make(chan int64, 1)
	server := serveLoop(t, func(_ context.Context, c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		got <- n
	})
	g := newGate(map[string]string{"a.test:443": server})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n")
	w.response(http.MethodConnect)
	err := tls.Client(w.Conn, &tls.Config{ServerName: "evil.test"}).Handshake()
	if err == nil || !strings.Contains(err.Error(), "remote error: tls") {
		t.Errorf("handshake: %v; want an alert", err)
	}
	if n := <-got; n != 0 {
		t.Errorf("the server got %d bytes", n)
	}
	if d := g.denials(); len(d) != 1 || d[0].Decision.Reason != policy.ReasonNameMismatch || len(g.ends()) != 0 {
		t.Errorf("denials %+v, ends %+v", d, g.ends())
	}
}

// TestServerSpeaksFirst proves that looking for first bytes does not hold up a
// server that greets.
func TestServerSpeaksFirst(t *testing.T) {
	server := serveLoop(t, func(ctx context.Context, c net.Conn) {
		io.WriteString(c, "220 hello\r\n")
		echo(ctx, c)
	})
	g := newGate(map[string]string{"mail.test:25": server})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("CONNECT mail.test:25 HTTP/1.1\r\nHost: mail.test\r\n\r\n")
	w.response(http.MethodConnect)
	if line, err := w.r.ReadString('\n'); line != "220 hello\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	w.send("QUIT")
	w.Conn.(*net.TCPConn).CloseWrite()
	if rest, _ := io.ReadAll(w.r); string(rest) != "QUIT" {
		t.Errorf("got %q", rest)
	}
}

// TestLateHeads proves that a head has one total time, however it is dripped.
func TestLateHeads(t *testing.T) {
	g := newGate(nil)
	addr, _ := startDoor(t, g, Options{HeaderTimeout: 200 * time.Millisecond})
	for name, drip := range map[string]string{"silent": "", "byte at a time": "GET http://a.test/ HTTP/1.1\r\n"} {
		t.Run(name, func(t *testing.T) {
			w := dialWire(t, addr)
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for i := 0; i < len(drip); i++ {
					select {
					case <-tick.C:
						w.Write([]byte{drip[i]})
					case <-stop:
						return
					}
				}
			}()
			if resp, _ := w.response("GET"); resp.StatusCode != 408 {
				t.Errorf("got %d; want 408", resp.StatusCode)
			}
			if _, err := w.r.ReadByte(); err == nil {
				t.Error("the connection goes on")
			}
		})
	}
	if n := len(g.denials()); n != 0 {
		t.Errorf("%d records of clients that asked for nothing", n)
	}
}

func TestEndlessHeads(t *testing.T) {
	addr, _ := startDoor(t, newGate(nil), Options{MaxHeader: 8 << 10})
	for name, c := range map[string]struct {
		start, more string
		status      int
	}{
		"header":       {"GET http://a.test/ HTTP/1.1\r\nX: ", "y", 431},
		"request line": {"GET http://a.test/", "y", 414},
	} {
		t.Run(name, func(t *testing.T) {
			w := dialWire(t, addr)
			w.send(c.start + strings.Repeat(c.more, 8<<10))
			if resp, _ := w.response("GET"); resp.StatusCode != c.status {
				t.Errorf("got %d; want %d", resp.StatusCode, c.status)
			}
		})
	}
}

// TestConnectCut cuts a live tunnel as a change of policy does.
func TestConnectCut(t *testing.T) {
	g := newGate(map[string]string{"echo.test:7": serveLoop(t, echo)})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test\r\n\r\n\xff")
	w.response(http.MethodConnect)
	if b, err := w.r.ReadByte(); b != 0xff {
		t.Fatal(err)
	}
	g.cutAll(flow.EndPolicy)
	if _, err := w.r.ReadByte(); err == nil {
		t.Error("the tunnel goes on")
	}
	waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
	if f := g.ends()[0]; f.ClientEnd != flow.EndPolicy {
		t.Errorf("ended by %q", f.ClientEnd)
	}
}

// testCert makes a certificate for the names, and writes it to a file.
func testCert(t testing.TB, names ...string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}
