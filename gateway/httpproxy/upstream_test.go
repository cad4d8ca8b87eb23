package httpproxy

import (
	"io"
	"net/http"
	"net/netip"
	"testing"

	"sluice/gateway/flow"
	"sluice/policy"
)

// TestPooledConnections: an upstream connection is used again, but never by a
// request whose rule permits other private addresses, nor of other addresses, nor after Reset, nor by
// another client once it carries a login.
func TestPooledConnections(t *testing.T) {
	g := newGate(map[string]string{"a.test:80": startServer(t, mirror)})
	addr, d := startDoor(t, g, Options{})
	get := func(header string) {
		t.Helper()
		w := dialWire(t, addr)
		w.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + header + "\r\n")
		if resp, body := w.response("GET"); resp.StatusCode != 200 {
			t.Fatalf("got %d %s", resp.StatusCode, body)
		}
		n := len(g.ends())
		waitFor(t, "the record", func() bool { return len(g.ends()) >= n })
		w.Close()
	}
	permit := func(cidr string) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.rule = &policy.Rule{Private: []netip.Prefix{netip.MustParsePrefix(cidr)}}
	}
	resolve := func(addrs ...string) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.resolve = func(f *flow.Flow) error {
			for _, a := range addrs {
				f.Resolved = append(f.Resolved, netip.MustParseAddr(a))
			}
			return nil
		}
	}
	for i, step := range []struct {
		do   func()
		want int // connections so far
	}{
		{func() { get("") }, 1},
		{func() { get("") }, 1},
		{func() { permit("10.0.0.0/8"); get("") }, 2},
		{func() { permit("10.0.0.0/8"); get("") }, 2},
		{func() { permit("10.1.0.0/16"); get("") }, 3},
		{func() { get("Authorization: NTLM TlRMTVNTUAAB\r\n") }, 4},
		{func() { get("") }, 4},
		{func() { d.Reset(); get("") }, 5},
		{func() { resolve("192.0.2.1", "192.0.2.2"); get("") }, 6},
		{func() { resolve("192.0.2.2", "192.0.2.1"); get("") }, 6},
		{func() { resolve("192.0.2.2"); get("") }, 7},
	} {
		step.do()
		g.mu.Lock()
		if g.dials != step.want {
			t.Errorf("after step %d: %d connections; want %d", i, g.dials, step.want)
		}
		g.mu.Unlock()
	}
}

func TestLocalHandler(t *testing.T) {
	local := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "local "+r.URL.Path) })
	addr, _ := startDoor(t, newGate(nil), Options{Local: local})
	w := dialWire(t, addr)
	w.send("GET /proxy.pac HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
	if resp, body := w.response("GET"); resp.StatusCode != 200 || body != "local /proxy.pac" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
}

// TestGoproxyAloneReachesNothing: a request that did not come through the gate
// goes nowhere, whatever goproxy would do by itself.
func TestGoproxyAloneReachesNothing(t *testing.T) {
	server := startServer(t, mirror)
	g := newGate(map[string]string{"a.test:80": server})
	_, d := startDoor(t, g, Options{})
	bare := startServer(t, d.proxy)
	for _, head := range []string{
		"GET http://" + server + "/", "CONNECT " + server, "GET /",
		"GET ws://" + server + "/", "GET https://" + server + "/",
	} {
		w := dialWire(t, bare)
		w.send(head + " HTTP/1.1\r\nHost: " + server + "\r\n\r\n")
		if resp, err := http.ReadResponse(w.r, nil); err == nil && resp.StatusCode < 400 {
			t.Errorf("%s: got %d", head, resp.StatusCode)
		}
	}
	if g.dials != 0 {
		t.Errorf("%d connections were dialled", g.dials)
	}
}
