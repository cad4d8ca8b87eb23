package httpproxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCurl tries the ways in which curl can use a proxy.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("curl is missing")
		}
		t.Skip("curl is missing")
	}
	cert, ca := testCert(t, "a.test")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure := &http.Server{Handler: mirror, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	go secure.ServeTLS(l, "", "")
	t.Cleanup(func() { secure.Close() })
	g := newGate(map[string]string{
		"a.test:80": startServer(t, mirror), "a.test:443": l.Addr().String(), "ws.test:80": startServer(t, wsEcho),
	})
	plain, _ := startDoor(t, g, Options{})
	inTLS, proxyCA := startTLSDoor(t, g, Options{})
	_, port, _ := net.SplitHostPort(inTLS)
	httpsProxy := []string{"-x", "https://localhost:" + port, "--proxy-cacert", proxyCA}
	upload := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(upload, []byte(strings.Repeat("x", 2<<20)), 0o600); err != nil {
		t.Fatal(err)
	}

	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"http":                   {[]string{"-x", plain, "http://a.test/x"}, "GET /x HTTP/1.1 host=a.test"},
		"https":                  {[]string{"-x", plain, "--cacert", ca, "https://a.test/x"}, "GET /x HTTP/2.0 host=a.test"},
		"https, HTTP/1.0 proxy":  {[]string{"--proxy1.0", plain, "--cacert", ca, "https://a.test/x"}, "GET /x HTTP/2.0 host=a.test"},
		"http through CONNECT":   {[]string{"-x", plain, "-p", "http://a.test/x"}, "GET /x HTTP/1.1 host=a.test"},
		"HTTP/1.0 request":       {[]string{"-x", plain, "-0", "http://a.test/x"}, "GET /x HTTP/1.1 host=a.test"},
		"two on one connection":  {[]string{"-x", plain, "http://a.test/x", "http://a.test/y"}, "GET /y HTTP/1.1 host=a.test"},
		"upload that asks first": {[]string{"-x", plain, "-T", upload, "http://a.test/x"}, "Content-Length: 2097152"},
		"chunked upload":         {[]string{"-x", plain, "-H", "Transfer-Encoding: chunked", "-d", "hello", "http://a.test/x"}, "body=hello"},
		"http by HTTPS proxy":    {append(httpsProxy, "http://a.test/x"), "GET /x HTTP/1.1 host=a.test"},
		"https by HTTPS proxy":   {append(httpsProxy, "--cacert", ca, "https://a.test/x"), "GET /x HTTP/2.0 host=a.test"},
		"denied http":            {[]string{"-x", plain, "-i", "http://evil.test/"}, "HTTP/1.1 403 Forbidden"},
		"denied https":           {[]string{"-x", plain, "https://evil.test/"}, "CONNECT tunnel failed, response 403"},
		"WebSocket":              {[]string{"-x", plain, "-i", "-N", "--max-time", "1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "http://ws.test/ws"}, "HTTP/1.1 101 Switching Protocols"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			args := append([]string{"-sS", "--noproxy", ""}, c.args...)
			out, err := exec.CommandContext(ctx, "curl", args...).CombinedOutput()
			if !strings.Contains(string(out), c.want) {
				t.Errorf("curl %s: %v\n%.2000s\nwant %q", strings.Join(c.args, " "), err, out, c.want)
			}
		})
	}
}
