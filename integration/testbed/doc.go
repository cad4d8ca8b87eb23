// Package testbed holds the real parts of the black-box tests: a certificate
// authority, upstream servers, an OTLP receiver, and the built gateway.
//
// Everything listens on loopback. Names such as hlg.tokbox.com exist only as
// fixed answers in the configuration of the gateway under test, and always
// stand for IP.
package testbed

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// InCI reports whether nothing that matters may skip.
func InCI() bool { return os.Getenv("CI") == "true" }

// Unable skips a test that this machine can not run; in CI it fails instead.
func Unable(t testing.TB, format string, args ...any) {
	t.Helper()
	if InCI() {
		t.Fatalf("in CI this must run: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Need returns the path of a program that the test drives.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		Unable(t, "%s is not installed", program)
	}
	return path
}

// NeedRoot is for tests that bind ports below 1024 or make namespaces.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Unable(t, "needs root")
	}
}

// Eventually polls until ok returns true, for at most 20 seconds.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-tick.C
	}
}

// Result is what a client program said.
type Result struct {
	Stdout, Stderr string
	Code           int
	Took           time.Duration
}

// Run runs a client program for at most a minute. env is added to a clean
// environment, in which no proxy is set.
func Run(t testing.TB, env []string, program string, args ...string) Result {
	t.Helper()
	path := Need(t, program)
	cmd := exec.Command(path, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LANG=C", "HOME=" + t.TempDir()}, env...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		t.Errorf("%s %s: killed after a minute", program, strings.Join(args, " "))
	}
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Took: time.Since(start)}
	if err != nil {
		r.Code = cmd.ProcessState.ExitCode()
	}
	return r
}
