package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/integration/testbed"
)

// write replaces the configuration as an editor does: a new file, renamed.
func write(t *testing.T, path, text string) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// A hundred reloads in twenty seconds, each of a policy with another revision,
// fail no allowed request and let no forbidden one pass.
func TestReloadsUnderLoad(t *testing.T) {
	const reloads, every, least = 100, 200 * time.Millisecond, 10_000
	w := newWorld(t, "log: {flows: none}\n")
	base, err := os.ReadFile(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	var allowed, failed, forbidden, leaked atomic.Int64
	var firstFailure, firstLeak atomic.Value
	stop := make(chan struct{})
	var wg sync.WaitGroup
	worker := func(client *http.Client, target string, deny bool) {
		for {
			select {
			case <-stop:
				return
			default:
			}
			res, err := client.Get(target)
			passed := err == nil && res.StatusCode == http.StatusOK
			if err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			switch {
			case deny && passed:
				leaked.Add(1)
				firstLeak.CompareAndSwap(nil, target)
			case deny:
				forbidden.Add(1)
			case passed:
				allowed.Add(1)
			default:
				failed.Add(1)
				firstFailure.CompareAndSwap(nil, fmt.Sprint(target, ": ", err, res))
			}
		}
	}
	kept := w.through(t)
	fresh := w.through(t)
	fresh.Transport.(*http.Transport).DisableKeepAlives = true
	for _, run := range []struct {
		client *http.Client
		target string
		deny   bool
	}{
		{kept, "http://hlg.tokbox.com/", false},
		{fresh, "http://hlg.tokbox.com/", false},
		{kept, "https://hlg.tokbox.com/", false},
		{fresh, "https://hlg.tokbox.com/", false},
		{kept, "http://evil.test/", true},
		{kept, "http://evil.test/", true},
		{fresh, "https://evil.test/", true},
		{fresh, "https://eviltokbox.com/", true},
	} {
		wg.Go(func() { worker(run.client, run.target, run.deny) })
	}
	tick := time.NewTicker(every)
	for i := range reloads {
		<-tick.C
		write(t, w.Config, withRule(string(base), i))
		switch i % 3 {
		case 0:
			w.Signal(syscall.SIGHUP)
		case 1:
			if code, body := w.Post("/v1/reload"); code != http.StatusOK {
				t.Errorf("reload %d: %d %s", i, code, body)
			}
		} // else the change of the file is seen
	}
	tick.Stop()
	// The load goes on until there was enough of it.
	testbed.Eventually(t, "enough requests", func() bool { return allowed.Load() >= least && forbidden.Load() >= least })
	close(stop)
	wg.Wait()
	t.Logf("%d allowed, %d forbidden", allowed.Load(), forbidden.Load())
	if n := failed.Load(); n > 0 {
		t.Errorf("%d allowed requests failed, the first: %v", n, firstFailure.Load())
	}
	if n := leaked.Load(); n > 0 {
		t.Errorf("%d forbidden requests passed, the first: %v", n, firstLeak.Load())
	}
	testbed.Eventually(t, "the last policy is in force", func() bool {
		_, body := w.Get(fmt.Sprintf("/v1/explain?host=n%d.supportsquare.example", reloads-1))
		return strings.Contains(body, fmt.Sprintf("extra-%d", reloads-1))
	})
}

// withRule adds rule i to the rules of the configuration.
func withRule(base string, i int) string {
	rule := fmt.Sprintf("    - {name: extra-%d, to: {hosts: [n%d.supportsquare.example]}}\n", i, i)
	return strings.Replace(base, "  rules:\n", "  rules:\n"+rule, 1)
}

// A policy file that is broken in any way leaves the last good one in force,
// and says so in the log, the metrics and the answer of the API.
func TestBrokenPolicyKeepsTheLastGoodOne(t *testing.T) {
	w := newWorld(t, "")
	good, err := os.ReadFile(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	inForce := func() string {
		_, body := w.Get("/v1/status")
		_, rest, _ := strings.Cut(body, `"revision": "`)
		revision, _, _ := strings.Cut(rest, `"`)
		return revision
	}
	revision := inForce()
	for name, tc := range map[string]struct {
		breakIt func(t *testing.T)
		say     string
	}{
		"not YAML":   {func(t *testing.T) { write(t, w.Config, "policy: [\n") }, "not valid YAML"},
		"empty":      {func(t *testing.T) { write(t, w.Config, "") }, "empty"},
		"half of it": {func(t *testing.T) { write(t, w.Config, string(good[:len(good)/2])) }, "config.yaml"},
		"a bad pattern": {func(t *testing.T) {
			write(t, w.Config, strings.Replace(string(good), "skinapi.soti.net\n", "\"*\"\n", 1))
		}, "config.yaml:"},
		"unknown key":    {func(t *testing.T) { write(t, w.Config, string(good)+"polcy: {}\n") }, `did you mean "policy"?`},
		"gone":           {func(t *testing.T) { os.Remove(w.Config) }, "does not exist"},
		"a directory":    {func(t *testing.T) { os.Remove(w.Config); os.Mkdir(w.Config, 0o700) }, "is a directory"},
		"binary garbage": {func(t *testing.T) { write(t, w.Config, "\x00\x01\xff\xfe") }, "config.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.breakIt(t)
			defer func() {
				os.RemoveAll(w.Config)
				write(t, w.Config, string(good))
				testbed.Eventually(t, "the good file is taken again", func() bool { code, _ := w.Post("/v1/reload"); return code == http.StatusOK })
			}()
			code, body := w.Post("/v1/reload")
			if code != http.StatusUnprocessableEntity || !strings.Contains(strings.ReplaceAll(body, `\"`, `"`), tc.say) {
				t.Errorf("reload: %d %s; want 422 and %q", code, body, tc.say)
			}
			if got := inForce(); got != revision {
				t.Errorf("revision %q in force; want %q", got, revision)
			}
			if _, metrics := w.Get("/metrics"); !strings.Contains(metrics, "sluice_policy_last_reload_successful 0") {
				t.Error("the metric does not say that the reload failed")
			}
			r := testbed.Run(t, nil, "curl", "-sS", "-x", w.proxy, "--cacert", w.up.CA.File, "https://hlg.tokbox.com/")
			if !strings.Contains(r.Stdout, "hello from") {
				t.Errorf("allowed: %s", r.Stderr)
			}
			if r := testbed.Run(t, nil, "curl", "-sS", "-x", w.proxy, "https://evil.test/"); !strings.Contains(r.Stderr, "403") {
				t.Errorf("denied: %s", r.Stderr)
			}
			w.Signal(syscall.SIGHUP)
			testbed.Eventually(t, "the log says so", func() bool { return strings.Contains(w.Stderr(), "the last good policy stays in force") })
		})
	}
}

// Kubernetes replaces the files of a ConfigMap by swapping a symbolic link.
func TestConfigMapSwap(t *testing.T) {
	up := testbed.NewUpstream(t)
	dir := t.TempDir()
	version := func(name, text string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "config.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tmp := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(name, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..v1", mission(""))
	path := filepath.Join(dir, "config.yaml")
	if err := os.Symlink(filepath.Join("..data", "config.yaml"), path); err != nil {
		t.Fatal(err)
	}
	g := testbed.StartFile(t, path)
	w := &world{Gateway: g, up: up, addr: g.Address("proxy"), proxy: "http://" + g.Address("proxy")}
	get := func() bool {
		r := testbed.Run(t, nil, "curl", "-sS", "-x", w.proxy, "--cacert", up.CA.File, "https://skinapi.soti.net/")
		return strings.Contains(r.Stdout, "hello from")
	}
	if !get() {
		t.Fatal("the first version does not let the name out")
	}
	version("..v2", strings.Replace(mission(""), "    - skinapi.soti.net\n", "", 1))
	testbed.Eventually(t, "the second version is in force", func() bool { return !get() })
	version("..v3", "policy: {allow: [\"*\"]}\nversion: 1\n")
	testbed.Eventually(t, "the broken version is refused", func() bool { return strings.Contains(w.Stderr(), "reload refused") })
	if get() {
		t.Error("the broken version is in force")
	}
	version("..v4", mission(""))
	testbed.Eventually(t, "the fourth version is in force", get)
}

// A reload judges live tunnels again, and cuts only those that it denies.
func TestReloadCutsWhatItDenies(t *testing.T) {
	w := newWorld(t, "")
	good, _ := os.ReadFile(w.Config)
	keep, res := w.connect(t, "hlg.tokbox.com:443")
	defer keep.Close()
	cut, res2 := w.connect(t, "skinapi.soti.net:443")
	defer cut.Close()
	if res.StatusCode != 200 || res2.StatusCode != 200 {
		t.Fatal(res.Status, res2.Status)
	}
	write(t, w.Config, strings.Replace(string(good), "    - skinapi.soti.net\n", "", 1))
	if code, body := w.Post("/v1/reload"); code != 200 || !strings.Contains(body, `"flows_cut": 1`) {
		t.Errorf("reload: %d %s", code, body)
	}
	cut.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := cut.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the tunnel that is denied now: %v", err)
	}
	r := w.Await("host", "skinapi.soti.net", "decision", "deny")
	if r.Str("reason") != "no_rule" {
		t.Errorf("record of the cut: %v", r)
	}
	_, flows := w.Get("/v1/flows")
	if !strings.Contains(flows, "hlg.tokbox.com") || strings.Contains(flows, "skinapi") {
		t.Errorf("live flows: %s", flows)
	}
}
