package testbed

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Resident returns the memory that the process holds now, in bytes.
func (g *Gateway) Resident() int64 {
	g.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.Pid()))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	g.t.Fatalf("no VmRSS in\n%s", status)
	return 0
}

// Descriptors returns how many files the process has open now.
func (g *Gateway) Descriptors() int {
	g.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.Pid()))
	if err != nil {
		g.t.Fatal(err)
	}
	return len(list)
}

// Metric returns the sum of the series of a metric that have all the given
// labels, written as in the page: limit="connections". A metric that is not
// there is 0.
func (g *Gateway) Metric(name string, labels ...string) float64 {
	g.t.Helper()
	_, page := g.Get("/metrics")
	var sum float64
	sc := bufio.NewScanner(strings.NewReader(page))
next:
	for sc.Scan() {
		series, value, _ := strings.Cut(sc.Text(), " ")
		if have, _, _ := strings.Cut(series, "{"); have != name {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue next
			}
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			g.t.Fatalf("metric %q: %v", sc.Text(), err)
		}
		sum += v
	}
	return sum
}

var raceBuild = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(build.path), "sluice-race")
	cmd := exec.Command("go", "build", "-race", "-o", path, "sluice")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build with the race detector: %w\n%s", err, out)
	}
	return path, nil
})

// RaceBinary is Binary with the race detector, which needs a C compiler.
func RaceBinary(t testing.TB) string {
	t.Helper()
	Need(t, "gcc")
	Binary(t) // makes the directory
	path, err := raceBuild()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
