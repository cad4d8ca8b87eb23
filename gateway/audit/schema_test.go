package audit

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"sluice/gateway/flow"
	"sluice/policy"
)

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(JSONSchema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("urn:sluice:audit:v1", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("urn:sluice:audit:v1")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(s *jsonschema.Schema, line []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

func TestRecordsFitTheSchema(t *testing.T) {
	s := compileSchema(t)
	hostile := deniedFlow()
	hostile.Host = strings.Repeat("\x00\u202e\xff", 1000)
	hostile.Path, hostile.Error, hostile.Decision.Host = hostile.Host, hostile.Host, ""
	hostile.Claim(flow.FromSNI, hostile.Host)
	hostile.Decision.Reason = policy.ReasonMalformedName
	for name, f := range map[string]*flow.Flow{"denied": deniedFlow(), "allowed": endedFlow(), "hostile": hostile} {
		for _, e := range []Event{EventDecision, EventEnd} {
			r := *FromFlow(f, e, testTime.Add(time.Second))
			if err := validate(s, r.AppendJSON(nil)); err != nil {
				t.Errorf("%s %s: %v", name, e, err)
			}
		}
	}
	lost := Record{Schema: Schema, Event: EventLost, Time: testTime, Lost: 3}
	if err := validate(s, lost.AppendJSON(nil)); err != nil {
		t.Errorf("lost: %v", err)
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t)
	for name, spoil := range map[string]func(*Record){
		"another version":         func(r *Record) { r.Schema = "sluice.audit/v2" },
		"an unknown event":        func(r *Record) { r.Event = "start" },
		"a denial without reason": func(r *Record) { r.Reason = "" },
		"an unknown reason":       func(r *Record) { r.Reason = "because" },
		"a denial that would be":  func(r *Record) { r.WouldDeny = true },
		"no id":                   func(r *Record) { r.ID = "" },
		"lost in a decision":      func(r *Record) { r.Lost = 1 },
		"a short trace id":        func(r *Record) { r.TraceID = "ab" },
	} {
		r := *FromFlow(deniedFlow(), EventDecision, testTime)
		spoil(&r)
		if err := validate(s, r.AppendJSON(nil)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// schemaProperties reads the published file as a user would.
func schemaProperties(t *testing.T) map[string]struct {
	Enum        []string `json:"enum"`
	Description string   `json:"description"`
} {
	t.Helper()
	var doc struct {
		Properties map[string]struct {
			Enum        []string `json:"enum"`
			Description string   `json:"description"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(JSONSchema, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Properties
}

func TestSchemaAndRecordHaveTheSameFields(t *testing.T) {
	properties := schemaProperties(t)
	for f := range reflect.TypeFor[Record]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		p, ok := properties[name]
		if !ok {
			t.Errorf("field %s (%s) is not in schema.json", f.Name, name)
		} else if p.Description == "" {
			t.Errorf("%s has no description in schema.json", name)
		}
		delete(properties, name)
	}
	for name := range properties {
		t.Errorf("%s of schema.json is not a field of Record", name)
	}
}

// TestSchemaKnowsEveryWord reads the closed vocabularies from their source, so
// that a new word can not be forgotten here.
func TestSchemaKnowsEveryWord(t *testing.T) {
	properties := schemaProperties(t)
	for _, c := range []struct{ file, typ, property string }{
		{"../../policy/types.go", "Reason", "reason"},
		{"../flow/flow.go", "Door", "door"},
		{"../flow/flow.go", "End", "client_end"},
		{"../flow/flow.go", "End", "server_end"},
	} {
		words := constants(t, c.file, c.typ)
		have := slices.Sorted(slices.Values(properties[c.property].Enum))
		slices.Sort(words)
		if !slices.Equal(words, have) {
			t.Errorf("%s: schema.json has %v; %s has %v", c.property, have, c.file, words)
		}
	}
	for _, origin := range constants(t, "../flow/flow.go", "Origin") {
		f := deniedFlow()
		f.Claim(flow.Origin(origin), "a.test")
		r := *FromFlow(f, EventDecision, testTime)
		if err := validate(compileSchema(t), r.AppendJSON(nil)); err != nil {
			t.Errorf("claim from %s: %v", origin, err)
		}
	}
}

// constants returns the string constants of a type, in a file.
func constants(t *testing.T, file, typ string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != typ {
			return true
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
			if word, err := strconv.Unquote(lit.Value); err == nil {
				words = append(words, word)
			}
		}
		return true
	})
	if len(words) == 0 {
		t.Fatalf("%s: no constant of type %s", file, typ)
	}
	return words
}
