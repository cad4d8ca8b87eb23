package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/policy"
)

// write makes a file in dir and returns its path.
func write(t testing.TB, dir, name, data string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load1(t testing.TB, text string) *Loaded {
	t.Helper()
	l, err := Load(Input{Path: write(t, t.TempDir(), "c.yaml", text)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestValuesKeepTheirForm(t *testing.T) {
	l := load1(t, `
listeners:
  - {name: "no", address: "127.0.0.1:0", doors: [tls], port: 0x1bb}
relay: {idle_timeout: 90m}
limits:
audit: {max_bytes: 1000, retention: 7d, required: True}
policy:
  services:
    - nexthink
    - {name: coturn, params: {turn_host: turn.corp.example}, parts: []}
  allow: &names [a.example.com]
  rules:
    - to: {hosts: *names, ports: [443, 8443, "5228-5230", "25"]}
      from: {uids: [0, 4294967295]}
      expires: 2027-01-31
    - to: {hosts: [b.example.com]}
      expires: 2027-01-31T18:00:00Z
      name: 'on'
`)
	f := l.File
	if f.Listeners[0].Name != "no" || f.Listeners[0].Port != 443 {
		t.Errorf("listener %+v", f.Listeners[0])
	}
	if f.Relay.IdleTimeout != Duration(90*time.Minute) || f.Relay.HalfCloseTimeout != Default().Relay.HalfCloseTimeout {
		t.Errorf("relay %+v", f.Relay)
	}
	if f.Limits != Default().Limits {
		t.Errorf("an empty section is not the default: %+v", f.Limits)
	}
	if f.Audit.MaxBytes != 1000 || !f.Audit.Required || f.Audit.Retention.String() != "7d" {
		t.Errorf("audit %+v", f.Audit)
	}
	p := f.Policy
	if p.Services[0].Name != "nexthink" || p.Services[1].Name != "coturn" || p.Services[1].Params["turn_host"] != "turn.corp.example" {
		t.Errorf("services %+v", p.Services)
	}
	if r := p.Rules[0]; r.Expires != "2027-01-31" || !slices.Equal(r.To.Hosts, []string{"a.example.com"}) ||
		!slices.Equal(r.To.Ports, []policy.PortRange{"443", "8443", "5228-5230", "25"}) || !slices.Equal(r.From.UIDs, []uint32{0, 4294967295}) {
		t.Errorf("rule %+v", r)
	}
	if r := p.Rules[1]; r.Expires != "2027-01-31T18:00:00Z" || r.Name != "on" {
		t.Errorf("rule %+v", r)
	}
	if _, err := Options(l, nil); err != nil {
		t.Error(err)
	}
}

func TestNoListenersAreTheDefault(t *testing.T) {
	for _, text := range []string{"version: 1\n", "version: 1\nlisteners:\n"} {
		if l := load1(t, text); !reflect.DeepEqual(l.File.Listeners, defaultListeners()) {
			t.Errorf("%q: %+v", text, l.File.Listeners)
		}
	}
	embedded, err := Load(Input{})
	if err != nil || !reflect.DeepEqual(embedded.File.Listeners, defaultListeners()) {
		t.Errorf("the embedded default listens on %+v, %v", embedded.File.Listeners, err)
	}
}

func TestIncludes(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir, "c.yaml", "policy:\n  mode: report\n  allow: [main.example.com]\n  include:\n    - policy.d/*.yaml\n    - policy.d/b*.yaml\n    - extra/one.yaml\n")
	write(t, dir, "policy.d/b.yaml", "allow: [b.example.com]\n")
	write(t, dir, "policy.d/a.yaml", "# first\nrules:\n  - to: {hosts: [a.example.com]}\n")
	write(t, dir, "policy.d/.#b.yaml", "an editor's lock\n")
	write(t, dir, "policy.d/notes.txt", "not a policy\n")
	write(t, dir, "policy.d/dir.yaml/x", "a directory\n")
	write(t, dir, "extra/one.yaml", "deny: [bad.example.com]\n")
	l, err := Load(Input{Path: main})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range l.Sources {
		rel, _ := filepath.Rel(dir, s.File)
		got = append(got, rel)
	}
	if want := []string{"c.yaml", "policy.d/a.yaml", "policy.d/b.yaml", "extra/one.yaml"}; !slices.Equal(got, want) {
		t.Errorf("sources %q; want %q", got, want)
	}
	p, err := l.Compile(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Rules() {
		if strings.HasSuffix(r.Pos.File, "a.yaml") && r.Pos.Line != 3 {
			t.Errorf("rule at %v; want line 3", r.Pos)
		}
	}
}

func TestIncludesGoneWrong(t *testing.T) {
	for name, c := range map[string]struct {
		include, file, text string
		want                string
	}{
		"a missing file":           {include: "nowhere.yaml", want: "MAIN:2: policy.include[0]: DIR/nowhere.yaml does not exist"},
		"a bad glob":               {include: "'[a'", want: `MAIN:2: policy.include[0]: "DIR/[a" is not a glob: syntax error in pattern`},
		"the file itself":          {include: "c.yaml", want: "MAIN:2: policy.include[0]: names this file itself; put included files into a directory of their own"},
		"the file itself, by glob": {include: "'*.yaml'", want: "MAIN:2: policy.include[0]: names this file itself; put included files into a directory of their own"},
		"a directory":              {include: "d", file: "d/a.yaml", text: "allow: []\n", want: "DIR/d: is a directory; name a file in it"},
		"a mode":                   {include: "d/*", file: "d/a.yaml", text: "allow: []\nmode: open\n", want: "DIR/d/a.yaml:2: mode: belongs in the main file only; remove it here"},
		"an include":               {include: "d/*", file: "d/a.yaml", text: "include: [../c.yaml]\n", want: "DIR/d/a.yaml:1: include: belongs in the main file only; remove it here"},
		"a whole configuration":    {include: "d/*", file: "d/a.yaml", text: "policy: {allow: []}\n", want: `DIR/d/a.yaml:1: unknown key "policy"; known: allow, deny, include, mode, rules, services`},
		"an empty file":            {include: "d/*", file: "d/a.yaml", text: "", want: "DIR/d/a.yaml: the file is empty; see config.example.yaml for every key"},
		"a wrong pattern":          {include: "d/*", file: "d/a.yaml", text: "\nallow:\n  - '*'\n", want: `DIR/d/a.yaml:3: "*" would be every name; write *.name.tld; to let everything go use mode: open, or a rule with to: {any: true}`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			main := write(t, dir, "c.yaml", "policy:\n  include: ["+c.include+"]\n")
			if c.file != "" {
				write(t, dir, c.file, c.text)
			}
			err := loadAll(Input{Path: main})
			if err == nil {
				t.Fatal("accepted")
			}
			got := strings.ReplaceAll(strings.ReplaceAll(err.Error(), main, "MAIN"), dir, "DIR")
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// A glob that finds nothing is a directory that is still empty.
func TestIncludeOfNothing(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir, "c.yaml", "policy: {include: [policy.d/*.yaml]}\n")
	if _, err := Load(Input{Path: main}); err != nil {
		t.Error(err)
	}
}

// Each key that one text can set is set by its variable.
func TestEveryVariable(t *testing.T) {
	values := map[reflect.Type]string{
		reflect.TypeFor[Duration](): "17s", reflect.TypeFor[ByteSize](): "17MiB", reflect.TypeFor[string](): "seventeen",
		reflect.TypeFor[int](): "17", reflect.TypeFor[bool](): "true", reflect.TypeFor[[]string](): "x,y", reflect.TypeFor[[]policy.ServiceRef](): "x, y",
	}
	names := map[string]string{}
	for path, ty := range settable() {
		if other, twice := names[EnvName(path)]; twice {
			t.Errorf("%s and %s are both %s", path, other, EnvName(path))
		}
		names[EnvName(path)] = path
		value, ok := values[ty]
		if !ok {
			t.Errorf("%s: no test value for %v", path, ty)
			continue
		}
		if path == "version" {
			value = "1"
		}
		in := Input{Path: write(t, t.TempDir(), "c.yaml", "version: 1\n"), Environ: []string{"HOME=/", EnvName(path) + "=" + value}}
		if path == "policy.include" {
			in.Environ[1] = EnvName(path) + "=x*,y*" // globs, which may find nothing
		}
		l, err := load(in)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if field := fieldAt(reflect.ValueOf(l.File), path); path != "version" && reflect.DeepEqual(field.Interface(), fieldAt(reflect.ValueOf(Default()), path).Interface()) {
			t.Errorf("%s=%s did not set %s: %v", EnvName(path), value, path, field)
		}
	}
	if len(names) < 30 {
		t.Errorf("only %d variables", len(names))
	}
}

func fieldAt(v reflect.Value, path string) reflect.Value {
	for key := range strings.SplitSeq(path, ".") {
		f, _ := fieldOf(v.Type(), key)
		v = v.FieldByIndex(f.Index)
	}
	return v
}

func TestEnvironmentGoneWrong(t *testing.T) {
	for env, want := range map[string]string{
		"SLUICE_POLICY_MOD=report":          `environment: unknown variable SLUICE_POLICY_MOD; did you mean "SLUICE_POLICY_MODE"?`,
		"SLUICE_RELAY_IDLE_TIMEOUT=90":      `environment: SLUICE_RELAY_IDLE_TIMEOUT: "90" has no unit; write 90s for seconds, 90m for minutes`,
		"SLUICE_AUDIT_MAX_BYTES=much":       `environment: SLUICE_AUDIT_MAX_BYTES: "much" is not a size; write it like 500, 64KiB, 10MiB or 2GiB`,
		"SLUICE_AUDIT_REQUIRED=yes":         `environment: SLUICE_AUDIT_REQUIRED: want true or false, not "yes"`,
		"SLUICE_LIMITS_CONNECTIONS=many":    `environment: SLUICE_LIMITS_CONNECTIONS: want a whole number, not "many"`,
		"SLUICE_LIMITS_CONNECTIONS=-1":      `environment: SLUICE_LIMITS_CONNECTIONS: must not be negative; 0 is no limit`,
		"SLUICE_POLICY_MODE=maybe":          `environment: SLUICE_POLICY_MODE: mode "maybe" is not one of enforce, report, open; write enforce, report or open`,
		"SLUICE_POLICY_ALLOW=a.test,*":      `environment: SLUICE_POLICY_ALLOW: "*" would be every name; write *.name.tld; to let everything go use mode: open, or a rule with to: {any: true}`,
		"SLUICE_RESOLVER_SERVERS=dns.local": `environment: SLUICE_RESOLVER_SERVERS: DNS server "dns.local": not an address; for a name write udp://NAME:PORT`,
		"SLUICE_ADMIN_ADDRESS=9127":         `environment: SLUICE_ADMIN_ADDRESS: "9127" is not host:port; write it like "127.0.0.1:3128" or "[::1]:3128"`,
		"SLUICE_POLICY_INCLUDE=a.yaml":      `environment: SLUICE_POLICY_INCLUDE: includes need a configuration file`,
	} {
		err := loadAll(Input{Environ: []string{env}})
		if err == nil || err.Error() != want {
			t.Errorf("%s:\ngot  %v\nwant %s", env, err, want)
		}
	}
	if err := loadAll(Input{Environ: []string{"SLUICE_LISTENERS=x"}}); err == nil || !strings.Contains(err.Error(), "unknown variable SLUICE_LISTENERS; known: SLUICE_ADMIN_ADDRESS, ") {
		t.Errorf("got %v", err)
	}
}

// Kubernetes tells every pod of a namespace about a Service named sluice.
func TestVariablesOfKubernetesAreNotOurs(t *testing.T) {
	if err := loadAll(Input{Environ: []string{
		"SLUICE_SERVICE_HOST=10.0.0.7", "SLUICE_SERVICE_PORT=3128", "SLUICE_SERVICE_PORT_PROXY=3128", "SLUICE_PORT=tcp://10.0.0.7:3128",
		"SLUICE_PORT_3128_TCP=tcp://10.0.0.7:3128", "SLUICE_PORT_3128_TCP_PROTO=tcp", "SLUICE_PORT_3128_TCP_PORT=3128", "SLUICE_PORT_3128_TCP_ADDR=10.0.0.7",
		"SLUICE_ADMIN_SERVICE_HOST=10.0.0.8", "SLUICE_ADMIN_PORT_9127_TCP_ADDR=10.0.0.8", "SLUICE_CONFIG=/etc/x",
	}}); err != nil {
		t.Error(err)
	}
	if err := loadAll(Input{Environ: []string{"SLUICE_ADMIN_PORT=:9127"}}); err == nil {
		t.Error("SLUICE_ADMIN_PORT=:9127 is hardly from Kubernetes")
	}
}

func TestFlagsWinOverVariablesOverTheFileOverDefaults(t *testing.T) {
	path := write(t, t.TempDir(), "c.yaml", "log: {level: warn}\nlisteners:\n  - {name: sni, address: ':1', doors: [tls]}\n  - {name: p, address: ':2', doors: [connect]}\n")
	in := Input{Path: path}
	level := func(want string) {
		t.Helper()
		l, err := Load(in)
		if err != nil {
			t.Fatal(err)
		}
		if l.File.Log.Level != want || l.File.Log.Format != "text" {
			t.Errorf("level %q, format %q; want %q, text", l.File.Log.Level, l.File.Log.Format, want)
		}
	}
	level("warn")
	in.Environ = []string{"SLUICE_LOG_LEVEL=error"}
	level("error")
	in.Set = map[string]string{"log.level": "debug"}
	level("debug")

	in.ListenAddress = "127.0.0.1:3"
	l, err := Load(in)
	if err != nil || l.File.Listeners[1].Address != "127.0.0.1:3" || l.File.Listeners[0].Address != ":1" {
		t.Errorf("--listen set %+v, %v; want the second", l.File.Listeners, err)
	}
	in.ListenAddress, in.Set = "nonsense", map[string]string{"log.level": "loud"}
	want := "flag --listen: \"nonsense\" is not host:port; write it like \"127.0.0.1:3128\" or \"[::1]:3128\"\n" +
		`flag for log.level: "loud" is not one of debug, info, warn, error`
	if err := loadAll(in); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	in.Set = map[string]string{"nothing": "x"}
	if err := loadAll(in); err == nil || err.Error() != `flag for nothing: unknown key "nothing"` {
		t.Errorf("got %v", err)
	}
}

// A file of many names is read in good time, and its lines are known.
func TestManyNames(t *testing.T) {
	var b strings.Builder
	b.WriteString("policy:\n  allow:\n")
	for range 50_000 {
		b.WriteString("    - a.example.com\n")
	}
	b.WriteString("    - '*'\n")
	err := loadAll(Input{Path: write(t, t.TempDir(), "c.yaml", b.String())})
	if err == nil || !strings.Contains(err.Error(), ":50003: ") {
		t.Errorf("got %v; want an error in line 50003", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(Embedded)
	if example, err := os.ReadFile(examplePath); err == nil {
		f.Add(example)
		f.Add(uncomment(example))
	}
	files, _ := filepath.Glob("testdata/invalid-*.yaml")
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("policy: {allow: &a [*a]}"))
	f.Add([]byte("? {a: b}\n: c\n"))
	f.Add([]byte("version: !!int 1\nlog: {level: !!null x}\nstate_dir: !!binary aGk="))
	path := filepath.Join(f.TempDir(), "c.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "include") || strings.Contains(string(data), "file") {
			return // it may name files of this machine, whose content changes
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := Load(Input{Path: path})
		b, err2 := Load(Input{Path: path})
		if (err == nil) != (err2 == nil) {
			t.Fatalf("once %v, then %v", err, err2)
		}
		if err != nil {
			return
		}
		if !reflect.DeepEqual(a.File, b.File) {
			t.Fatalf("loaded twice:\n%+v\n%+v", a.File, b.File)
		}
		_, err = Options(a, nil)
		_, err2 = Options(b, nil)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("options: once %v, then %v", err, err2)
		}
	})
}

func TestUnitsReadWhatTheyWrite(t *testing.T) {
	for _, d := range []time.Duration{0, 1, time.Millisecond, 1500 * time.Millisecond, time.Minute, 90 * time.Second, time.Hour, 90 * time.Minute, 24 * time.Hour, 30 * 24 * time.Hour, 36*time.Hour + time.Second} {
		s := Duration(d).String()
		if got, err := ParseDuration(s); err != nil || time.Duration(got) != d {
			t.Errorf("%v: %q is read as %v, %v", d, s, time.Duration(got), err)
		}
	}
	for _, n := range []ByteSize{0, 1, 1023, 1024, 1000, 10 << 30, 1 << 40, 5<<20 + 1} {
		if got, err := ParseByteSize(n.String()); err != nil || got != n {
			t.Errorf("%d: %q is read as %d, %v", n, n, got, err)
		}
	}
	if _, err := ParseByteSize("9223372036854775807TiB"); err == nil {
		t.Error("a size over 2^62 is accepted")
	}
}
