package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// arrows says which packages of ours each package may import. A package that
// does not stand here has no place in the house yet: give it one.
var arrows = map[string][]string{
	"":                       {"gateway/cli"},
	"policy":                 {},
	"policy/catalog":         {"policy"},
	"certs":                  {},
	"gateway/flow":           {"policy"},
	"gateway/listen":         {},
	"gateway/sniff":          {},
	"gateway/dial":           {},
	"gateway/relay":          {},
	"gateway/tunnel":         {"gateway/flow", "gateway/relay", "gateway/sniff", "policy"},
	"gateway/transparent":    {"gateway/flow", "gateway/relay", "gateway/sniff", "gateway/tunnel", "policy"},
	"gateway/httpproxy":      {"gateway/flow", "gateway/relay", "gateway/sniff", "gateway/tunnel", "policy"},
	"gateway/socks5":         {"gateway/flow", "gateway/relay", "gateway/sniff", "gateway/tunnel", "policy"},
	"gateway/audit":          {"gateway/flow", "policy"},
	"gateway/telemetry":      {"gateway/audit", "gateway/flow", "policy"},
	"gateway/admin":          {"policy"},
	"gateway":                {"certs", "policy", "gateway/admin", "gateway/audit", "gateway/dial", "gateway/flow", "gateway/httpproxy", "gateway/listen", "gateway/relay", "gateway/sniff", "gateway/socks5", "gateway/telemetry", "gateway/transparent", "gateway/tunnel"},
	"gateway/config":         {"certs", "policy", "policy/catalog", "gateway", "gateway/audit", "gateway/dial", "gateway/flow", "gateway/relay", "gateway/telemetry"},
	"gateway/cli":            {"policy", "policy/catalog", "gateway", "gateway/admin", "gateway/config", "gateway/demo", "gateway/flow"},
	"gateway/demo":           {"policy", "gateway", "gateway/audit", "gateway/config", "gateway/flow"},
	"deploy":                 {},
	"deploy/container/build": {},
	"integration":            {"integration/testbed"},
	"integration/testbed":    {},
	"integration/bench":      {},
}

// homes says which package alone may import a large dependency, so that it
// can be replaced in a day.
var homes = map[string]string{
	"github.com/elazarl/goproxy":                "gateway/httpproxy",
	"github.com/caddyserver/certmagic":          "certs",
	"github.com/armon/go-radix":                 "policy",
	"go.opentelemetry.io/":                      "gateway/telemetry, integration/testbed",
	"github.com/spf13/viper":                    "gateway/config",
	"github.com/fsnotify/fsnotify":              "gateway/config, certs",
	"github.com/spf13/cobra":                    "gateway/cli",
	"github.com/miekg/dns":                      "gateway/dial, integration/testbed",
	"github.com/google/go-containerregistry":    "deploy/container/build",
	"github.com/coreos/go-systemd/v22/daemon":   "gateway/cli",
	"github.com/coreos/go-systemd/v22/activati": "gateway/listen",
}

// TestArrows parses the files itself: a test that runs `go list` stays green
// out of the test cache when an import changes.
func TestArrows(t *testing.T) {
	plates := map[string]int{} // package → files with a package comment
	for file, dir := range goFiles(t) {
		allowed, known := arrows[dir]
		if !known {
			t.Errorf("%s: package %q has no place in the house; add it to arrows", file, dir)
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		isTest := strings.HasSuffix(file, "_test.go")
		if !isTest && f.Doc != nil {
			plates[dir]++
		} else if !isTest {
			plates[dir] += 0
		}
		for _, spec := range f.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			if ours, ok := strings.CutPrefix(path, "sluice/"); ok {
				if ours != dir && !slices.Contains(allowed, ours) && !isTest {
					t.Errorf("%s: %q may not import %q", file, dir, ours)
				}
				continue
			}
			for dep, home := range homes {
				if strings.HasPrefix(path, dep) && !slices.Contains(strings.Split(home, ", "), dir) && !isTest {
					t.Errorf("%s: %s has its home in %s", file, path, home)
				}
			}
		}
	}
	for dir, n := range plates {
		if n != 1 {
			t.Errorf("package %q has %d package comments; want one sentence of purpose, once", dir, n)
		}
	}
}

// TestFileSizes keeps rooms small enough to tidy.
func TestFileSizes(t *testing.T) {
	const limit = 500
	for file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		if _, err := parser.ParseFile(fset, file, nil, parser.PackageClauseOnly); err != nil {
			t.Fatal(err)
		}
		fset.Iterate(func(f *token.File) bool {
			if n := f.LineCount(); n > limit {
				t.Errorf("%s has %d lines; split it by moment in a flow's life (limit %d)", file, n, limit)
			}
			return true
		})
	}
}

// goFiles returns every Go file of the module with its package's folder.
func goFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "out" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			dir := filepath.ToSlash(filepath.Dir(path))
			files[path] = strings.TrimPrefix(strings.TrimPrefix(dir, "."), "/")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found only %d files; is this the module's root?", len(files))
	}
	return files
}
