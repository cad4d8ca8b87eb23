package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// output is written by a command and read by its test at the same time.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// cleanDemo gives a tour a temporary directory of its own, and returns what
// checks that neither files nor goroutines stay.
func cleanDemo(t *testing.T) (check func()) {
	t.Helper()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	before := goleak.IgnoreCurrent()
	return func() {
		t.Helper()
		left, err := os.ReadDir(tmp)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			t.Errorf("the tour left %s behind", e.Name())
		}
		goleak.VerifyNone(t, before)
	}
}

func TestDemoShowsEveryFlowAndLeavesNothing(t *testing.T) {
	check := cleanDemo(t)
	var out, errs output
	code := Main(Env{Args: []string{"demo"}, Stdout: &out, Stderr: &errs})
	if code != exitOK {
		t.Fatalf("exit code %d; want 0\n%s\n%s", code, errs.String(), out.String())
	}
	check()
	for _, want := range []string{
		"hello from hlg.tokbox.com", "hello from passerelle.supportsquare.io", `echoed "ping"`,
		"hello from agora.eu.nexthink.cloud", "hello from skinapi.soti.net", "220 mail.supportsquare.io",
		"403 Forbidden", "reason: no_rule", `host":"eviltokbox.com"`, "denied, name_mismatch", "denied, forbidden_address",
		"denied, address_literal", "SOCKS5 reply 0x02", "remote error: tls: access denied",
		`"egress denied" trace_id=`, "sluice.reason=forbidden_address", "13 of 13", "none that policy denies",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tour does not show %q", want)
		}
	}
	for _, no := range []string{"\x1b", "WRONG"} {
		if strings.Contains(out.String(), no) {
			t.Errorf("the tour shows %q", no)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	if errs.String() != "" {
		t.Errorf("standard error has %q", errs.String())
	}
}

// The variables of a real receiver must neither break the tour nor get its
// metrics.
func TestDemoAsJSONWhateverTheEnvironmentSays(t *testing.T) {
	t.Setenv("OTEL_SDK_DISABLED", "true")
	t.Setenv("OTEL_METRICS_EXPORTER", "no-such-exporter")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	check := cleanDemo(t)
	var out, errs output
	if code := Main(Env{Args: []string{"demo", "--output", "json"}, Stdout: &out, Stderr: &errs}); code != exitOK {
		t.Fatalf("exit code %d; want 0\n%s", code, errs.String())
	}
	check()
	var rep struct {
		OK    bool
		Flows []struct {
			Want   string
			OK     bool
			Record *struct{ Reason, Decision string }
			Span   *struct{ Attributes map[string]string }
		}
	}
	if err := json.Unmarshal([]byte(out.String()), &rep); err != nil {
		t.Fatal(err)
	}
	if !rep.OK || len(rep.Flows) != 13 {
		t.Fatalf("ok %v with %d flows; want true with 13", rep.OK, len(rep.Flows))
	}
	if os.Getenv("OTEL_SDK_DISABLED") != "true" {
		t.Error("the tour changed the environment")
	}
	for i, f := range rep.Flows {
		if f.Want == "allowed" {
			continue
		}
		if f.Record == nil || f.Record.Reason != f.Want || f.Record.Decision != "deny" {
			t.Errorf("flow %d: record %+v; want a denial for %s", i, f.Record, f.Want)
		}
		if f.Span == nil || f.Span.Attributes["sluice.reason"] != f.Want {
			t.Errorf("flow %d: span %+v; want sluice.reason %s", i, f.Span, f.Want)
		}
	}
}

func TestDemoKeepServesUntilInterrupted(t *testing.T) {
	check := cleanDemo(t)
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	var out, errs output
	code := make(chan int, 1)
	go func() {
		code <- Main(Env{Args: []string{"demo", "--keep"}, Stdout: &out, Stderr: &errs, Context: ctx})
	}()
	var status string
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for status == "" {
		if time.Now().After(deadline) {
			t.Fatalf("no commands to try within 30 s:\n%s%s", out.String(), errs.String())
		}
		for line := range strings.Lines(out.String()) {
			if url, ok := strings.CutPrefix(strings.TrimSpace(line), "curl http://"); ok && strings.HasSuffix(url, "/v1/status") {
				status = "http://" + url
			}
		}
		<-tick.C
	}
	if !strings.Contains(out.String(), "curl --cacert ") {
		t.Errorf("no curl command with --cacert:\n%s", out.String())
	}
	tr := &http.Transport{}
	req, err := http.NewRequest(http.MethodGet, status, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	tr.CloseIdleConnections()
	if res.StatusCode != http.StatusOK {
		t.Errorf("%s: %s; want 200", status, res.Status)
	}
	interrupt()
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d after the interrupt; want 0\n%s", c, errs.String())
	}
	check()
}
