package httpproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/sniff"
	"sluice/policy"
)

// TestServersThatMisbehave shows what a client gets for a response that is
// none.
func TestServersThatMisbehave(t *testing.T) {
	for name, c := range map[string]struct {
		say    string
		status int
		token  string
	}{
		"no HTTP":           {"SSH-2.0-x\r\n\r\n", 502, "http_protocol_error"},
		"nothing":           {"", 502, "http_response_incomplete"},
		"two lengths":       {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502, "http_protocol_error"},
		"unknown coding":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab", 502, "http_protocol_error"},
		"head too large":    {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 128<<10) + "\r\n\r\n", 502, "http_response_header_section_size"},
		"unasked WebSocket": {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nab", 502, "http_upgrade_failed"},
		"407":               {"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n", 502, "http_protocol_error"},
	} {
		t.Run(name, func(t *testing.T) {
			server := serveLoop(t, func(_ context.Context, conn net.Conn) {
				buf := make([]byte, 4096)
				conn.Read(buf)
				io.WriteString(conn, c.say)
				conn.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, conn)
			})
			g := newGate(map[string]string{"a.test:80": server})
			addr, _ := startDoor(t, g, Options{})
			w := dialWire(t, addr)
			w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
			resp, body := w.response("GET")
			if resp.StatusCode != c.status || !strings.Contains(resp.Header.Get("Proxy-Status"), "error="+c.token) {
				t.Errorf("got %d %v %s", resp.StatusCode, resp.Header, body)
			}
			if resp.Header.Get("Proxy-Authenticate") != "" {
				t.Error("the server's challenge got through")
			}
			waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
			if f := g.ends()[0]; f.Status != c.status || f.ErrorCode != c.token || f.Error == "" {
				t.Errorf("record %+v", f)
			}
		})
	}
}

// TestCutResponseIsNotWhole: a chunked response that breaks off must not look
// complete to the client.
func TestCutResponseIsNotWhole(t *testing.T) {
	server := serveLoop(t, func(_ context.Context, c net.Conn) {
		c.Read(make([]byte, 4096))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwo")
	})
	g := newGate(map[string]string{"a.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err == nil || !strings.HasPrefix("hellowo", string(body)) {
		t.Errorf("got %q, %v; want an error", body, err)
	}
	waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
	if f := g.ends()[0]; f.Error == "" || f.ServerEnd != flow.EndError {
		t.Errorf("record %+v", f)
	}
}

func TestResponsesWithoutBody(t *testing.T) {
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "1000")
		}
	}))
	g := newGate(map[string]string{"a.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	for _, c := range []struct {
		method, path string
		status       int
	}{{"HEAD", "/head", 200}, {"GET", "/204", 204}, {"GET", "/304", 304}, {"HEAD", "/304", 304}, {"HEAD", "/head", 200}} {
		w.send(c.method + " http://a.test" + c.path + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
		resp, body := w.response(c.method)
		if resp.StatusCode != c.status || body != "" || (c.path == "/head") != (resp.ContentLength == 1000) {
			t.Errorf("%s %s: got %d length %d %q", c.method, c.path, resp.StatusCode, resp.ContentLength, body)
		}
		if resp.Header.Get("Content-Type") != "" {
			t.Errorf("%s %s: a guessed Content-Type", c.method, c.path)
		}
	}
}

// TestStreaming has the server wait for the client to see each piece.
func TestStreaming(t *testing.T) {
	step := make(chan struct{})
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		for range 3 {
			<-step
			io.WriteString(w, "piece\n")
			w.(http.Flusher).Flush()
		}
		w.Header().Set(http.TrailerPrefix+"X-Sum", "9")
	}))
	g := newGate(map[string]string{"a.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	resp, err := http.ReadResponse(w.r, nil) // the head alone is there already
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		step <- struct{}{}
		buf := make([]byte, 6)
		if _, err := io.ReadFull(resp.Body, buf); string(buf) != "piece\n" {
			t.Fatalf("got %q, %v", buf, err)
		}
	}
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil || resp.Trailer.Get("X-Sum") != "9" {
		t.Errorf("got %q, %v, trailer %v", rest, err, resp.Trailer)
	}
}

