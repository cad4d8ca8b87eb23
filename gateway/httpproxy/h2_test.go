package httpproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"sluice/gateway/flow"
	"sluice/gateway/sniff"
	"sluice/policy"
)

// startTLSDoor serves a Door inside TLS, by the protocol that ALPN chose.
func startTLSDoor(t testing.TB, g *gate, o Options) (addr, caFile string) {
	t.Helper()
	o.Out = g
	d := New(o)
	t.Cleanup(d.Reset)
	cert, file := testCert(t, "proxy.test", "localhost")
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	addr = serveLoop(t, func(ctx context.Context, raw net.Conn) {
		c := tls.Server(raw, conf)
		if c.HandshakeContext(ctx) != nil {
			return
		}
		in := inbound(raw)
		in.Secure = true
		if c.ConnectionState().NegotiatedProtocol == "h2" {
			d.ServeH2(ctx, sniff.NewConn(c), in)
		} else {
			d.Serve(ctx, sniff.NewConn(c), in)
		}
	})
	return addr, file
}

func dialH2(t testing.TB, addr string) *http2.ClientConn {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	cc, err := (&http2.Transport{}).NewClientConn(c)
	if err != nil {
		t.Fatal(err)
	}
	return cc
}

// connectH2 opens a CONNECT stream. What is written to the pipe goes into it.
func connectH2(t testing.TB, cc *http2.ClientConn, target string) (*http.Response, *io.PipeWriter) {
	t.Helper()
	r, w := io.Pipe()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Host: target}, Host: target, Header: http.Header{}, Body: r, ContentLength: -1}
	resp, err := cc.RoundTrip(req.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close(); resp.Body.Close() })
	return resp, w
}

