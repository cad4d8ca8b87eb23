package integration

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/integration/testbed"
)

// chromium loads a page and returns what its script reported: whether a
// WebSocket to the page's own host echoes, and whether a request to a name
// that no rule allows failed.
func chromium(t *testing.T, w *world, page string, flags ...string) string {
	t.Helper()
	program := testbed.Need(t, "chromium")
	home := t.TempDir()
	db := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-d", "sql:" + db, "-N", "--empty-password"},
		{"-d", "sql:" + db, "-A", "-t", "C,,", "-n", "lab", "-i", w.up.CA.File},
	} {
		if r := testbed.Run(t, nil, "certutil", args...); r.Code != 0 {
			t.Fatalf("certutil %v: %s", args, r.Stderr)
		}
	}
	args := append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + filepath.Join(home, "profile"),
	}, flags...)
	cmd := exec.Command(program, append(args, "--dump-dom", page)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C"}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	return w.up.Result(t)
}

const bothWell = "ws:ping denied"

func TestChromium(t *testing.T) {
	for _, tc := range []struct {
		name  string
		page  string
		flags func(w *world) []string
	}{
		{"explicit proxy", "https://ws.tokbox.com/page", func(w *world) []string { return []string{"--proxy-server=" + w.proxy} }},
		{"PAC file of the gateway", "https://ws.tokbox.com/page", func(w *world) []string {
			return []string{"--proxy-pac-url=http://" + w.Admin + "/proxy.pac"}
		}},
		{"page and WebSocket in clear", "http://ws.tokbox.com/page", func(w *world) []string { return []string{"--proxy-server=" + w.proxy} }},
		{"SOCKS5", "https://ws.tokbox.com/page", func(w *world) []string { return []string{"--proxy-server=socks5://" + w.addr} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, "")
			if got := chromium(t, w, tc.page, tc.flags(w)...); got != bothWell {
				t.Errorf("the page reported %q; want %q", got, bothWell)
			}
			w.Await("host", "denied.example.com", "reason", "no_rule")
			if n := w.up.Asked("denied.example.com"); n != 0 {
				t.Errorf("the upstream saw %d requests for the denied name", n)
			}
		})
	}
}

// secure is a listener that speaks TLS itself: an HTTPS proxy.
func secure(t *testing.T) (w *world) {
	t.Helper()
	up := testbed.NewUpstream(t)
	cert, key := up.CA.LeafFiles("proxy.corp.test", "127.0.0.1")
	config := strings.Replace(mission(""), "  - {name: sni,", "  - {name: secure, address: \"127.0.0.1:0\", doors: [connect, http], tls: {source: files, cert: "+cert+", key: "+key+"}}\n  - {name: sni,", 1)
	g := testbed.Start(t, config)
	return &world{Gateway: g, up: up, addr: g.Address("secure"), proxy: "https://" + g.Address("secure")}
}

func TestHTTPSProxy(t *testing.T) {
	t.Run("curl", func(t *testing.T) {
		w := secure(t)
		for _, version := range []string{"--http1.1", "--proxy-http2"} {
			get := func(url string) testbed.Result {
				return testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", version, "-x", w.proxy, "--proxy-cacert", w.up.CA.File, "--cacert", w.up.CA.File, url)
			}
			if version == "--proxy-http2" && !curlHas(t, version) {
				continue // Debian 12's curl is older; TestHTTPSProxyHTTP2 speaks it
			}
			if r := get("https://hlg.tokbox.com/"); !strings.Contains(r.Stdout, "hello from hlg.tokbox.com") {
				t.Errorf("%s: allowed: %s%s", version, r.Stdout, r.Stderr)
			}
			if r := get("http://hlg.tokbox.com/"); !strings.Contains(r.Stdout, "hello from hlg.tokbox.com") {
				t.Errorf("%s: allowed in clear: %s%s", version, r.Stdout, r.Stderr)
			}
			if r := get("https://evil.test/"); r.Code == 0 || !strings.Contains(r.Stderr, "403") {
				t.Errorf("%s: denied: exit %d %s", version, r.Code, r.Stderr)
			}
		}
	})
	// Chromium negotiates HTTP/2 with the proxy, and opens its tunnels as
	// streams.
	t.Run("chromium", func(t *testing.T) {
		w := secure(t)
		if got := chromium(t, w, "https://ws.tokbox.com/page", "--proxy-server="+w.proxy); got != bothWell {
			t.Errorf("the page reported %q; want %q", got, bothWell)
		}
		w.Await("host", "denied.example.com", "reason", "no_rule", "listener", "secure")
	})
}

