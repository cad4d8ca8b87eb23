package admin

import (
	"fmt"
	"net"
	"net/http"
	"strings"
)

// pac answers with a proxy auto-configuration that sends everything but local
// names to the proxy. What may leave is decided there: a list in the file
// would only tell clients where to try.
func (s *server) pac(w http.ResponseWriter, r *http.Request) {
	proxy := s.Proxy
	host, port, err := net.SplitHostPort(proxy)
	if err != nil {
		http.Error(w, "this gateway has no explicit proxy listener", http.StatusNotFound)
		return
	}
	if host == "" || net.ParseIP(host) != nil && net.ParseIP(host).IsUnspecified() {
		host = r.Host
		if h, _, err := net.SplitHostPort(r.Host); err == nil {
			host = h
		}
		proxy = net.JoinHostPort(strings.Trim(host, "[]"), port)
	}
	if strings.ContainsAny(proxy, "\"'\\<>; \r\n") {
		http.Error(w, "bad Host field", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ns-proxy-autoconfig")
	w.Header().Set("Cache-Control", "max-age=300")
	fmt.Fprintf(w, `function FindProxyForURL(url, host) {
  if (isPlainHostName(host) || host === "127.0.0.1" || host === "[::1]" || dnsDomainIs(host, ".localhost")) {
    return "DIRECT";
  }
  return "PROXY %s";
}
`, proxy)
}
