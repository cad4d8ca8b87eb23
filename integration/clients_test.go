package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/integration/testbed"
)

// client is a real program that fetches a URL through the explicit proxy.
type client struct {
	name string
	run  func(t *testing.T, w *world, url string) testbed.Result
}

// world is one upstream and one gateway for a test.
type world struct {
	*testbed.Gateway
	up    *testbed.Upstream
	proxy string // URL
	addr  string // host:port of the proxy listener
}

func newWorld(t *testing.T, extra string, env ...string) *world {
	t.Helper()
	up := testbed.NewUpstream(t)
	g := testbed.Start(t, mission(extra), env...)
	addr := g.Address("proxy")
	return &world{Gateway: g, up: up, proxy: "http://" + addr, addr: addr}
}

var clients = []client{
	{"curl", func(t *testing.T, w *world, url string) testbed.Result {
		return testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", "--http1.1", "-x", w.proxy, "--cacert", w.up.CA.File, url)
	}},
	{"curl with HTTP/2 inside", func(t *testing.T, w *world, url string) testbed.Result {
		return testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", "--http2", "-x", w.proxy, "--cacert", w.up.CA.File, url)
	}},
	{"curl over SOCKS5", func(t *testing.T, w *world, url string) testbed.Result {
		return testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", "-x", "socks5h://"+w.addr, "--cacert", w.up.CA.File, url)
	}},
	{"curl as HTTP/1.0 proxy client", func(t *testing.T, w *world, url string) testbed.Result {
		return testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", "--proxy1.0", w.addr, "--cacert", w.up.CA.File, url)
	}},
	{"wget", func(t *testing.T, w *world, url string) testbed.Result {
		return testbed.Run(t, []string{"https_proxy=" + w.proxy}, "wget", "-q", "-T", "20", "-t", "1", "-O", "-", "--ca-certificate="+w.up.CA.File, url)
	}},
	{"node", func(t *testing.T, w *world, url string) testbed.Result {
		return testbed.Run(t, []string{"NODE_EXTRA_CA_CERTS=" + w.up.CA.File, "NODE_PATH=" + nodeModules(t), "PROXY=" + w.proxy}, "node", "-e", nodeFetch, url)
	}},
	{"python", func(t *testing.T, w *world, url string) testbed.Result {
		return testbed.Run(t, []string{"https_proxy=" + w.proxy, "SSL_CERT_FILE=" + w.up.CA.File}, python(t), "-c",
			"import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())", url)
	}},
	{"java", runJava},
}

// python finds an interpreter that does not depend on the user's home.
func python(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		return "/usr/bin/python3"
	}
	return testbed.Need(t, "python3")
}

// nodeModules is where undici is: Node 20 itself reads no proxy variables.
func nodeModules(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SLUICE_TEST_NODE_PATH")
	if _, err := os.Stat(filepath.Join(dir, "undici")); dir == "" || err != nil {
		testbed.Unable(t, "the npm packages undici and ws are not in $SLUICE_TEST_NODE_PATH")
	}
	return dir
}

const nodeFetch = `
const {ProxyAgent, fetch} = require("undici");
fetch(process.argv[1], {dispatcher: new ProxyAgent({uri: process.env.PROXY, proxyTunnel: true})})
  .then(r => r.text()).then(t => console.log(t), e => { console.error(e, e.cause); process.exit(1) });`

const javaFetch = `
import java.net.*; import java.net.http.*;
public class Fetch {
  public static void main(String[] a) throws Exception {
    HttpClient c = HttpClient.newBuilder().proxy(ProxySelector.of(new InetSocketAddress(a[1], Integer.parseInt(a[2])))).build();
    HttpResponse<String> r = c.send(HttpRequest.newBuilder(URI.create(a[0])).build(), HttpResponse.BodyHandlers.ofString());
    System.out.println(r.body());
    if (r.statusCode() != 200) { System.err.println("status " + r.statusCode()); System.exit(1); }
  }
}`

