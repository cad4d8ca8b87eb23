package httpproxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// mirror answers with what it got: the request line, the header in order of
// names, the body and the trailers.
var mirror = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "%s %s %s host=%s\n", r.Method, r.RequestURI, r.Proto, r.Host)
	r.Header.Write(w)
	fmt.Fprintf(w, "body=%s\n", body)
	r.Trailer.Write(w)
})

func TestForward(t *testing.T) {
	g := newGate(map[string]string{"a.test:80": startServer(t, mirror), "a.test:8080": startServer(t, mirror)})
	addr, _ := startDoor(t, g, Options{Instance: "me"})
	for name, c := range map[string]struct{ in, want string }{
		"GET":                    {"GET http://a.test/x?y=1 HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /x?y=1 HTTP/1.1 host=a.test\nVia: 1.1 sluice-me\r\nbody=\n"},
		"HTTP/1.0":               {"GET http://a.test/ HTTP/1.0\r\n\r\n", "GET / HTTP/1.1 host=a.test\nVia: 1.0 sluice-me\r\nbody=\n"},
		"empty path":             {"GET http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET / HTTP/1.1 host=a.test\nVia: 1.1 sluice-me\r\nbody=\n"},
		"path as written":        {"GET http://a.test/a%2Fb|{c}'//d HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /a%2Fb|{c}'//d HTTP/1.1 host=a.test\nVia: 1.1 sluice-me\r\nbody=\n"},
		"port":                   {"GET http://a.test:8080/ HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", "GET / HTTP/1.1 host=a.test:8080\nVia: 1.1 sluice-me\r\nbody=\n"},
		"Content-Length":         {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1 host=a.test\nContent-Length: 5\r\nVia: 1.1 sluice-me\r\nbody=hello\n"},
		"chunked":                {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "POST / HTTP/1.1 host=a.test\nVia: 1.1 sluice-me\r\nbody=hello\n"},
		"trailer":                {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n", "POST / HTTP/1.1 host=a.test\nVia: 1.1 sluice-me\r\nbody=hello\nX-Sum: 9\r\n"},
		"hop-by-hop":             {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n\r\n", "GET / HTTP/1.1 host=a.test\nVia: 1.1 sluice-me\r\nbody=\n"},
		"h2c":                    {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "GET / HTTP/1.1 host=a.test\nVia: 1.1 sluice-me\r\nbody=\n"},
		"end-to-end fields stay": {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: br\r\nUser-Agent: x/1\r\nVia: 1.0 other\r\n\r\n", "GET / HTTP/1.1 host=a.test\nAccept-Encoding: br\r\nUser-Agent: x/1\r\nVia: 1.0 other, 1.1 sluice-me\r\nbody=\n"},
		"OPTIONS with hops left": {"OPTIONS http://a.test/ HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 2\r\n\r\n", "OPTIONS / HTTP/1.1 host=a.test\nMax-Forwards: 1\r\nVia: 1.1 sluice-me\r\nbody=\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := dialWire(t, addr)
			w.send(c.in)
			resp, body := w.response("GET")
			if resp.StatusCode != 200 || body != c.want {
				t.Errorf("%q: got %d %q; want %q", c.in, resp.StatusCode, body, c.want)
			}
			if resp.Header.Get("Via") != "1.1 sluice-me" {
				t.Errorf("Via of the response: %q", resp.Header.Get("Via"))
			}
		})
	}
}

func TestForwardRefused(t *testing.T) {
	g := newGate(map[string]string{"a.test:80": startServer(t, mirror), "down.test:80": ""})
	addr, _ := startDoor(t, g, Options{Instance: "me"})
	for name, c := range map[string]struct {
		in     string
		status int
		want   string
	}{
		"no rule":       {"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 403, "reason: no_rule"},
		"other Host":    {"GET http://a.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 403, "reason: name_mismatch"},
		"loop":          {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nVia: 1.1 SLUICE-me (x)\r\n\r\n", 502, "proxy_loop_detected"},
		"TRACE":         {"TRACE http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 405, "reason: request"},
		"unreachable":   {"GET http://down.test/ HTTP/1.1\r\nHost: down.test\r\n\r\n", 504, "error: connection_timeout"},
		"denied upload": {"POST http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 5\r\n\r\nhello", 403, "reason: no_rule"},
	} {
		t.Run(name, func(t *testing.T) {
			w := dialWire(t, addr)
			// The connection must stay in step for the next request.
			for range 2 {
				w.send(c.in)
				resp, body := w.response("GET")
				if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
					t.Errorf("%q: got %d %s", c.in, resp.StatusCode, body)
				}
			}
		})
	}
}

// TestKeptAliveConnection judges every request of a connection on its own.
func TestKeptAliveConnection(t *testing.T) {
	g := newGate(map[string]string{"a.test:80": startServer(t, mirror), "echo.test:7": serveLoop(t, echo)})
	addr, _ := startDoor(t, g, Options{})
	const get = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"

	t.Run("pipelined request to another host", func(t *testing.T) {
		w := dialWire(t, addr)
		w.send(get + "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n" + get)
		for i, want := range []int{200, 403, 200} {
			if resp, body := w.response("GET"); resp.StatusCode != want {
				t.Errorf("response %d: got %d %s; want %d", i, resp.StatusCode, body, want)
			}
		}
	})
	t.Run("pipelined malformed request", func(t *testing.T) {
		w := dialWire(t, addr)
		w.send(get + "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get)
		for i, want := range []int{200, 400} {
			if resp, body := w.response("GET"); resp.StatusCode != want {
				t.Errorf("response %d: got %d %s; want %d", i, resp.StatusCode, body, want)
			}
		}
		if _, err := w.r.ReadByte(); err == nil {
			t.Error("the connection goes on")
		}
	})
	t.Run("pipelined CONNECT with early data", func(t *testing.T) {
		w := dialWire(t, addr)
		w.send(get + "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test\r\n\r\n\xffEARLY")
		w.response("GET")
		if resp, _ := w.response(http.MethodConnect); resp.StatusCode != 200 {
			t.Fatalf("got %d", resp.StatusCode)
		}
		w.Conn.(*net.TCPConn).CloseWrite()
		if got, _ := io.ReadAll(w.r); string(got) != "\xffEARLY" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("denied after a change of policy", func(t *testing.T) {
		w := dialWire(t, addr)
		w.send(get)
		w.response("GET")
		g.forbid("a.test:80")
		w.send(get)
		if resp, _ := w.response("GET"); resp.StatusCode != 403 {
			t.Errorf("got %d; want 403", resp.StatusCode)
		}
	})
}

// TestBrokenBodies sends bodies whose framing is off: the server never gets a
// whole message of them, and nothing behind them is read as a request.
func TestBrokenBodies(t *testing.T) {
	var whole atomic.Int32
	server := startServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		whole.Add(1)
	}))
	g := newGate(map[string]string{"a.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	for name, body := range map[string]string{
		"no size":               "\r\nhello\r\n0\r\n\r\n",
		"size with 0x":          "0x5\r\nhello\r\n0\r\n\r\n",
		"size with sign":        "+5\r\nhello\r\n0\r\n\r\n",
		"size with space":       "5 \r\nhello\r\n0\r\n\r\n",
		"size with underscore":  "1_0\r\nhello\r\n0\r\n\r\n",
		"size that overflows":   "10000000000000005\r\nhello\r\n0\r\n\r\n",
		"bare LF after size":    "5\nhello\r\n0\r\n\r\n",
		"bare CR in size":       "5\rx\r\nhello\r\n0\r\n\r\n",
		"bare LF after data":    "5\r\nhello\n0\r\n\r\n",
		"longer than its size":  "3\r\nhello\r\n0\r\n\r\n",
		"quoted extension":      "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
		"bare LF in extension":  "5;a\nb\r\nhello\r\n0\r\n\r\n",
		"endless extension":     "5;" + strings.Repeat("a", 300) + "\r\nhello\r\n0\r\n\r\n",
		"framing in trailer":    "5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
		"host in trailer":       "5\r\nhello\r\n0\r\nHost: evil.test\r\n\r\n",
		"folded trailer":        "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
		"trailer without colon": "5\r\nhello\r\n0\r\nX\r\n\r\n",
		"endless trailer":       "5\r\nhello\r\n0\r\nX: " + strings.Repeat("a", maxTrailer) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := dialWire(t, addr)
			w.send("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + body +
				"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n")
			if resp, text := w.response("GET"); resp.StatusCode != 400 {
				t.Errorf("%q: got %d %s; want 400", body, resp.StatusCode, text)
			}
			if _, err := w.r.ReadByte(); err == nil {
				t.Errorf("%q: the connection goes on", body)
			}
		})
	}
	if n := whole.Load(); n != 0 || len(g.denials()) != 0 {
		t.Errorf("the server got %d whole bodies; denials %v", n, g.denials())
	}
}
