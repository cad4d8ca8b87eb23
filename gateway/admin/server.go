package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Options sets up the API.
type Options struct {
	Control Control
	Metrics http.Handler
	Token   string // bearer token that every request but the health checks and the PAC file must carry; "": none
	Proxy   string // host:port for the PAC file; "": the address that the client asked, with the port of the proxy listener
}

// Handler returns the API. Without a token it answers only requests whose
// Host is an address or localhost, so that no web page can reach it through a
// name of its own (DNS rebinding).
func Handler(o Options) http.Handler {
	s := &server{o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /proxy.pac", s.pac)
	mux.HandleFunc("GET /wpad.dat", s.pac)
	guarded := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, s.guard(h)) }
	guarded("GET /{$}", s.index)
	guarded("GET /metrics", o.Metrics.ServeHTTP)
	guarded("GET /v1/status", s.status)
	guarded("GET /v1/flows", s.flows)
	guarded("GET /v1/explain", s.explain)
	guarded("POST /v1/reload", s.reload)
	guarded("POST /quitquitquit", s.quit)
	return mux
}

type server struct{ Options }

// guard keeps out who may not ask.
func (s *server) guard(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.Token != "":
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.Token))
			if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
				w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
				fail(w, http.StatusUnauthorized, "send the admin token as `Authorization: Bearer TOKEN`")
				return
			}
		case !localHost(r.Host):
			fail(w, http.StatusMisdirectedRequest, "ask by address or as localhost")
			return
		}
		if r.Method == http.MethodPost && crossSite(r) {
			fail(w, http.StatusForbidden, "a web page of another site may not do this")
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		h(w, r)
	})
}

// localHost reports whether a Host field names no site: an address, or
// localhost.
func localHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	_, err := netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost")
}

// crossSite reports whether a browser sends the request for a page of
// another origin.
func crossSite(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site != "same-origin" && site != "none"
	}
	origin := r.Header.Get("Origin")
	_, host, _ := strings.Cut(origin, "://")
	return origin != "" && host != r.Host
}

func (s *server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte(`sluice admin
GET  /healthz        is the process alive
GET  /readyz         does every listener accept
GET  /metrics        Prometheus metrics
GET  /v1/status      policy in force, listeners, last reload
GET  /v1/flows       live flows, oldest first (?limit=1000)
GET  /v1/explain     ?host=NAME&port=443&from=ADDRESS&proto=tcp&app=tls&user=NAME
POST /v1/reload      read the configuration again; 422 keeps the old one
GET  /proxy.pac      proxy configuration of browsers; also /wpad.dat
POST /quitquitquit   stop, after live flows had their time
`))
}

func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	w.Write([]byte("ok\n"))
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.Control.Ready(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Write([]byte("ready\n"))
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, s.Control.Status())
}

// maxFlows bounds one answer of /v1/flows.
const maxFlows = 10_000

func (s *server) flows(w http.ResponseWriter, r *http.Request) {
	limit := 1000
	if v := r.FormValue("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxFlows {
			fail(w, http.StatusBadRequest, "limit must be a number from 1 to 10000")
			return
		}
		limit = n
	}
	reply(w, http.StatusOK, struct {
		Flows []Flow `json:"flows"`
	}{s.Control.Flows(limit)})
}

func (s *server) explain(w http.ResponseWriter, r *http.Request) {
	q, err := ParseQuestion(Question{
		Host: r.FormValue("host"), Port: r.FormValue("port"), From: r.FormValue("from"),
		Proto: r.FormValue("proto"), App: r.FormValue("app"), User: r.FormValue("user"),
	}, time.Now())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	reply(w, http.StatusOK, s.Control.Explain(q))
}

func (s *server) reload(w http.ResponseWriter, r *http.Request) {
	res, err := s.Control.Reload(r.Context())
	if err != nil {
		reply(w, http.StatusUnprocessableEntity, res)
		return
	}
	reply(w, http.StatusOK, res)
}

func (s *server) quit(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusAccepted)
	w.Write([]byte("stopping\n"))
	s.Control.Quit()
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(v) // an error means that the client has gone
}

func fail(w http.ResponseWriter, code int, msg string) {
	reply(w, code, struct {
		Error string `json:"error"`
	}{msg})
}
