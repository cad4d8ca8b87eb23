package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sluice/gateway/config"
)

var update = flag.Bool("update", false, "write the golden files anew; read the difference")

// result is what a command said.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a command in this process, in an environment of its own.
func run(t *testing.T, environ []string, args ...string) result {
	t.Helper()
	return runUntil(t, t.Context(), environ, args...)
}

func runUntil(t *testing.T, ctx context.Context, environ []string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	environ = append([]string{"SLUICE_STATE_DIR=" + t.TempDir()}, environ...)
	code := Main(Env{Args: args, Environ: environ, Stdout: &stdout, Stderr: &stderr, Context: ctx})
	return result{code, stdout.String(), stderr.String()}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const finance = `version: 1
policy:
  allow: ["*.example.com"]
  deny: [bad.example.com]
  rules:
    - name: mail
      owner: finance-it
      from: {cidrs: [10.2.0.0/16]}
      to: {hosts: [smtp.example.net], ports: [587], app: [smtp]}
    - name: staff-only
      from: {users: [alice]}
      to: {hosts: [files.example.org]}
    - name: media
      to: {hosts: [media.example.org], protocol: udp, ports: ["3000-3010"]}
`

// revision changes with the form of a policy, which is tested elsewhere.
var revision = regexp.MustCompile(`(revision"?:? "?)[0-9a-f]{12}`)

// Each command, and all that it says. FILE stands for the configuration.
func TestGolden(t *testing.T) {
	file := write(t, finance)
	broken := write(t, "policy:\n  alow: [a.example.com]\n  mode: maybe\n")
	odd := write(t, "policy:\n  allow: [\"*.example.com\", www.example.com]\n")
	for name, c := range map[string]struct {
		args string
		code int
	}{
		"help":                    {"help", 0},
		"help-run":                {"run --help", 0},
		"help-check":              {"check --help", 0},
		"help-explain":            {"explain --help", 0},
		"check-ok":                {"check FILE", 0},
		"check-broken":            {"check BROKEN", 1},
		"check-missing":           {"check /nonexistent/config.yaml", 1},
		"check-warning":           {"check ODD", 0},
		"check-strict":            {"check ODD --strict", 1},
		"check-json":              {"check ODD --output json", 0},
		"check-strict-json":       {"check ODD --strict -o json", 1},
		"check-broken-json":       {"check BROKEN --output json", 1},
		"explain-allowed":         {"explain -c FILE WWW.Example.COM.", 0},
		"explain-denied":          {"explain -c FILE example.com", 1},
		"explain-deny-rule":       {"explain -c FILE bad.example.com", 1},
		"explain-client":          {"explain -c FILE smtp.example.net:587 --from 10.2.0.7 --app smtp", 0},
		"explain-other-client":    {"explain -c FILE smtp.example.net:587 --from 10.3.0.7", 1},
		"explain-other-app":       {"explain -c FILE smtp.example.net --port 587 --from 10.2.0.7 --app http", 1},
		"explain-user":            {"explain -c FILE files.example.org --user alice", 0},
		"explain-nobody":          {"explain -c FILE files.example.org", 1},
		"explain-udp":             {"explain -c FILE media.example.org:3005 --proto udp", 0},
		"explain-report":          {"explain -c FILE nowhere.example.net --mode report", 0},
		"explain-address":         {"explain -c FILE [2001:db8::1]:443", 1},
		"explain-malformed":       {"explain -c FILE a..b", 1},
		"explain-json":            {"explain -c FILE bad.example.com --output json", 1},
		"explain-broken":          {"explain -c BROKEN a.example.com", 2},
		"explain-nothing":         {"explain", 2},
		"explain-url":             {"explain https://www.example.com/path", 2},
		"explain-port":            {"explain www.example.com:99999", 2},
		"explain-from":            {"explain www.example.com --from alice", 2},
		"explain-app":             {"explain www.example.com --app gopher", 2},
		"explain-proto":           {"explain www.example.com --proto sctp", 2},
		"explain-output":          {"explain www.example.com --output yaml", 2},
		"services-show-unknown":   {"services show vonage-vidoe", 1},
		"services-show-nothing":   {"services show", 2},
		"services-argument":       {"services nexthink", 2},
		"usage-command":           {"chekc", 2},
		"usage-nothing-near":      {"frobnicate", 2},
		"usage-flag":              {"run --confg x", 2},
		"usage-flag-value":        {"run --config", 2},
		"usage-run-argument":      {"run config.yaml", 2},
		"usage-check-arguments":   {"check a b", 2},
		"run-broken":              {"run --config BROKEN", 2},
		"run-missing":             {"run --config /nonexistent/config.yaml", 2},
		"run-flag-value":          {"run --mode maybe", 2},
		"without-command-missing": {"--config /nonexistent/config.yaml", 2},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(strings.NewReplacer("FILE", file, "BROKEN", broken, "ODD", odd).Replace(c.args))
			r := run(t, nil, args...)
			if r.code != c.code {
				t.Errorf("exit %d; want %d", r.code, c.code)
			}
			got := "$ sluice " + c.args + "\n" + r.stdout
			if r.stderr != "" {
				got += "--- stderr\n" + r.stderr
			}
			got = strings.NewReplacer(file, "FILE", broken, "BROKEN", odd, "ODD").Replace(got)
			got = revision.ReplaceAllString(got, "${1}REVISION")
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	r := run(t, nil, "version")
	if f := strings.Fields(r.stdout); r.code != 0 || len(f) != 4 || f[0] != "sluice" || !strings.HasPrefix(f[2], "go1.") {
		t.Errorf("%+v", r)
	}
	var v struct{ Version, Go, OS, Arch string }
	r = run(t, nil, "version", "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil || v.Version == "" || v.Arch == "" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCheckWithoutAFile(t *testing.T) {
	if r := run(t, nil, "check"); r.code != 0 || !strings.Contains(r.stdout, config.EmbeddedName+": in order: mode enforce, ") {
		t.Errorf("%+v", r)
	}
	path := write(t, "policy: {mode: report}\n")
	if r := run(t, []string{"SLUICE_CONFIG=" + path}, "check"); r.code != 0 || !strings.Contains(r.stdout, path+": in order: mode report, ") {
		t.Errorf("%+v", r)
	}
	if r := run(t, []string{"SLUICE_CONFIG=/nonexistent", "SLUICE_POLICY_MODE=open"}, "check", path); r.code != 0 || !strings.Contains(r.stdout, "mode open") {
		t.Errorf("an argument wins over $SLUICE_CONFIG, and variables count: %+v", r)
	}
}

func TestCheckSchema(t *testing.T) {
	r := run(t, nil, "check", "--schema")
	var s map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || r.code != 0 || s["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("exit %d, %v, %v", r.code, err, s["$schema"])
	}
}

func TestServices(t *testing.T) {
	r := run(t, nil, "services")
	if r.code != 0 || !strings.Contains(r.stdout, "\nnexthink ") || !strings.Contains(r.stdout, "\nvonage-video ") {
		t.Errorf("%+v", r)
	}
	var list []map[string]any
	r = run(t, nil, "services", "--output", "json")
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil || len(list) < 5 {
		t.Errorf("%d services, %v", len(list), err)
	}
	r = run(t, nil, "services", "show", "nexthink")
	if r.code != 0 || !strings.HasPrefix(r.stdout, "nexthink: ") {
		t.Errorf("%+v", r)
	}
	var one map[string]any
	r = run(t, nil, "services", "show", "nexthink", "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &one); err != nil || len(one) == 0 {
		t.Errorf("%v, %v", one, err)
	}
}
