package integration

import (
	"os/exec"
	"strings"
	"testing"

	"sluice/integration/testbed"
)

// The program without a file: the embedded default lets out the names of the
// mission and the services behind them, and tells what to try.
func TestEmbeddedDefault(t *testing.T) {
	// Nobody answers DNS: what is allowed gets as far as the look-up.
	g := testbed.StartCommand(t, exec.Command(testbed.Binary(t), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"), "",
		"SLUICE_RESOLVER_SERVERS=udp://127.0.0.1:9", "SLUICE_RESOLVER_TIMEOUT=500ms")
	if out := g.Stdout(); !strings.Contains(out, "curl -x http://"+g.Address("proxy")) || !strings.Contains(out, "(embedded default), enforce") {
		t.Errorf("greeting:\n%s", out)
	}
	for target, want := range map[string]string{
		"hlg.tokbox.com:443": "dns_error", "config.opentok.com:443": "dns_error", "passerelle.supportsquare.io:443": "dns_error",
		"skinapi.soti.net:443": "dns_error", "agora.eu.nexthink.cloud:443": "dns_error", "rest.nexmo.com:443": "no_rule",
		"storage.googleapis.com:443": "dns_error", // Passerelle XR keeps its files there
		"example.com:443":            "no_rule", "tokbox.com:443": "no_rule", "skinapi.soti.net:80": "port",
	} {
		r := testbed.Run(t, nil, "curl", "-sS", "-p", "-x", g.Address("proxy"), "-o", "/dev/null", "-D", "-", "--max-time", "20", "http://"+target+"/")
		if !strings.Contains(r.Stdout, want) && !(want == "dns_error" && strings.Contains(r.Stdout, "dns_timeout")) {
			t.Errorf("%s: want %s\n%s%s", target, want, r.Stdout, r.Stderr)
		}
	}
}
