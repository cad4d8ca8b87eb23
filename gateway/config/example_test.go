package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

const examplePath = "../../config.example.yaml"

func readExample(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var inlineList = regexp.MustCompile(`^(  \w+:) \[.*?\]`)

// uncomment makes keys of the examples that stand in comments: lines that are
// indented by two spaces before the #. A list that they belong to makes room.
func uncomment(data []byte) []byte {
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		if i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  # - ") {
			line = inlineList.ReplaceAllString(line, "$1")
		}
		if rest, ok := strings.CutPrefix(line, "  # "); ok {
			line = "  " + rest
		}
		lines[i] = line
	}
	return []byte(strings.Join(lines, "\n"))
}

// The example says what the program does without a file.
func TestExampleIsTheDefault(t *testing.T) {
	example, err := Load(Input{Path: examplePath})
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := Load(Input{})
	if err != nil {
		t.Fatal(err)
	}
	// An empty list that is written out is not a nil one.
	clean(reflect.ValueOf(&example.File).Elem())
	if !reflect.DeepEqual(example.File, embedded.File) {
		t.Errorf("config.example.yaml differs from the embedded default:\n%+v\n%+v", example.File, embedded.File)
	}
	a, err := example.Compile(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := embedded.Compile(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a.Patterns() != b.Patterns() || a.Mode() != b.Mode() || len(a.Rules()) != len(b.Rules()) {
		t.Errorf("policy of the example: %d patterns, %d rules, %s; of the default: %d, %d, %s",
			a.Patterns(), len(a.Rules()), a.Mode(), b.Patterns(), len(b.Rules()), b.Mode())
	}
}

func clean(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.Kind() == reflect.Struct:
			clean(f)
		case f.Kind() == reflect.Slice && f.Len() == 0:
			f.SetZero()
		}
	}
}

// The examples in comments are right too, and no key is missing.
func TestExampleHasEveryKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "full.yaml")
	data := uncomment(readExample(t))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Load(Input{Path: path})
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if _, err := Options(l, nil); err != nil {
		t.Errorf("options: %v", err)
	}
	index := regexp.MustCompile(`\[\d+\]`)
	have := map[string]bool{}
	for p := range l.doc.lines {
		have[index.ReplaceAllString(p, "")] = true
	}
	var walk func(ty reflect.Type, path string)
	walk = func(ty reflect.Type, path string) {
		for ty.Kind() == reflect.Slice {
			ty = ty.Elem()
		}
		if ty.Kind() != reflect.Struct || ty == serviceRefType && path != "policy.services" || ty == reflect.TypeFor[TLS]() && path == "admin.tls" {
			return
		}
		for i := range ty.NumField() {
			f := ty.Field(i)
			key := f.Tag.Get("mapstructure")
			if key == "-" {
				continue
			}
			p := join(path, key)
			if !have[p] {
				t.Errorf("config.example.yaml does not show %s", p)
			}
			walk(f.Type, p)
		}
	}
	walk(reflect.TypeFor[File](), "")
}