// TestExpectContinue asks first, and is told by the server whether to send.
func TestExpectContinue(t *testing.T) {
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		io.Copy(w, r.Body)
	}))
	g := newGate(map[string]string{"a.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	const head = " HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
	w := dialWire(t, addr)
	w.send("POST http://a.test/yes" + head)
	if resp, _ := w.response("POST"); resp.StatusCode != 100 {
		t.Fatalf("got %d; want 100", resp.StatusCode)
	}
	w.send("hello")
	if resp, body := w.response("POST"); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	for path, want := range map[string]int{"http://a.test/no": 413, "http://evil.test/": 403} {
		w := dialWire(t, addr)
		w.send("POST " + path + strings.Replace(head, "a.test", strings.Split(path, "/")[2], 1))
		if resp, _ := w.response("POST"); resp.StatusCode != want {
			t.Errorf("%s: got %d; want %d", path, resp.StatusCode, want)
		}
	}
}

// TestLargeBodies moves 64 MiB each way. They are not kept in memory.
func TestLargeBodies(t *testing.T) {
	const size = 64 << 20
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", fmt.Sprint(n))
		io.CopyN(w, zeros{}, n)
	}))
	g := newGate(map[string]string{"a.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send(fmt.Sprintf("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n", size))
	if _, err := io.CopyN(w.Conn, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
	if f := g.ends()[0]; f.BytesIn != size || f.BytesOut != size || f.Status != 200 || !f.Upstream.IsValid() {
		t.Errorf("record %+v", f)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestRequestsAreCut(t *testing.T) {
	hold := make(chan struct{})
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "begin")
			w.(http.Flusher).Flush()
		}
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	defer close(hold)
	for _, path := range []string{"/head", "/body"} {
		t.Run(path, func(t *testing.T) {
			g := newGate(map[string]string{"a.test:80": server})
			addr, _ := startDoor(t, g, Options{})
			w := dialWire(t, addr)
			w.send("GET http://a.test" + path + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
			if path == "/body" {
				resp, err := http.ReadResponse(w.r, nil)
				if err != nil {
					t.Fatal(err)
				}
				io.ReadFull(resp.Body, make([]byte, 5))
				g.cutAll(flow.EndPolicy)
				if _, err := io.ReadAll(resp.Body); err == nil {
					t.Error("the response looks whole")
				}
			} else {
				waitFor(t, "the request to be live", func() bool { return g.cutAll(flow.EndPolicy) == 1 })
				if resp, _ := w.response("GET"); resp.StatusCode != 403 {
					t.Errorf("got %d; want 403", resp.StatusCode)
				}
			}
			waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
			if f := g.ends()[0]; f.ClientEnd != flow.EndPolicy {
				t.Errorf("ended by %q", f.ClientEnd)
			}
		})
	}
}

// TestIdleConnection: a connection between two requests is closed in silence.
func TestIdleConnection(t *testing.T) {
	g := newGate(map[string]string{"a.test:80": startServer(t, mirror)})
	addr, _ := startDoor(t, g, Options{IdleTimeout: 100 * time.Millisecond})
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	w.response("GET")
	if rest, err := io.ReadAll(w.r); len(rest) > 0 || err != nil {
		t.Errorf("got %q, %v; want the end", rest, err)
	}
}

func TestIdleExchangeIsCut(t *testing.T) {
	hold := make(chan struct{})
	server := startServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-hold }))
	defer close(hold)
	g := newGate(map[string]string{"a.test:80": server})
	g.rule = &policy.Rule{Idle: 100 * time.Millisecond}
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if resp, body := w.response("GET"); resp.StatusCode != 504 {
		t.Errorf("got %d %s; want 504", resp.StatusCode, body)
	}
}

func TestByteLimit(t *testing.T) {
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.CopyN(w, zeros{}, 8<<20) }))
	g := newGate(map[string]string{"a.test:80": server})
	g.rule = &policy.Rule{MaxBytes: 1 << 20}
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || n > 1<<20 {
		t.Errorf("got %d bytes, %v", n, err)
	}
	waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
	if f := g.ends()[0]; f.ClientEnd != flow.EndLimit {
		t.Errorf("ended by %q", f.ClientEnd)
	}
}

func TestClientGoesAway(t *testing.T) {
	here, gone := make(chan struct{}), make(chan struct{})
	server := startServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(here)
		<-r.Context().Done()
		close(gone)
	}))
	g := newGate(map[string]string{"a.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-here
	w.Close()
	<-gone
	waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
	if f := g.ends()[0]; f.ClientEnd != flow.EndReset || f.ErrorCode != "" {
		t.Errorf("record %+v", f)
	}
}

// TestReaderThatStops: a client that takes no more of a response is cut by the
// idle time-out, and holds nothing.
func TestReaderThatStops(t *testing.T) {
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, zeros{}) }))
	g := newGate(map[string]string{"a.test:80": server})
	g.rule = &policy.Rule{Idle: 200 * time.Millisecond}
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	waitFor(t, "the record", func() bool { return len(g.ends()) == 1 })
	if f := g.ends()[0]; f.ClientEnd != flow.EndIdle {
		t.Errorf("ended by %q: %s", f.ClientEnd, f.Error)
	}
}

// TestStop ends the context of the connections: requests in flight end with
// them, and their records say why.
func TestStop(t *testing.T) {
	hold := make(chan struct{})
	server := startServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-hold }))
	defer close(hold)
	g := newGate(map[string]string{"a.test:80": server})
	d := New(Options{Out: g})
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	addr := serveLoop(t, func(_ context.Context, c net.Conn) {
		d.Serve(ctx, sniff.NewConn(c), inbound(c))
		close(served)
	})
	w := dialWire(t, addr)
	w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	waitFor(t, "the dial", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.dials == 1 })
	stop()
	<-served
	if ends := g.ends(); len(ends) != 1 || ends[0].ClientEnd != flow.EndDrain {
		t.Errorf("records %+v", ends)
	}
}

// TestManyClients has many clients send many requests at once: each gets its
// own answer.
func TestManyClients(t *testing.T) {
	server := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.URL.Path, body)
	}))
	g := newGate(map[string]string{"a.test:80": server})
	plain, _ := startDoor(t, g, Options{})
	secure, _ := startTLSDoor(t, g, Options{})
	cc := dialH2(t, secure)
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: plain}), MaxIdleConnsPerHost: 8}
	t.Cleanup(tr.CloseIdleConnections)
	var wg sync.WaitGroup
	for i := range 16 {
		var rt http.RoundTripper = tr
		if i%2 == 0 {
			rt = cc
		}
		wg.Go(func() {
			for j := range 25 {
				path, body := fmt.Sprintf("/%d/%d", i, j), strings.Repeat("x", j*100)
				req, _ := http.NewRequest("POST", "http://a.test"+path, strings.NewReader(body))
				resp, err := rt.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(got) != path+" "+body || err != nil {
					t.Errorf("%s: got %.60q, %v", path, got, err)
				}
			}
		})
	}
	wg.Wait()
	waitFor(t, "the records", func() bool { return len(g.ends()) == 16*25 })
}