func runJava(t *testing.T, w *world, url string) testbed.Result {
	testbed.Need(t, "java")
	dir := t.TempDir()
	src, trust := filepath.Join(dir, "Fetch.java"), filepath.Join(dir, "trust.p12")
	if err := os.WriteFile(src, []byte(javaFetch), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := testbed.Run(t, nil, "keytool", "-importcert", "-noprompt", "-alias", "lab", "-storetype", "PKCS12",
		"-keystore", trust, "-storepass", "changeit", "-file", w.up.CA.File); r.Code != 0 {
		t.Fatalf("keytool: %s%s", r.Stdout, r.Stderr)
	}
	host, port, _ := strings.Cut(w.addr, ":")
	return testbed.Run(t, nil, "java", "-XX:TieredStopAtLevel=1", "-Djavax.net.ssl.trustStore="+trust, "-Djavax.net.ssl.trustStorePassword=changeit", src, url, host, port)
}

// Each real client gets what is allowed, and fails at once on what is not,
// with a record of the name and the reason.
func TestClientsThroughTheExplicitProxy(t *testing.T) {
	w := newWorld(t, "")
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			r := c.run(t, w, "https://hlg.tokbox.com/")
			if r.Code != 0 || !strings.Contains(r.Stdout, "hello from hlg.tokbox.com") {
				t.Errorf("allowed: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
			}
			before := len(w.Find("host", "denied.example.com", "reason", "no_rule"))
			r = c.run(t, w, "https://denied.example.com/")
			if r.Code == 0 || strings.Contains(r.Stdout, "hello") {
				t.Errorf("denied: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
			}
			testbed.Eventually(t, "the denial is recorded", func() bool {
				return len(w.Find("host", "denied.example.com", "reason", "no_rule")) > before
			})
		})
	}
	if n := w.up.Asked("denied.example.com"); n != 0 {
		t.Errorf("the upstream saw %d requests for the denied name", n)
	}
}

// The names of the mission, and their near misses.
func TestMissionNames(t *testing.T) {
	w := newWorld(t, "")
	for name, want := range map[string]bool{
		"hlg.tokbox.com": true,
		"turn2-84f4cbd976-728xw-euc1.media.prod.tokbox.com": true,
		"config.opentok.com":          true,
		"passerelle.supportsquare.io": true,
		"skinapi.soti.net":            true,
		"agora.eu.nexthink.cloud":     true,
		"agora.a.b.nexthink.cloud":    false,
		"tokbox.com":                  false,
		"eviltokbox.com":              false,
		"evil.test":                   false,
	} {
		r := testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", "-x", w.proxy, "--cacert", w.up.CA.File, "https://"+name+"/")
		if got := r.Code == 0 && strings.Contains(r.Stdout, "hello from "+name); got != want {
			t.Errorf("%s: allowed %v; want %v\n%s", name, got, want, r.Stderr)
		}
		if !want && !strings.Contains(r.Stderr, "403") {
			t.Errorf("%s: curl does not see a 403: %s", name, r.Stderr)
		}
	}
}

func TestPlainHTTP(t *testing.T) {
	w := newWorld(t, "")
	r := testbed.Run(t, nil, "curl", "-sS", "-x", w.proxy, "http://hlg.tokbox.com/", "http://hlg.tokbox.com/headers")
	if r.Code != 0 || !strings.Contains(r.Stdout, "hello from hlg.tokbox.com") || !strings.Contains(r.Stdout, "Via: 1.1 ") {
		t.Errorf("allowed: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	r = testbed.Run(t, nil, "curl", "-sS", "-i", "-x", w.proxy, "http://skinapi.soti.net/")
	for _, want := range []string{"HTTP/1.1 403 ", "Proxy-Status: sluice; error=http_request_denied", "reason: port", "record: "} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("denied answer lacks %q:\n%s", want, r.Stdout)
		}
	}
	r = testbed.Run(t, nil, "curl", "-sS", "-H", "Accept: application/json", "-x", w.proxy, "http://evil.test/")
	if !strings.Contains(r.Stdout, `"reason":"no_rule"`) && !strings.Contains(r.Stdout, `"reason": "no_rule"`) {
		t.Errorf("denied answer as JSON: %s", r.Stdout)
	}
}

