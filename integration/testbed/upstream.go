package testbed

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// IP is where every upstream of a test run listens: an address of loopback
// that is the run's own, so that two can be on one machine. Names reach it
// only through the answers that the gateway under test is given.
var IP = fmt.Sprintf("127.77.%d.%d", os.Getpid()>>8&0xff, max(os.Getpid()&0xff, 1))

// Names are the names that the upstream's certificate is for: those of the
// mission, and some that no rule names.
var Names = []string{
	"hlg.tokbox.com", "turn2-84f4cbd976-728xw-euc1.media.prod.tokbox.com", "config.opentok.com", "ws.tokbox.com",
	"passerelle.supportsquare.io", "skinapi.soti.net", "agora.eu.nexthink.cloud", "git.supportsquare.io",
	"denied.example.com", "evil.test", "tokbox.com", "eviltokbox.com", "agora.a.b.nexthink.cloud",
}

// Upstream is a web server on IP, ports 443 (TLS, HTTP/1.1 and
// HTTP/2) and 80, that stands for the whole outside.
type Upstream struct {
	CA       *CA
	Requests atomic.Int64
	Files    string // folder served under /files/, and as git repositories
	mu       sync.Mutex
	hosts    map[string]int
	results  chan string
	hold     chan struct{}
	holdOnce sync.Once
}

// NewUpstream starts the server. It needs root for its ports.
func NewUpstream(t testing.TB) *Upstream {
	t.Helper()
	NeedRoot(t)
	u := &Upstream{CA: NewCA(t), Files: t.TempDir(), hosts: map[string]int{}, results: make(chan string, 16), hold: make(chan struct{})}
	leaf := u.CA.Leaf(Names...)
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	for _, port := range []string{"443", "80"} {
		l, err := net.Listen("tcp", net.JoinHostPort(IP, port))
		if err != nil {
			t.Fatalf("upstream: %v", err)
		}
		srv := &http.Server{Handler: u.handler(), ErrorLog: quiet}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if port == "443" {
				srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{leaf}}
				srv.ServeTLS(l, "", "")
				return
			}
			srv.Serve(l)
		}()
		t.Cleanup(func() {
			u.Release()
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			if srv.Shutdown(ctx) != nil {
				srv.Close()
			}
			<-done
		})
	}
	return u
}

// Hosts is the resolver part of a configuration: every name of the upstream.
func Hosts() string {
	var b strings.Builder
	for _, n := range Names {
		fmt.Fprintf(&b, "    - {name: %s, addresses: [%s]}\n", n, IP)
	}
	return b.String()
}

// Asked returns how many requests named host.
func (u *Upstream) Asked(host string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hosts[host]
}

// Result returns what the page at /page reported, waiting for it.
func (u *Upstream) Result(t testing.TB) string {
	t.Helper()
	select {
	case r := <-u.results:
		return r
	case <-time.After(60 * time.Second):
		t.Fatal("the page reported nothing within a minute")
		return ""
	}
}

// Release ends the request that keeps pages from being loaded.
func (u *Upstream) Release() { u.holdOnce.Do(func() { close(u.hold) }) }

func (u *Upstream) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s over %s\n", r.Host, r.Proto)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { r.Header.Write(w) })
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		var n int64
		fmt.Sscan(r.FormValue("n"), &n)
		io.CopyN(w, zeros{}, min(n, 1<<30))
	})
	mux.HandleFunc("/ws", echoWebSocket)
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, page)
	})
	mux.HandleFunc("/hold", func(http.ResponseWriter, *http.Request) { <-u.hold })
	mux.HandleFunc("/result", func(_ http.ResponseWriter, r *http.Request) {
		u.results <- r.FormValue("r")
		u.Release()
	})
	mux.Handle("/files/", http.StripPrefix("/files/", http.FileServer(http.Dir(u.Files))))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.Requests.Add(1)
		host, _, _ := strings.Cut(r.Host, ":")
		u.mu.Lock()
		u.hosts[host]++
		u.mu.Unlock()
		mux.ServeHTTP(w, r)
	})
}

// page reports whether a WebSocket to its own host echoes, and whether a
// request to a name that no rule allows fails. It holds the load event back
// until it has reported.
const page = `<!doctype html><title>sluice</title><iframe src="/hold"></iframe><script>
const scheme = location.protocol === "https:" ? "wss://" : "ws://";
const report = r => fetch("/result?r=" + encodeURIComponent(r));
const ws = new Promise((ok, no) => {
  const s = new WebSocket(scheme + location.host + "/ws");
  s.onopen = () => s.send("ping");
  s.onmessage = m => ok("ws:" + m.data);
  s.onerror = () => no("ws:error");
});
const denied = fetch("https://denied.example.com/", {mode: "no-cors"}).then(() => "leaked", () => "denied");
Promise.all([ws.catch(e => e), denied]).then(r => report(r.join(" ")));
</script>`

func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the Origin is not at issue here
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, data, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if string(data) == "close" {
			c.Close(websocket.StatusNormalClosure, "asked to")
			return
		}
		if err := c.Write(r.Context(), kind, data); err != nil {
			return
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// GitRepository makes a repository that can be cloned from /files/NAME.
func (u *Upstream) GitRepository(t testing.TB, name string) {
	t.Helper()
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "hello.txt"), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(u.Files, name)
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", work},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "first"},
		{"clone", "-q", "--bare", work, bare},
		{"-C", bare, "update-server-info"},
	} {
		if r := Run(t, nil, "git", args...); r.Code != 0 {
			t.Fatalf("git %v: %s", args, r.Stderr)
		}
	}
}

// ServerFirst listens on IP and a free port for a protocol in which
// the server speaks first: it greets like SMTP, and answers QUIT.
func ServerFirst(t testing.TB) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", IP+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.WriteString(c, "220 mail.test ESMTP\r\n")
				buf := make([]byte, 512)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if strings.HasPrefix(strings.ToUpper(string(buf[:n])), "QUIT") {
						io.WriteString(c, "221 bye\r\n")
						return
					}
					io.WriteString(c, "250 ok\r\n")
				}
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}