func curlHas(t *testing.T, flag string) bool {
	t.Helper()
	return strings.Contains(testbed.Run(t, nil, "curl", "--help", "all").Stdout, flag)
}

// The WebSocket client of Node and that of Chromium take other ways through a
// proxy; both are upgrades inside CONNECT here.
func TestNodeWebSocket(t *testing.T) {
	w := newWorld(t, "")
	const script = `
const {ProxyAgent, WebSocket} = require("undici");
const s = new WebSocket(process.argv[1], {dispatcher: new ProxyAgent({uri: process.env.PROXY, proxyTunnel: true})});
s.onopen = () => s.send("ping");
s.onmessage = m => { console.log("got " + m.data); s.close(); };
s.onerror = e => { console.log("error"); process.exit(1); };
s.onclose = () => process.exit(0);`
	run := func(url string) testbed.Result {
		return testbed.Run(t, []string{"NODE_EXTRA_CA_CERTS=" + w.up.CA.File, "NODE_PATH=" + nodeModules(t), "PROXY=" + w.proxy}, "node", "-e", script, url)
	}
	if r := run("wss://ws.tokbox.com/ws"); !strings.Contains(r.Stdout, "got ping") {
		t.Errorf("allowed: %s%s", r.Stdout, r.Stderr)
	}
	if r := run("wss://evil.test/ws"); !strings.Contains(r.Stdout, "error") {
		t.Errorf("denied: %s%s", r.Stdout, r.Stderr)
	}
}

// curl's own upgrade in clear goes through the http door.
func TestCurlWebSocketInClear(t *testing.T) {
	w := newWorld(t, "")
	upgrade := []string{"-sS", "-i", "-N", "--http1.1", "--max-time", "3", "-x", w.proxy, "-H", "Connection: Upgrade", "-H", "Upgrade: websocket",
		"-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	if r := testbed.Run(t, nil, "curl", append(upgrade, "http://ws.tokbox.com/ws")...); !strings.Contains(r.Stdout, "101 Switching Protocols") {
		t.Errorf("allowed: %s%s", r.Stdout, r.Stderr)
	}
	if r := testbed.Run(t, nil, "curl", append(upgrade, "http://evil.test/ws")...); !strings.Contains(r.Stdout, "403 Forbidden") {
		t.Errorf("denied: %s%s", r.Stdout, r.Stderr)
	}
}

// A proxy URL in the environment of the gateway must not make it ask another
// proxy, or itself.
func TestProxyVariablesOfTheGatewayAreIgnored(t *testing.T) {
	asked := make(chan string, 10)
	trap := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Method + " " + r.RequestURI }))
	defer trap.Close()
	if _, err := url.Parse(trap.URL); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "", "HTTP_PROXY="+trap.URL, "HTTPS_PROXY="+trap.URL, "ALL_PROXY="+trap.URL)
	for _, u := range []string{"https://hlg.tokbox.com/", "http://hlg.tokbox.com/"} {
		if r := testbed.Run(t, nil, "curl", "-sS", "-x", w.proxy, "--cacert", w.up.CA.File, u); !strings.Contains(r.Stdout, "hello from") {
			t.Errorf("%s: %s%s", u, r.Stdout, r.Stderr)
		}
	}
	select {
	case got := <-asked:
		t.Errorf("the gateway asked another proxy: %s", got)
	default:
	}
}
