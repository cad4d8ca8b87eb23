package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var updateInvalid = flag.Bool("update-invalid", false, "write what is said now into testdata/invalid-*.yaml; read the difference")

// loadAll loads a file and builds its options: what `sluice check` does.
func loadAll(in Input) error {
	l, err := Load(in)
	if err != nil {
		return err
	}
	_, err = Options(l, nil)
	return err
}

// Each testdata/invalid-*.yaml holds a mistake, and in its last lines, after
// "# want: ", all that is said of it. FILE stands for the file's path.
func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "invalid-"), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			body := ""
			for line := range strings.Lines(string(data)) {
				if w, ok := strings.CutPrefix(line, "# want: "); ok {
					want = append(want, strings.TrimSuffix(w, "\n"))
				} else {
					body += line
				}
			}
			if err = loadAll(Input{Path: file}); err == nil {
				t.Fatal("accepted")
			}
			got := strings.Split(strings.ReplaceAll(err.Error(), file, "FILE"), "\n")
			if *updateInvalid {
				if err := os.WriteFile(file, []byte(body+"# want: "+strings.Join(got, "\n# want: ")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// What can not stand in a file with a comment.
func TestInvalidFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	large := write("large.yaml", "")
	if err := os.Truncate(large, maxFile+1); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop.yaml")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"empty":            {write("empty.yaml", ""), "FILE: the file is empty; see config.example.yaml for every key"},
		"comments only":    {write("comments.yaml", "# nothing\n"), "FILE: the file is empty; see config.example.yaml for every key"},
		"a lone marker":    {write("marker.yaml", "---\n"), "FILE:1: the file must be a map of keys such as `version: 1`; see config.example.yaml"},
		"a directory":      {dir, "FILE: is a directory; name a file in it"},
		"missing":          {filepath.Join(dir, "nowhere.yaml"), "FILE: does not exist"},
		"zero bytes":       {write("zero.yaml", "version: 1\x00\n"), "FILE: not valid YAML: control characters are not allowed"},
		"an ELF header":    {write("elf.yaml", "\x7fELF\x02\x01\x01\x00\x00\xff"), "FILE: not valid YAML: control characters are not allowed"},
		"bytes not UTF-8":  {write("latin1.yaml", "version: 1\nstate_dir: \"/caf\xe9\"\n"), "FILE: not valid YAML: invalid trailing UTF-8 octet"},
		"too large":        {large, "FILE: is larger than 16MiB; put parts of the policy into files of policy.include"},
		"a link to itself": {loop, "FILE: read: too many levels of symbolic links"},
		"cut in a text":    {write("cut.yaml", "version: 1\npolicy: {allow: [\"*.tok"), "FILE:2: not valid YAML: found unexpected end of stream"},
		"aliases that blow up": {write("bomb.yaml", "resolver: {servers: [a]}\nguard:\n  permit: &l ["+strings.Repeat("a,", 30_000)+"]\npolicy:\n  rules:\n"+
			"    - &r {from: {cidrs: *l, users: *l}, to: {hosts: *l}}\n"+strings.Repeat("    - *r\n", 30)), "FILE: has more than 2000000 values, those of aliases (*) counted each time, or an alias of itself"},
		"an alias of itself": {write("self.yaml", "policy:\n  allow: &a [*a]\n"), "FILE: has more than 2000000 values, those of aliases (*) counted each time, or an alias of itself"},
	} {
		t.Run(name, func(t *testing.T) {
			err := loadAll(Input{Path: c.path})
			if err == nil {
				t.Fatal("accepted")
			}
			if got := strings.ReplaceAll(err.Error(), c.path, "FILE"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root reads everything: look at the words alone.
		if got := notReadable(&os.PathError{Op: "open", Path: "x", Err: os.ErrPermission}); got != "may not be read by this account" {
			t.Error(got)
		}
		return
	}
	path := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(path, []byte("version: 1\n"), 0); err != nil {
		t.Fatal(err)
	}
	err := loadAll(Input{Path: path})
	if want := path + ": may not be read by this account"; err == nil || err.Error() != want {
		t.Errorf("got %v; want %s", err, want)
	}
	var ce *Error
	if !errors.As(err, &ce) || ce.File != path {
		t.Errorf("got %#v; want an *Error of the file", err)
	}
}
