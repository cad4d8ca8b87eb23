package testbed

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var build struct {
	sync.Once
	path string
	err  error
	out  []byte
}

// Binary builds the program once for all tests of a run and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		dir, err := os.MkdirTemp("", "sluice-test-") //nolint:usetesting // it outlives the test that builds first
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "sluice")
		build.out, build.err = exec.Command("go", "build", "-o", build.path, "sluice").CombinedOutput()
	})
	if build.err != nil {
		t.Fatalf("build the program: %v\n%s", build.err, build.out)
	}
	return build.path
}

// RemoveBinary is for the end of TestMain.
func RemoveBinary() {
	if build.path != "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
}

// Gateway is a running gateway process.
type Gateway struct {
	Config    string // path of its file
	Dir       string // its state directory
	Addresses map[string]string
	Admin     string // host:port
	cmd       *exec.Cmd
	t         testing.TB
	stdout    lines
	stderr    lines
	exited    chan struct{}
	err       error
}

// Start runs the built program on a configuration, and waits until it is
// ready. Listeners should ask for port 0. The process is ended with the test.
func Start(t testing.TB, config string, env ...string) *Gateway {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return StartFile(t, path, env...)
}

// StartFile is Start with a file that is there already.
func StartFile(t testing.TB, path string, env ...string) *Gateway {
	t.Helper()
	return StartCommand(t, exec.Command(Binary(t), "run", "--config", path), path, env...)
}

// StartCommand runs the program by a command of the test's own, such as one
// that sets a limit first.
func StartCommand(t testing.TB, cmd *exec.Cmd, path string, env ...string) *Gateway {
	t.Helper()
	g := &Gateway{Config: path, Dir: filepath.Join(t.TempDir(), "state"), t: t, Addresses: map[string]string{}, exited: make(chan struct{}), cmd: cmd}
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "SLUICE_STATE_DIR=" + g.Dir}, env...)
	cmd.Stdout, cmd.Stderr = &g.stdout, &g.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		g.err = cmd.Wait()
		close(g.exited)
	}()
	t.Cleanup(func() {
		g.Stop()
		if t.Failed() {
			t.Logf("gateway said:\n%s%s", tail(g.stdout.String()), tail(g.stderr.String()))
		}
	})
	Eventually(t, "the gateway is ready", func() bool {
		select {
		case <-g.exited:
			t.Fatalf("the gateway ended at start: %v\n%s%s", g.err, g.stdout.String(), g.stderr.String())
		default:
		}
		return g.readGreeting()
	})
	return g
}

func tail(s string) string {
	if len(s) > 6000 {
		return "…" + s[len(s)-6000:]
	}
	return s
}

// readGreeting learns the addresses from what the program prints at start.
func (g *Gateway) readGreeting() bool {
	out := g.stdout.String()
	if !strings.Contains(out, "\n  policy ") {
		return false
	}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 3 && f[0] == "listen":
			g.Addresses[f[1]] = f[2]
		case len(f) >= 2 && f[0] == "admin":
			g.Admin = strings.TrimPrefix(strings.TrimPrefix(f[1], "http://"), "https://")
		}
	}
	return true
}

// Address returns the host:port of a listener.
func (g *Gateway) Address(name string) string {
	g.t.Helper()
	a := g.Addresses[name]
	if a == "" {
		g.t.Fatalf("the gateway has no listener %q: %v", name, g.Addresses)
	}
	return a
}

// Pid returns the process's id.
func (g *Gateway) Pid() int { return g.cmd.Process.Pid }

// Signal sends a signal.
func (g *Gateway) Signal(s syscall.Signal) { g.cmd.Process.Signal(s) }

// Stderr returns the log so far.
func (g *Gateway) Stderr() string { return g.stderr.String() }

// Stdout returns what was printed so far.
func (g *Gateway) Stdout() string { return g.stdout.String() }

// Exited reports whether the process has ended, and its exit code.
func (g *Gateway) Exited() (bool, int) {
	select {
	case <-g.exited:
		return true, g.cmd.ProcessState.ExitCode()
	default:
		return false, 0
	}
}

// Stop ends the process: by SIGTERM, and after 40 seconds by force.
func (g *Gateway) Stop() {
	g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.exited:
	case <-time.After(40 * time.Second):
		g.t.Errorf("the gateway did not stop within 40 s of SIGTERM")
		g.cmd.Process.Kill()
		<-g.exited
	}
}

// Get asks the admin API and returns the status code and the body.
func (g *Gateway) Get(path string) (int, string) { return g.ask(http.MethodGet, path) }

// Post asks the admin API to do something.
func (g *Gateway) Post(path string) (int, string) { return g.ask(http.MethodPost, path) }

var direct = &http.Client{Transport: &http.Transport{Proxy: nil}, Timeout: 30 * time.Second}

func (g *Gateway) ask(method, path string) (int, string) {
	g.t.Helper()
	req, err := http.NewRequest(method, "http://"+g.Admin+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	res, err := direct.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

// Record is one audit record, as its reader sees it.
type Record map[string]any

// Str returns a field as text, "" if it is not there.
func (r Record) Str(field string) string {
	if v, ok := r[field]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

// Records reads the journal as it is on disk now, and fails the test on a
// line that is not a record.
func (g *Gateway) Records() []Record {
	g.t.Helper()
	return journal(g.t, filepath.Join(g.Dir, "audit"), false)
}

// WholeJournal reads the journal of a directory that no process writes to:
// then every line of it is a record, to the last.
func WholeJournal(t testing.TB, dir string) []Record {
	t.Helper()
	return journal(t, dir, true)
}

func journal(t testing.TB, dir string, whole bool) []Record {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	var records []Record
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.LastIndexByte(data, '\n'); i < len(data)-1 {
			if whole {
				t.Errorf("%s ends in a torn line: %q", file, data[i+1:])
			}
			data = data[:i+1] // a line being written
		}
		sc := bufio.NewScanner(bytes.NewReader(data))
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			r := Record{}
			if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
				t.Fatalf("%s: not a record: %v\n%q", file, err, sc.Text())
			}
			records = append(records, r)
		}
	}
	return records
}

// Find returns the records that have all the given fields (name, value, …).
func (g *Gateway) Find(fields ...string) []Record {
	g.t.Helper()
	var found []Record
next:
	for _, r := range g.Records() {
		for i := 0; i+1 < len(fields); i += 2 {
			if r.Str(fields[i]) != fields[i+1] {
				continue next
			}
		}
		found = append(found, r)
	}
	return found
}

// Await waits for a record with the given fields and returns the first.
func (g *Gateway) Await(fields ...string) Record {
	g.t.Helper()
	var found []Record
	Eventually(g.t, "a record with "+strings.Join(fields, " "), func() bool {
		found = g.Find(fields...)
		return len(found) > 0
	})
	return found[0]
}

// lines is a buffer that is written by one goroutine and read by others.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
