package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice/gateway/admin"
	"sluice/policy"
)

// ask sends a request to the admin API and returns the status, the header and
// the body.
func (w *world) ask(method, path string, adjust ...func(*http.Request)) (int, http.Header, string) {
	w.t.Helper()
	req, err := http.NewRequest(method, "http://"+w.admin+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range adjust {
		f(req)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(body)
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func TestAdminAnswers(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")))
	c := w.tunnel("a.example.net")
	defer c.Close()
	w.refused("denied.example.net", up.port, 403)
	for name, tc := range map[string]struct {
		method, path string
		status       int
		want         string
	}{
		"index":                       {"GET", "/", 200, "/v1/status"},
		"health":                      {"GET", "/healthz", 200, "ok"},
		"readiness":                   {"GET", "/readyz", 200, "ready"},
		"metrics":                     {"GET", "/metrics", 200, "# TYPE "},
		"denials in the metrics":      {"GET", "/metrics", 200, "no_rule"},
		"explain what is allowed":     {"GET", "/v1/explain?host=a.example.net&port=" + string(up.ports()[0]), 200, `"allow": true`},
		"explain what is denied":      {"GET", "/v1/explain?host=b.example.net", 200, `"no_rule"`},
		"explain a bad port":          {"GET", "/v1/explain?host=a.example.net&port=x", 400, "port"},
		"flows with a bad limit":      {"GET", "/v1/flows?limit=0", 400, "limit"},
		"proxy configuration":         {"GET", "/proxy.pac", 200, "PROXY " + w.proxy},
		"the same by its old name":    {"GET", "/wpad.dat", 200, "FindProxyForURL"},
		"what there is not":           {"GET", "/nothing", 404, ""},
		"reload by GET":               {"GET", "/v1/reload", 405, ""},
		"quit by GET":                 {"GET", "/quitquitquit", 405, ""},
		"status by POST":              {"POST", "/v1/status", 405, ""},
		"a path with dots is cleaned": {"GET", "/v1/../healthz", 307, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, _, body := w.ask(tc.method, tc.path)
			if status != tc.status || !strings.Contains(body, tc.want) {
				t.Errorf("%s %s: %d %q; want %d with %q", tc.method, tc.path, status, body, tc.status, tc.want)
			}
		})
	}
}

func TestAdminStatusAndFlows(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net"), up.rule("b.example.net")))
	w.tunnel("a.example.net")
	w.tunnel("b.example.net")
	w.live(2)
	_, h, body := w.ask("GET", "/v1/status")
	var s admin.Status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	if s.Version != "test" || !s.Ready || s.LiveFlows != 2 || s.Policy.Mode != "enforce" || s.Policy.Rules != 2 || s.Policy.Loaded != "test.yaml" {
		t.Errorf("status: %+v", s)
	}
	if len(s.Listeners) != 3 || s.Listeners[0].Address != w.proxy || len(s.Listeners[0].Doors) != 3 {
		t.Errorf("listeners: %+v", s.Listeners)
	}
	if h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("header: %v", h)
	}
	var f struct{ Flows []admin.Flow }
	_, _, body = w.ask("GET", "/v1/flows")
	if err := json.Unmarshal([]byte(body), &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Flows) != 2 || f.Flows[0].Host != "a.example.net" || f.Flows[0].Rule != "to-a.example.net" || f.Flows[0].Owner != "tests" ||
		f.Flows[0].Door != "connect" || f.Flows[0].Upstream == "" || f.Flows[0].Client == "" {
		t.Errorf("flows: %+v; want both, the oldest first", f.Flows)
	}
	if _, _, body = w.ask("GET", "/v1/flows?limit=1"); strings.Contains(body, "b.example.net") {
		t.Errorf("limit=1 gives %s", body)
	}
}

func TestAdminReload(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")))
	c := w.tunnel("a.example.net")
	ask := func(want int) admin.ReloadResult {
		t.Helper()
		status, _, body := w.ask("POST", "/v1/reload")
		var r admin.ReloadResult
		if err := json.Unmarshal([]byte(body), &r); err != nil || status != want {
			t.Fatalf("POST /v1/reload: %d %q, %v; want %d", status, body, err, want)
		}
		return r
	}
	w.loadBroken("test.yaml:7: broken")
	if r := ask(422); r.OK || !strings.Contains(r.Error, "test.yaml:7") {
		t.Errorf("broken: %+v", r)
	}
	c.echo("still here\n")
	w.load(rules(up.rule("b.example.net")))
	if r := ask(200); !r.OK || !r.Changed || r.Cut != 1 {
		t.Errorf("good: %+v", r)
	}
	c.over()
	w.denied("a.example.net", policy.ReasonNoRule)
}

func TestAdminKeepsOutWebPages(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")))
	w.load(rules(up.rule("a.example.net")))
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	for name, tc := range map[string]struct {
		method, path string
		adjust       func(*http.Request)
		want         int
	}{
		"a name of its own (DNS rebinding)":        {"GET", "/v1/status", host("rebind.example.com"), 421},
		"the same with a port":                     {"GET", "/v1/status", host("rebind.example.com:9127"), 421},
		"the same for metrics":                     {"GET", "/metrics", host("rebind.example.com"), 421},
		"the same for a reload":                    {"POST", "/v1/reload", host("rebind.example.com"), 421},
		"a name that begins like an address":       {"GET", "/v1/status", host("127.0.0.1.example.com"), 421},
		"localhost is no web page":                 {"GET", "/v1/status", host("localhost:9127"), 200},
		"an IPv6 address is none":                  {"GET", "/v1/status", host("[::1]:9127"), 200},
		"a form of another site, by origin":        {"POST", "/v1/reload", header("Origin", "https://evil.example.com"), 403},
		"a sandboxed page":                         {"POST", "/v1/reload", header("Origin", "null"), 403},
		"a form of another site, by fetch data":    {"POST", "/quitquitquit", header("Sec-Fetch-Site", "cross-site"), 403},
		"another port of this machine":             {"POST", "/quitquitquit", header("Sec-Fetch-Site", "same-site"), 403},
		"no page at all":                           {"POST", "/v1/reload", func(*http.Request) {}, 200},
		"a page of its own":                        {"POST", "/v1/reload", header("Origin", "http://"+w.admin), 200},
		"health is for everybody":                  {"GET", "/healthz", host("gateway.example.com"), 200},
		"proxy configuration too, by its own name": {"GET", "/proxy.pac", host("wpad.example.com"), 200},
	} {
		t.Run(name, func(t *testing.T) {
			if status, _, body := w.ask(tc.method, tc.path, tc.adjust); status != tc.want {
				t.Errorf("%s %s: %d %q; want %d", tc.method, tc.path, status, body, tc.want)
			}
		})
	}
}

func TestAdminToken(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")), func(o *Options) { o.Admin.Token = "secret" })
	w.load(rules(up.rule("a.example.net")))
	for name, tc := range map[string]struct {
		method, path, auth string
		want               int
	}{
		"none":                  {"GET", "/v1/status", "", 401},
		"a wrong one":           {"GET", "/v1/status", "Bearer wrong", 401},
		"of another scheme":     {"GET", "/v1/status", "secret", 401},
		"the right one":         {"GET", "/v1/status", "Bearer secret", 200},
		"scheme in lower case":  {"GET", "/v1/status", "bearer secret", 200},
		"none for metrics":      {"GET", "/metrics", "", 401},
		"none for flows":        {"GET", "/v1/flows", "", 401},
		"none for explain":      {"GET", "/v1/explain?host=a.example.net", "", 401},
		"none for a reload":     {"POST", "/v1/reload", "", 401},
		"none for a stop":       {"POST", "/quitquitquit", "", 401},
		"right for a reload":    {"POST", "/v1/reload", "Bearer secret", 200},
		"health needs none":     {"GET", "/healthz", "", 200},
		"readiness needs none":  {"GET", "/readyz", "", 200},
		"the PAC file neither":  {"GET", "/proxy.pac", "", 200},
		"the index is guarded":  {"GET", "/", "", 401},
		"a token with a suffix": {"GET", "/v1/status", "Bearer secret ", 200}, // HTTP trims the field
	} {
		t.Run(name, func(t *testing.T) {
			status, h, body := w.ask(tc.method, tc.path, header("Authorization", tc.auth))
			if status != tc.want {
				t.Errorf("%s %s: %d %q; want %d", tc.method, tc.path, status, body, tc.want)
			}
			if status == 401 && h.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}
	if _, _, body := w.ask("GET", "/v1/status"); strings.Contains(body, "secret") {
		t.Errorf("the refusal shows the token: %s", body)
	}
}

func TestNotReadyBeforeItListensAndWhileItStops(t *testing.T) {
	up := newEcho(t, "127.0.0.1", 0)
	w := start(t, up, rules(up.rule("a.example.net")), drainFor(time.Hour))

	o := w.g.opt
	o.Opened = nil
	o.Listeners, o.Admin.Address = nil, ""
	early, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	admin.Handler(admin.Options{Control: early, Metrics: http.NotFoundHandler()}).ServeHTTP(rec, httptest.NewRequest("GET", "/readyz", nil))
	if rec.Code != 503 {
		t.Errorf("before it listens: %d; want 503", rec.Code)
	}
	early.Quit()
	if err := early.Run(t.Context()); err != nil {
		t.Error(err)
	}

	c := w.tunnel("a.example.net")
	if status, _, _ := w.ask("GET", "/readyz"); status != 200 {
		t.Errorf("while it serves: %d; want 200", status)
	}
	if status, _, body := w.ask("POST", "/quitquitquit"); status != 202 {
		t.Errorf("POST /quitquitquit: %d %q; want 202", status, body)
	}
	eventually(t, "not ready while it stops", func() bool {
		status, _, _ := w.ask("GET", "/readyz")
		return status == 503
	})
	if status, _, _ := w.ask("GET", "/healthz"); status != 200 {
		t.Errorf("alive while it stops: %d; want 200", status)
	}
	c.Close()
	w.stopped()
}
