package integration

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/integration/testbed"
)

// moded is mission in another mode.
func moded(mode, rules string) string {
	return strings.Replace(mission(rules), "policy:\n", "policy:\n  mode: "+mode+"\n", 1)
}

// get asks for a URL through the explicit proxy, and returns the status.
func (w *world) get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := w.through(t).Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

// In mode report all passes, and the records say what enforce would deny; a
// reload to enforce flips it, and cuts what passes no longer.
func TestReportThenEnforce(t *testing.T) {
	w := newWorldOf(t, moded("report", raw))
	echo := testbed.Echo(t)
	for _, url := range []string{"https://denied.example.com/", "http://denied.example.com/", "https://hlg.tokbox.com/"} {
		if status, body := w.get(t, url); status != 200 || !strings.Contains(body, "hello from") {
			t.Errorf("%s in mode report: %d %s", url, status, body)
		}
	}
	for _, door := range []string{"connect", "http"} {
		r := w.Await("event", "decision", "host", "denied.example.com", "door", door)
		if r.Str("decision") != "allow" || r.Str("would_deny") != "true" || r.Str("reason") != "no_rule" || r.Str("mode") != "report" {
			t.Errorf("record of %s: %v", door, r)
		}
	}
	if r := w.Await("event", "decision", "host", "hlg.tokbox.com"); r.Str("would_deny") != "" {
		t.Errorf("record of an allowed flow: %v", r)
	}
	if n := w.Metric("sluice_flows_total", `decision="would_deny"`); n < 2 {
		t.Errorf("%v would-be denials counted; want 2", n)
	}
	marked, res := w.connect(t, "evil.test:"+echo)
	defer marked.Close()
	if res.StatusCode != 200 || !echoes(marked) {
		t.Fatalf("a tunnel of no rule, in mode report: %s", res.Status)
	}
	kept := w.echoTunnel(t, echo)
	defer kept.Close()

	write(t, w.Config, mission(raw))
	w.Signal(syscall.SIGHUP)
	awaitCut(t, marked)
	r := w.Await("host", "evil.test", "decision", "deny")
	if r.Str("reason") != "no_rule" || r.Str("mode") != "enforce" {
		t.Errorf("record of the cut: %v", r)
	}
	if !echoes(kept) {
		t.Error("a tunnel that enforce allows is cut too")
	}
	if status, _ := w.get(t, "http://denied.example.com/"); status != 403 {
		t.Errorf("in mode enforce: %d", status)
	}
}

// Mode open lets everything pass, except what a deny rule names, and the
// guard holds as in every mode.
func TestOpenMode(t *testing.T) {
	config := strings.Replace(moded("open", ""), "  allow:\n", "  deny: [evil.test]\n  allow:\n", 1)
	config = strings.Replace(config, "  hosts:\n", "  hosts:\n    - {name: inside.example, addresses: [10.0.0.1]}\n", 1)
	w := newWorldOf(t, config)
	for url, want := range map[string]int{
		"http://denied.example.com/":  200,
		"https://denied.example.com/": 200,
		"http://evil.test/":           403,
		"http://inside.example/":      403,
	} {
		if status, body := w.get(t, url); status != want {
			t.Errorf("%s: %d; want %d\n%s", url, status, want, body)
		}
	}
	if r := w.Await("host", "denied.example.com", "decision", "allow"); r.Str("mode") != "open" {
		t.Errorf("record: %v", r)
	}
	w.Await("host", "inside.example", "reason", "forbidden_address")
	w.Await("host", "evil.test", "reason", "deny_rule")
}

// A rule of its own mode is a trial while the policy enforces.
func TestRuleOnTrial(t *testing.T) {
	w := newWorld(t, `    - {name: trial, mode: report, to: {hosts: [denied.example.com], ports: [80], app: http}}
    - {name: ban, action: deny, mode: report, to: {hosts: [ws.tokbox.com]}}
`)
	for url, want := range map[string]int{
		"http://denied.example.com/": 200,
		"http://ws.tokbox.com/":      200,
		"http://evil.test/":          403,
	} {
		if status, body := w.get(t, url); status != want {
			t.Errorf("%s: %d; want %d\n%s", url, status, want, body)
		}
	}
	for host, rule := range map[string]string{"denied.example.com": "trial", "ws.tokbox.com": "ban"} {
		r := w.Await("event", "decision", "host", host)
		if r.Str("decision") != "allow" || r.Str("would_deny") != "true" || r.Str("rule") != rule {
			t.Errorf("record of %s: %v", host, r)
		}
	}
}

// A deny rule on trial marks the flow, and takes nothing from the rule that
// lets it out: its limits hold.
func TestTrialLeavesLimits(t *testing.T) {
	w := newWorld(t, `    - {name: few, max_bytes: 64KiB, to: {hosts: ["*.supportsquare.io"], ports: ["1-65535"], app: opaque}}
    - {name: few-web, max_bytes: 64KiB, to: {hosts: ["*.supportsquare.io"], ports: [80], app: http}}
    - {name: ban, action: deny, mode: report, to: {hosts: [passerelle.supportsquare.io]}}
`)
	c := w.echoTunnel(t, testbed.Echo(t))
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	go io.Copy(c, io.LimitReader(zeroReader{}, 1<<20))
	if n, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) || n >= 1<<20 {
		t.Errorf("%d bytes came back of a tunnel that may carry 64 KiB: %v", n, err)
	}
	if r := w.Await("event", "end", "door", "connect"); r.Str("client_end") != "limit" || r.Str("rule") != "ban" {
		t.Errorf("record: %v", r)
	}
	if status, body := w.get(t, "http://passerelle.supportsquare.io/bytes?n=1000000"); status == 200 && len(body) >= 1000000 {
		t.Error("a response over the limit came whole")
	}
}

// A rule that expires takes its live tunnels with it, though nothing is
// reloaded.
func TestRuleExpires(t *testing.T) {
	w := newWorld(t, "")
	echo := testbed.Echo(t)
	good, err := os.ReadFile(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339)
	write(t, w.Config, string(good)+strings.Replace(raw, "{name: raw,", "{name: raw, expires: \""+until+"\",", 1))
	if code, body := w.Post("/v1/reload"); code != http.StatusOK {
		t.Fatalf("reload: %d %s", code, body)
	}
	tunnel := w.echoTunnel(t, echo)
	defer tunnel.Close()
	awaitCut(t, tunnel)
	r := w.Await("host", "passerelle.supportsquare.io", "decision", "deny")
	if r.Str("reason") != "expired" || !strings.Contains(r.Str("detail"), `rule "raw" expired`) {
		t.Errorf("record of the cut: %v", r)
	}
	if r := w.Await("event", "end", "host", "passerelle.supportsquare.io"); r.Str("client_end") != "policy" {
		t.Errorf("record of the end: %v", r)
	}
	status, _, body := w.tried(t, "passerelle.supportsquare.io:"+echo)
	if status != 403 || !strings.Contains(body, "reason: expired") {
		t.Errorf("after it expired: %d %s", status, body)
	}
}
