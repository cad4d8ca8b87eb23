package catalog

import (
	"strings"
	"testing"
	"testing/fstest"
)

// head begins a service that has nothing wrong with it; good ends it.
const (
	head = `name: a
title: A
vendor: V
summary: s
sources: [{title: t, basis: vendor-page, sure: high}]
`
	good = `entries:
  - {hosts: [a.example], protocol: tcp, ports: ["443"], app: [https], direction: out, basis: vendor-page, sure: high, purpose: p}
`
)

// entry is one entry with a field replaced by another text.
func entry(old, new string) string {
	return head + strings.Replace(good, old, new, 1)
}

func TestLoadTakesAGoodFile(t *testing.T) {
	c, err := load(fstest.MapFS{"services/a.yaml": {Data: []byte(head + good)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(c.Services()); got != 1 {
		t.Errorf("%d services; want 1", got)
	}
}

func TestLoadErrors(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"unknown key":                 {head + "color: red\n" + good, "line 6: field color not found"},
		"unknown key of an entry":     {entry("protocol: tcp", "protocol: tcp, colour: red"), "line 7: field colour not found"},
		"second document":             {head + good + "---\nname: b\n", "second document"},
		"empty file":                  {"", "EOF"},
		"name that is not the file's": {strings.Replace(head, "name: a", "name: b", 1) + good, `name "b"; want "a"`},
		"no source":                   {"name: a\ntitle: A\nvendor: V\nsummary: s\n" + good, "no source"},
		"no title":                    {strings.Replace(head, "title: A", "title: ''", 1) + good, "title, vendor and summary"},
		"source of unknown basis":     {strings.Replace(head, "vendor-page", "rumour", 1) + good, `basis "rumour"`},
		"entry without certainty":     {entry("sure: high", "sure: ''"), `sure ""`},
		"unknown protocol":            {entry("tcp", "sctp"), `protocol "sctp"`},
		"unknown app":                 {entry("https", "gopher"), `app "gopher"; want one of dns, enet`},
		"unknown direction":           {entry("out", "up"), `direction "up"`},
		"inspection by force":         {entry("protocol", "inspect: always, protocol"), `inspect "always"`},
		"no purpose":                  {entry("purpose: p", "purpose: ''"), "purpose must be set"},
		"bad port":                    {entry(`"443"`, `"443-80"`), `port "443-80"`},
		"port with a sign":            {entry(`"443"`, `"+443"`), `port "+443"`},
		"inward by default":           {entry("direction: out", "direction: in"), `direction "in" needs a part`},
		"part not described":          {entry("direction", "part: p, direction"), `part "p" is not described`},
		"part without an entry":       {head + "parts: [{name: p, description: d}]\n" + good, `part "p" has no entry`},
		"part twice":                  {head + "parts: [{name: p, description: d}, {name: p, description: d}]\n" + strings.Replace(good, "direction", "part: p, direction", 1), `part "p" is there twice`},
		"any host by default":         {entry("protocol", "fallback: [any], protocol"), "fallback: any"},
		"any host outright":           {entry("a.example", "any"), "hosts: any"},
		"verbatim without a word":     {entry("protocol", "verbatim: b.example, protocol"), "verbatim and correction"},
		"unknown parameter":           {entry("a.example", `"{x}"`), `parameter "x" is not described`},
		"host parameter in a name":    {head + "params: [{name: x, kind: host, description: d}]\n" + strings.Replace(good, "a.example", `"{x}.example"`, 1), `parameter "x" is of kind "host"`},
		"label as a whole host":       {head + "params: [{name: x, kind: label, description: d}]\n" + strings.Replace(good, "a.example", `"{x}"`, 1), `parameter "x" is of kind "label"`},
		"host parameter as a port":    {head + "params: [{name: x, kind: host, description: d}]\n" + strings.Replace(good, `"443"`, `"{x}"`, 1), `port "{x}"`},
		"parameter without use":       {head + "params: [{name: x, kind: host, description: d}]\n" + good, `parameter "x" is used by no entry`},
		"parameter of no kind":        {head + "params: [{name: x, kind: colour, description: d}]\n" + strings.Replace(good, "a.example", `"{x}.example"`, 1), `kind "colour"`},
		"default not of its kind":     {head + "params: [{name: x, kind: ports, description: d, default: http}]\n" + strings.Replace(good, `"443"`, `"{x}"`, 1), `port "http"`},
		"brace left open":             {entry("a.example", `"{x.example"`), `host "{x.example"`},
		"covered by nothing":          {entry("protocol", `covered_by: "*.example", protocol`), "no entry with that pattern"},
		"covered by another name":     {entry("protocol", `covered_by: "*.test", protocol`), `does not cover "a.example"`},
		"include of nothing":          {head + "includes: [b]\n" + good, `a includes "b", which does not exist`},
		"include of itself":           {head + "includes: [a]\n" + good, "includes go in a circle: a → a"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := load(fstest.MapFS{"services/a.yaml": {Data: []byte(tt.text)}})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestIncludesInACircle(t *testing.T) {
	file := func(name, includes string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(strings.Replace(head, "name: a", "name: "+name, 1) + "includes: [" + includes + "]\n" + good)}
	}
	_, err := load(fstest.MapFS{
		"services/a.yaml": file("a", "b"), "services/b.yaml": file("b", "c"), "services/c.yaml": file("c", "b"),
	})
	if want := "catalog: includes go in a circle: a → b → c → b"; err == nil || err.Error() != want {
		t.Errorf("got %v; want %s", err, want)
	}
}
