package config

import (
	"os"
	"strings"
	"testing"
)

func TestReload(t *testing.T) {
	const good = "policy: {allow: [a.example.com, b.example.com]}\n"
	for name, c := range map[string]struct{ before, after, want string }{ // want: "" is fine
		"another policy":                {good, "policy: {allow: [c.example.com]}\n", ""},
		"the same":                      {good, good, ""},
		"an empty file":                 {good, "", "FILE: the file is empty; see config.example.yaml for every key"},
		"a file cut in the middle":      {good, good[:len(good)-8], "FILE:1: not valid YAML: did not find expected ',' or ']'"},
		"a policy that is gone":         {good, "version: 1\n", "FILE: policy: the new policy allows nothing, and the one in force has rules that allow (1); to deny everything on purpose write policy: {allow: []}"},
		"a policy that is empty":        {good, "policy:\n  deny: []\n", "FILE:2: policy: the new policy allows nothing, and the one in force has rules that allow (1); to deny everything on purpose write policy: {allow: []}"},
		"deny rules only":               {good, "policy:\n  deny: [a.example.com]\n", "FILE:2: policy: the new policy allows nothing, and the one in force has rules that allow (1); to deny everything on purpose write policy: {allow: []}"},
		"an include that finds nothing": {good, "policy: {include: [policy.d/*.yaml]}\n", "FILE:1: policy: the new policy allows nothing, and the one in force has rules that allow (1); to deny everything on purpose write policy: {allow: []}"},
		"everything denied on purpose":  {good, "policy: {allow: []}\n", ""},
		"nothing enforced":              {good, "policy: {mode: report}\n", ""},
		"from nothing to nothing":       {"version: 1\n", "version: 1\npolicy: {deny: [a.example.com]}\n", ""},
		"wrong beside the policy":       {good, good + "relay: {idle_timeout: 0s}\n", "FILE:2: relay.idle_timeout: must be more than 0"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in := Input{Path: write(t, dir, "c.yaml", c.before)}
			first, err := Load(in)
			if err != nil {
				t.Fatal(err)
			}
			reload := Reloader(in, first)
			write(t, dir, "c.yaml", c.after)
			_, err = reload(t.Context())
			got := ""
			if err != nil {
				got = strings.ReplaceAll(err.Error(), in.Path, "FILE")
			}
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// The policy to compare with is the last that was good.
func TestReloadComparesWithThePolicyInForce(t *testing.T) {
	dir := t.TempDir()
	in := Input{Path: write(t, dir, "c.yaml", "policy: {allow: [a.example.com]}\n")}
	first, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	reload := Reloader(in, first)
	for _, step := range []struct {
		text string
		ok   bool
	}{
		{"version: 1\n", false},
		{"policy: {allow: []}\n", true}, // on purpose
		{"version: 1\n", true},          // nothing was allowed before
		{"policy: {allow: [a.example.com]}\n", true},
		{"version: 1\n", false},
		{"version: 1\n", false},
	} {
		write(t, dir, "c.yaml", step.text)
		if _, err := reload(t.Context()); (err == nil) != step.ok {
			t.Errorf("%q: %v; want ok %v", step.text, err, step.ok)
		}
	}
}

func TestReloadNotesWhatNeedsARestart(t *testing.T) {
	dir := t.TempDir()
	in := Input{Path: write(t, dir, "c.yaml", "policy: {allow: [a.example.com]}\n"), Environ: []string{"SLUICE_LOG_LEVEL=warn"}}
	first, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	reload := Reloader(in, first)
	write(t, dir, "c.yaml", "policy: {allow: [b.example.com]}\nlog: {level: error}\n")
	r, err := reload(t.Context())
	if err != nil || len(r.Notes) != 0 {
		t.Errorf("a key that a variable sets anyway: %v, %v", r, err)
	}
	write(t, dir, "c.yaml", "policy: {allow: [b.example.com]}\nrelay: {idle_timeout: 2h}\nadmin: {address: none}\n")
	r, err = reload(t.Context())
	if want := "changed, and needs a restart to take effect: relay, admin"; err != nil || len(r.Notes) != 1 || r.Notes[0] != want {
		t.Errorf("got %+v, %v; want %q", r, err, want)
	}
	os.Remove(in.Path)
	if _, err := reload(t.Context()); err == nil {
		t.Error("a missing file is no error")
	}
}
