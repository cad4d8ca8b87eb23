package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/integration/testbed"
)

// withListener puts one more listener in front of those of mission.
func withListener(listener, extra string) string {
	return strings.Replace(mission(extra), "  - {name: sni,", "  - "+listener+"\n  - {name: sni,", 1)
}

// A client certificate says who a client of the HTTPS proxy is; rules can be
// for that subject, and records carry it.
func TestClientCertificateIsIdentity(t *testing.T) {
	up := testbed.NewUpstream(t)
	cert, key := up.CA.LeafFiles("127.0.0.1")
	g := testbed.Start(t, withListener(
		"{name: secure, address: \"127.0.0.1:0\", doors: [connect], tls: {source: files, cert: "+cert+", key: "+key+", client_ca: "+up.CA.File+"}}",
		"    - {name: finance, from: {subjects: [CN=finance.corp.test]}, to: {hosts: [evil.test]}}\n"))
	proxy := "https://" + g.Address("secure")
	get := func(who string) testbed.Result {
		args := []string{"-sS", "--max-time", "20", "-x", proxy, "--proxy-cacert", up.CA.File, "--cacert", up.CA.File, "https://evil.test/"}
		if who != "" {
			c, k := up.CA.LeafFiles(who)
			args = append([]string{"--proxy-cert", c, "--proxy-key", k}, args...)
		}
		return testbed.Run(t, nil, "curl", args...)
	}
	if r := get("finance.corp.test"); !strings.Contains(r.Stdout, "hello from evil.test") {
		t.Errorf("the subject of the rule: %s%s", r.Stdout, r.Stderr)
	}
	if r := g.Await("event", "end", "host", "evil.test"); r.Str("subject") != "CN=finance.corp.test" || r.Str("rule") != "finance" {
		t.Errorf("record: %v", r)
	}
	if r := get("sales.corp.test"); r.Code == 0 || !strings.Contains(r.Stderr, "403") {
		t.Errorf("another subject: exit %d %s", r.Code, r.Stderr)
	}
	g.Await("reason", "source", "subject", "CN=sales.corp.test")
	if r := get(""); r.Code == 0 {
		t.Errorf("no certificate: %s", r.Stdout)
	}
}

// The internal authority signs the listener's certificate; its own can be
// given to clients.
func TestInternalAuthority(t *testing.T) {
	up := testbed.NewUpstream(t)
	g := testbed.Start(t, withListener("{name: secure, address: \"127.0.0.1:0\", doors: [connect], tls: {source: internal, names: [proxy.corp.test, 127.0.0.1]}}", ""))
	_, status := g.Get("/v1/status")
	_, rest, ok := strings.Cut(status, "must trust ")
	if !ok {
		t.Fatalf("status does not say where the authority's certificate is: %s", status)
	}
	file, _, _ := strings.Cut(rest, `"`)
	r := testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", "-x", "https://"+g.Address("secure"), "--proxy-cacert", file, "--cacert", up.CA.File, "https://hlg.tokbox.com/")
	if !strings.Contains(r.Stdout, "hello from") {
		t.Errorf("through the listener: %s%s", r.Stdout, r.Stderr)
	}
}

// The gateway does not wait for an issuer that is away: it serves meanwhile
// with a certificate of its own, and says so.
func TestStartDoesNotWaitForAnIssuer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	l.Close()
	up := testbed.NewUpstream(t)
	g := testbed.Start(t, withListener("{name: secure, address: \"127.0.0.1:0\", doors: [connect], tls: {source: acme, names: [proxy.corp.test], directory: \"https://"+dead+"/dir\"}}", ""))
	r := testbed.Run(t, nil, "curl", "-sS", "--max-time", "20", "-x", "https://"+g.Address("secure"), "--proxy-insecure", "--cacert", up.CA.File, "https://hlg.tokbox.com/")
	if !strings.Contains(r.Stdout, "hello from") {
		t.Errorf("meanwhile: %s%s", r.Stdout, r.Stderr)
	}
	if _, status := g.Get("/v1/status"); !strings.Contains(status, "self-signed") {
		t.Errorf("status does not say what is served meanwhile: %s", status)
	}
}

// An admin listener that others can reach asks who they are, over TLS; one
// that does not is refused at the start.
func TestAdminBeyondLoopback(t *testing.T) {
	ca := testbed.NewCA(t)
	cert, key := ca.LeafFiles("127.0.0.1")
	const token = "0123456789abcdef-token"
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := func(admin string) string {
		return strings.Replace(mission(""), `admin: {address: "127.0.0.1:0"}`, "admin: "+admin, 1)
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(config(`{address: "0.0.0.0:0"}`)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := testbed.Run(t, []string{"SLUICE_STATE_DIR=" + t.TempDir()}, testbed.Binary(t), "check", path)
	if r.Code != 1 || !strings.Contains(r.Stderr, "admin.token_file") || !strings.Contains(r.Stderr, "admin.tls") {
		t.Errorf("open admin listener: exit %d %s", r.Code, r.Stderr)
	}
	g := testbed.Start(t, config(fmt.Sprintf(`{address: "0.0.0.0:0", token_file: %s, tls: {source: files, cert: %s, key: %s}}`, tokenFile, cert, key)))
	_, port, _ := net.SplitHostPort(g.Admin)
	ask := func(header ...string) string {
		args := []string{"-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", ca.File}
		for _, h := range header {
			args = append(args, "-H", h)
		}
		return testbed.Run(t, nil, "curl", append(args, "https://127.0.0.1:"+port+"/v1/status")...).Stdout
	}
	if got := ask(); got != fmt.Sprint(http.StatusUnauthorized) {
		t.Errorf("without the token: %s", got)
	}
	if got := ask("Authorization: Bearer wrong"); got != fmt.Sprint(http.StatusUnauthorized) {
		t.Errorf("with another token: %s", got)
	}
	if got := ask("Authorization: Bearer " + token); got != fmt.Sprint(http.StatusOK) {
		t.Errorf("with the token: %s", got)
	}
}