func TestGitClone(t *testing.T) {
	w := newWorld(t, "")
	w.up.GitRepository(t, "repo.git")
	env := []string{"https_proxy=" + w.proxy, "GIT_SSL_CAINFO=" + w.up.CA.File, "GIT_TERMINAL_PROMPT=0"}
	dir := t.TempDir()
	r := testbed.Run(t, env, "git", "clone", "-q", "https://git.supportsquare.io/files/repo.git", filepath.Join(dir, "ok"))
	if r.Code != 0 {
		t.Errorf("allowed clone: %s", r.Stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "ok", "hello.txt")); err != nil {
		t.Error(err)
	}
	r = testbed.Run(t, env, "git", "clone", "-q", "https://evil.test/files/repo.git", filepath.Join(dir, "no"))
	if r.Code == 0 || !strings.Contains(r.Stderr, "403") {
		t.Errorf("denied clone: exit %d: %s", r.Code, r.Stderr)
	}
}

func TestOpenSSLThroughTheProxy(t *testing.T) {
	w := newWorld(t, "")
	s := func(connect, servername string) testbed.Result {
		return testbed.Run(t, nil, "sh", "-c", `printf 'GET / HTTP/1.0\r\nHost: x\r\n\r\n' | timeout 20 openssl s_client -quiet -verify_return_error -proxy "$0" -connect "$1" -servername "$2" -CAfile "$3"`,
			w.addr, connect, servername, w.up.CA.File)
	}
	if r := s("hlg.tokbox.com:443", "hlg.tokbox.com"); !strings.Contains(r.Stdout, "hello from") {
		t.Errorf("allowed: %s%s", r.Stdout, r.Stderr)
	}
	if r := s("evil.test:443", "evil.test"); strings.Contains(r.Stdout, "hello from") || !strings.Contains(r.Stderr, "403") {
		t.Errorf("denied: %s%s", r.Stdout, r.Stderr)
	}
	// An allowed CONNECT with another name inside is a tunnel to anywhere on a
	// shared address.
	if r := s("hlg.tokbox.com:443", "evil.test"); strings.Contains(r.Stdout, "hello from") || !strings.Contains(r.Stderr, "alert") {
		t.Errorf("other name inside: %s%s", r.Stdout, r.Stderr)
	}
	rec := w.Await("reason", "name_mismatch")
	if rec.Str("host") != "hlg.tokbox.com" || !strings.Contains(rec.Str("claims"), "evil.test") {
		t.Errorf("record of the mismatch: %v", rec)
	}
	if r := s("hlg.tokbox.com:443", "config.opentok.com"); !strings.Contains(r.Stdout, "hello from") {
		t.Errorf("another name inside that is allowed itself: %s%s", r.Stdout, r.Stderr)
	}
}

func TestSNIRouter(t *testing.T) {
	w := newWorld(t, "")
	sni := w.Address("sni")
	get := func(name string) testbed.Result {
		return testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", "--connect-to", "::"+sni, "--cacert", w.up.CA.File, "https://"+name+"/")
	}
	if r := get("hlg.tokbox.com"); !strings.Contains(r.Stdout, "hello from hlg.tokbox.com over HTTP/2") {
		t.Errorf("allowed: %s%s", r.Stdout, r.Stderr)
	}
	if r := get("evil.test"); r.Code != 35 || !strings.Contains(r.Stderr, "alert") {
		t.Errorf("denied: exit %d: %s", r.Code, r.Stderr)
	}
	w.Await("door", "tls", "host", "evil.test", "reason", "no_rule")
	r := testbed.Run(t, nil, "sh", "-c", `echo | timeout 20 openssl s_client -connect "$0" -noservername -CAfile "$1"`, sni, w.up.CA.File)
	if !strings.Contains(r.Stderr, "alert") {
		t.Errorf("no server name: %s", r.Stderr)
	}
	w.Await("door", "tls", "reason", "no_name")
}
