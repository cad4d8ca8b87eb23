package catalog

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (run with -update and read the change):\n%s", file, got)
	}
}

func TestRender(t *testing.T) {
	for _, name := range []string{"vonage-video", "nexthink", "coturn"} {
		s, err := Builtin().Get(name)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := Render(&b, s); err != nil {
			t.Fatal(err)
		}
		golden(t, "show-"+name+".txt", b.Bytes())
	}
}

func TestRenderList(t *testing.T) {
	var b bytes.Buffer
	if err := RenderList(&b, Builtin().Services()); err != nil {
		t.Fatal(err)
	}
	golden(t, "list.txt", b.Bytes())
}

// What is shown for the configuration can be pasted, with or without its
// comment signs.
func TestShownConfigurationIsYAML(t *testing.T) {
	for _, s := range Builtin().Services() {
		var b bytes.Buffer
		if err := Render(&b, s); err != nil {
			t.Fatal(err)
		}
		_, text, ok := strings.Cut(b.String(), "In the configuration\n")
		if !ok {
			t.Fatalf("%s: no configuration shown", s.Name)
		}
		for _, shown := range []string{text, strings.ReplaceAll(strings.Replace(text, "# or, with what you need of this:\n", "\n", 1), "# ", "")} {
			var doc struct {
				Policy struct{ Services []any }
			}
			if err := yaml.Unmarshal([]byte(shown), &doc); err != nil {
				t.Errorf("%s: %v in\n%s", s.Name, err, shown)
			} else if len(doc.Policy.Services) == 0 {
				t.Errorf("%s: no service in\n%s", s.Name, shown)
			}
		}
		for line := range strings.Lines(b.String()) {
			if strings.TrimRight(line, " \n") != strings.TrimSuffix(line, "\n") {
				t.Errorf("%s: blanks at the end of %q", s.Name, line)
			}
		}
	}
}