func TestH2Connect(t *testing.T) {
	cert, _ := testCert(t, "a.test")
	inner := serveLoop(t, func(_ context.Context, c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		io.Copy(s, s)
		s.CloseWrite()
		io.Copy(io.Discard, s)
	})
	greeter := serveLoop(t, func(_ context.Context, c net.Conn) {
		io.WriteString(c, "220 hello\r\n") // and closes: the server ends first
	})
	g := newGate(map[string]string{"a.test:443": inner, "echo.test:7": serveLoop(t, echo), "mail.test:25": greeter})
	addr, _ := startTLSDoor(t, g, Options{})
	cc := dialH2(t, addr)

	t.Run("half-close by the client", func(t *testing.T) {
		resp, w := connectH2(t, cc, "echo.test:7")
		io.WriteString(w, "\xffhello")
		w.Close()
		if got, err := io.ReadAll(resp.Body); string(got) != "\xffhello" || err != nil || resp.StatusCode != 200 {
			t.Errorf("got %d %q, %v", resp.StatusCode, got, err)
		}
	})
	t.Run("server speaks first, and ends first", func(t *testing.T) {
		resp, _ := connectH2(t, cc, "mail.test:25")
		if got, err := io.ReadAll(resp.Body); string(got) != "220 hello\r\n" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("TLS inside", func(t *testing.T) {
		resp, w := connectH2(t, cc, "a.test:443")
		c := tls.Client(pipeConn{r: resp.Body, w: w}, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
		big := strings.Repeat("x", 1<<20)
		go func() { io.WriteString(c, big); c.CloseWrite() }()
		if got, err := io.ReadAll(c); string(got) != big || err != nil {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
	t.Run("another name inside", func(t *testing.T) {
		resp, w := connectH2(t, cc, "a.test:443")
		err := tls.Client(pipeConn{r: resp.Body, w: w}, &tls.Config{ServerName: "evil.test"}).Handshake()
		if err == nil || !strings.Contains(err.Error(), "remote error: tls") {
			t.Errorf("handshake: %v; want an alert", err)
		}
		if d := g.denials(); len(d) != 1 || d[0].Decision.Reason != policy.ReasonNameMismatch {
			t.Errorf("denials %+v", d)
		}
	})
	t.Run("denied", func(t *testing.T) {
		resp, _ := connectH2(t, cc, "evil.test:443")
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 403 || !strings.Contains(string(body), "reason: no_rule") {
			t.Errorf("got %d %s", resp.StatusCode, body)
		}
	})
	t.Run("malformed target", func(t *testing.T) {
		resp, _ := connectH2(t, cc, "a.test:0443")
		if resp.StatusCode != 400 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
	t.Run("cut by policy", func(t *testing.T) {
		resp, w := connectH2(t, cc, "echo.test:7")
		io.WriteString(w, "\xff")
		io.ReadFull(resp.Body, make([]byte, 1))
		g.cutAll(flow.EndPolicy)
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the end looks like a whole one")
		}
	})
	t.Run("the connection has survived all that", func(t *testing.T) {
		resp, w := connectH2(t, cc, "echo.test:7")
		w.Close()
		if resp.StatusCode != 200 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
}

// pipeConn is the client's end of a CONNECT stream.
type pipeConn struct {
	net.Conn
	r io.Reader
	w io.WriteCloser
}

func (c pipeConn) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c pipeConn) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c pipeConn) Close() error                { return c.w.Close() }

// A client that chose HTTP/2 and then says nothing, or drips, is cut after the
// time of a request head.
func TestH2WithoutPreface(t *testing.T) {
	addr, _ := startTLSDoor(t, newGate(nil), Options{HeaderTimeout: 50 * time.Millisecond})
	for name, said := range map[string]string{"nothing": "", "half a preface": http2.ClientPreface[:12]} {
		t.Run(name, func(t *testing.T) {
			c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // its certificate is not at issue
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.WriteString(c, said)
			c.SetReadDeadline(time.Now().Add(5 * time.Second)) // net/http2 itself waits ten
			if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %q, %v; want the end", b, err)
			}
		})
	}
}

func TestH2Forward(t *testing.T) {
	g := newGate(map[string]string{"a.test:80": startServer(t, mirror)})
	addr, _ := startTLSDoor(t, g, Options{Instance: "me"})
	cc := dialH2(t, addr)
	for name, c := range map[string]struct {
		method, target, body string
		header               http.Header
		status               int
		want                 string
	}{
		"GET":          {"GET", "http://a.test/x?y", "", nil, 200, "GET /x?y HTTP/1.1 host=a.test\nVia: 2 sluice-me\r\nbody=\n"},
		"POST":         {"POST", "http://a.test/", "hello", nil, 200, "POST / HTTP/1.1 host=a.test\nContent-Length: 5\r\nVia: 2 sluice-me\r\nbody=hello\n"},
		"denied":       {"GET", "http://evil.test/", "", nil, 403, "reason: no_rule"},
		"https":        {"GET", "https://a.test/", "", nil, 501, "open a tunnel with CONNECT"},
		"loop":         {"GET", "http://a.test/", "", http.Header{"Via": {"2 sluice-me"}}, 502, "reason: loop"},
		"dot segments": {"GET", "http://a.test/x/%2e%2e/y", "", nil, 400, "dot segments"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, c.target, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.body == "" {
				req.Body = nil
			}
			req.Header = http.Header{"User-Agent": {""}, "Accept-Encoding": {"identity"}}
			for k, v := range c.header {
				req.Header[k] = v
			}
			resp, err := cc.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			text := strings.Replace(string(body), "Accept-Encoding: identity\r\n", "", 1)
			if resp.StatusCode != c.status || !strings.Contains(text, c.want) || err != nil {
				t.Errorf("got %d %q, %v; want %q", resp.StatusCode, text, err, c.want)
			}
		})
	}
	for _, f := range g.ends() {
		if f.Door != flow.DoorHTTP || f.Status != 200 {
			t.Errorf("record %+v", f)
		}
	}
}

// TestHTTP1InsideTLS uses net/http's own client through the HTTPS proxy.
func TestHTTP1InsideTLS(t *testing.T) {
	cert, _ := testCert(t, "a.test")
	secure := &http.Server{Handler: mirror, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go secure.ServeTLS(l, "", "")
	t.Cleanup(func() { secure.Close() })
	g := newGate(map[string]string{"a.test:80": startServer(t, mirror), "a.test:443": l.Addr().String()})
	addr, _ := startTLSDoor(t, g, Options{})
	tr := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "https", Host: addr}),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, RootCAs: x509.NewCertPool()},
	}
	t.Cleanup(tr.CloseIdleConnections)
	for _, target := range []string{"http://a.test/x", "https://a.test/x"} {
		resp, err := (&http.Client{Transport: tr}).Get(target)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.HasPrefix(string(body), "GET /x HTTP/1.1 host=a.test\n") {
			t.Errorf("%s: got %d %q", target, resp.StatusCode, body)
		}
	}
}

func (c pipeConn) SetWriteDeadline(time.Time) error { return nil }
