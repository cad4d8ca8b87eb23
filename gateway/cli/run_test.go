package cli

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestRunOnATakenAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"the proxy's": {[]string{"run", "--listen", taken, "--admin", "none"}, taken},
		"the admin's": {[]string{"run", "--listen", "127.0.0.1:0", "--admin", taken}, "set admin.address, or --admin, to a free address"},
	} {
		r := run(t, nil, c.args...)
		if r.code != exitFail || !strings.Contains(r.stderr, "sluice: ") || !strings.Contains(r.stderr, "address already in use") || !strings.Contains(r.stderr, c.want) {
			t.Errorf("%s: exit %d\n%s", name, r.code, r.stderr)
		}
		if strings.Contains(r.stdout, "listen") {
			t.Errorf("%s: it greets all the same:\n%s", name, r.stdout)
		}
	}
}

// It greets with what listens, serves, and stops when it is told to.
func TestRunAndStop(t *testing.T) {
	file := write(t, "listeners:\n  - {name: proxy, address: \"127.0.0.1:0\", doors: [connect]}\n  - {name: sni, address: \"127.0.0.1:0\", doors: [tls]}\npolicy: {allow: [\"*.example.com\"]}\n")
	state := t.TempDir()
	for name, stop := range map[string]func(admin string, cancel func()){
		"by its context": func(_ string, cancel func()) { cancel() },
		"by the admin API": func(admin string, _ func()) {
			direct := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy of the environment
			if res, err := direct.Post(admin+"/quitquitquit", "", nil); err != nil || res.StatusCode != http.StatusAccepted {
				t.Errorf("%v, %v", res, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var stdout, stderr output
			code := make(chan int, 1)
			go func() {
				code <- Main(Env{
					Args: []string{"--config", file, "--admin", "127.0.0.1:0"}, Environ: []string{"SLUICE_STATE_DIR=" + state},
					Stdout: &stdout, Stderr: &stderr, Context: ctx,
				})
			}()
			greeting := regexp.MustCompile(`(?s)^sluice \S+
  listen  proxy      127\.0\.0\.1:\d+  \(connect\)
  listen  sni        127\.0\.0\.1:\d+  \(tls\)
  admin   (http://127\.0\.0\.1:\d+)
  policy  ` + regexp.QuoteMeta(file) + `, enforce: 1 pattern in 1 rule, revision [0-9a-f]{12}
  audit   ` + regexp.QuoteMeta(filepath.Join(state, "audit")) + `
try
  curl -x http://127\.0\.0\.1:\d+ .*
  sluice explain .*
$`)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			var m []string
			for deadline := time.Now().Add(20 * time.Second); m == nil; <-tick.C {
				if m = greeting.FindStringSubmatch(stdout.String()); time.Now().After(deadline) {
					cancel()
					t.Fatalf("no greeting within 20 s:\n%s%s", stdout.String(), stderr.String())
				}
			}
			stop(m[1], cancel)
			if c := <-code; c != exitOK {
				t.Errorf("exit %d\n%s", c, stderr.String())
			}
		})
	}
}

func TestRunQuietly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := runUntil(t, ctx, nil, "run", "--quiet", "--listen", "127.0.0.1:0", "--admin", "none"); r.code != exitOK || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}
