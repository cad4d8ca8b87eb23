package httpproxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"sluice/gateway/flow"
)

// wsEcho is a WebSocket server that sends back what it gets, and ends at the
// message "bye".
var wsEcho = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/refuse" {
		http.Error(w, "no sockets here", http.StatusTeapot)
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, msg, err := c.Read(r.Context())
		if err != nil || string(msg) == "bye" {
			c.Close(websocket.StatusNormalClosure, "bye")
			return
		}
		if c.Write(r.Context(), kind, msg) != nil {
			return
		}
	}
})

// dialWS opens a WebSocket to the server through one of the doors: CONNECT,
// or an absolute-form upgrade.
func dialWS(t testing.TB, proxy, server string, tunnel bool) (*websocket.Conn, error) {
	t.Helper()
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})}
	if tunnel {
		tr = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			w := dialWire(t, proxy)
			w.send("CONNECT " + server + " HTTP/1.1\r\nHost: " + server + "\r\n\r\n")
			w.response(http.MethodConnect)
			return w.Conn, nil
		}}
	}
	t.Cleanup(tr.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+server+"/ws", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: tr}, Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover,
	})
	return c, err
}

func TestWebSocket(t *testing.T) {
	g := newGate(map[string]string{"ws.test:80": startServer(t, wsEcho)})
	addr, _ := startDoor(t, g, Options{})
	for name, tunnel := range map[string]bool{"through CONNECT": true, "absolute-form": false} {
		t.Run(name, func(t *testing.T) {
			before := len(g.ends())
			c, err := dialWS(t, addr, "ws.test:80", tunnel)
			if err != nil {
				t.Fatal(err)
			}
			if c.Subprotocol() != "chat" {
				t.Errorf("subprotocol %q", c.Subprotocol())
			}
			ctx := t.Context()
			for _, msg := range []string{"hello", strings.Repeat("x", 20_000)} {
				if err := c.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
					t.Fatal(err)
				}
				if _, got, err := c.Read(ctx); string(got) != msg {
					t.Fatalf("got %d bytes, %v", len(got), err)
				}
			}
			c.Write(ctx, websocket.MessageText, []byte("bye"))
			if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
				t.Errorf("the server's close did not come through: %v", err)
			}
			waitFor(t, "the record", func() bool { return len(g.ends()) == before+1 })
			f := g.ends()[before]
			if f.BytesIn == 0 || f.BytesOut == 0 || !tunnel && f.Status != 101 {
				t.Errorf("record %+v", f)
			}
		})
	}
}

func TestWebSocketInsideTLS(t *testing.T) {
	g := newGate(map[string]string{"ws.test:80": startServer(t, wsEcho)})
	addr, _ := startTLSDoor(t, g, Options{})
	tr := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "https", Host: addr}),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	t.Cleanup(tr.CloseIdleConnections)
	c, _, err := websocket.Dial(t.Context(), "ws://ws.test/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if err := c.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(t.Context()); string(got) != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
}

const wsHead = " HTTP/1.1\r\nHost: ws.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// TestUpgradeOutcomes walks the ways a handshake can go.
func TestUpgradeOutcomes(t *testing.T) {
	g := newGate(map[string]string{"ws.test:80": startServer(t, wsEcho), "down.test:80": ""})
	addr, _ := startDoor(t, g, Options{})
	t.Run("refused by the server", func(t *testing.T) {
		w := dialWire(t, addr)
		for range 2 { // the connection can be used again
			w.send("GET http://ws.test/refuse" + wsHead)
			if resp, body := w.response("GET"); resp.StatusCode != 418 || body != "no sockets here\n" {
				t.Errorf("got %d %q", resp.StatusCode, body)
			}
		}
	})
	t.Run("denied", func(t *testing.T) {
		w := dialWire(t, addr)
		w.send(strings.Replace("GET http://ws.test/ws"+wsHead, "ws.test", "evil.test", 2))
		if resp, _ := w.response("GET"); resp.StatusCode != 403 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		w := dialWire(t, addr)
		w.send(strings.Replace("GET http://ws.test/ws"+wsHead, "ws.test", "down.test", 2))
		if resp, _ := w.response("GET"); resp.StatusCode != 504 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
	t.Run("first frame in the same write", func(t *testing.T) {
		w := dialWire(t, addr)
		w.send("GET http://ws.test/ws" + wsHead + "\x81\x85\x00\x00\x00\x00hello") // masked with zeros
		resp, _ := w.response("GET")
		if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
			t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
		}
		frame := make([]byte, 7)
		if _, err := io.ReadFull(w.r, frame); string(frame) != "\x81\x05hello" {
			t.Errorf("got %q, %v", frame, err)
		}
	})
	t.Run("cut by policy", func(t *testing.T) {
		w := dialWire(t, addr)
		w.send("GET http://ws.test/ws" + wsHead)
		w.response("GET")
		before := len(g.ends())
		g.cutAll(flow.EndPolicy)
		if _, err := w.r.ReadByte(); err == nil {
			t.Error("the socket goes on")
		}
		waitFor(t, "the record", func() bool { return len(g.ends()) > before })
		if f := g.ends()[len(g.ends())-1]; f.ClientEnd != flow.EndPolicy {
			t.Errorf("ended by %q", f.ClientEnd)
		}
	})
}

// TestServerCloseReachesClient: goproxy alone leaves the client's connection
// open for ever when the server closes an upgraded one.
func TestServerCloseReachesClient(t *testing.T) {
	server := serveLoop(t, func(_ context.Context, c net.Conn) {
		c.Read(make([]byte, 4096))
		io.WriteString(c, "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x88\x00")
	})
	g := newGate(map[string]string{"ws.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	w := dialWire(t, addr)
	w.send("GET http://ws.test/ws" + wsHead)
	w.response("GET")
	if rest, err := io.ReadAll(w.r); string(rest) != "\x88\x00" || err != nil {
		t.Errorf("got %q, %v; want the frame and the end", rest, err)
	}
}

// TestManyUpgradesLeaveNothing opens 200 WebSockets, and counts goroutines
// when they are gone.
func TestManyUpgradesLeaveNothing(t *testing.T) {
	server := serveLoop(t, func(_ context.Context, c net.Conn) {
		c.Read(make([]byte, 4096))
		io.WriteString(c, "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		c.Read(make([]byte, 1)) // a frame, or the client's end
	})
	g := newGate(map[string]string{"ws.test:80": server})
	addr, _ := startDoor(t, g, Options{})
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 20)
	for i := range 200 {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "GET http://ws.test/ws"+wsHead)
			if _, err := c.Read(make([]byte, 12)); err != nil {
				t.Error(err)
			}
			if i%2 == 0 { // the server closes first
				io.WriteString(c, "\x81\x83\x00\x00\x00\x00bye")
				io.Copy(io.Discard, c)
			}
		})
	}
	wg.Wait()
	waitFor(t, "the records", func() bool { return len(g.ends()) == 200 })
	waitFor(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}
