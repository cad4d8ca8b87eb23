// Package integration holds black-box tests of the built program, with real
// clients and servers on loopback.
package integration

import (
	"fmt"
	"os"
	"testing"

	"sluice/integration/testbed"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testbed.RemoveBinary()
	os.Exit(code)
}

// mission is the configuration of the tests: the five patterns of the
// embedded default, on free ports, with names that lead to the upstream.
func mission(extra string) string {
	return fmt.Sprintf(`version: 1
listeners:
  - {name: proxy, address: "127.0.0.1:0", doors: [connect, http, socks5]}
  - {name: sni, address: "127.0.0.1:0", doors: [tls]}
admin: {address: "127.0.0.1:0"}
resolver:
  servers: ["udp://127.0.0.1:9"]   # nobody: only the fixed answers below
  timeout: 1s
  hosts:
%sguard: {permit: [127.77.0.0/16]}
policy:
  allow:
    - "*.tokbox.com"
    - "*.opentok.com"
    - "*.supportsquare.io"
    - skinapi.soti.net
    - agora.*.nexthink.cloud
  rules:
    - name: clear-web
      to: {hosts: ["*.tokbox.com"], ports: [80], app: [http, ws]}
%s`, testbed.Hosts(), extra)
}
