package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	reflector "github.com/invopop/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"sluice/policy"
)

var update = flag.Bool("update", false, "write schema.json anew")

const (
	durationForm = `^([0-9]+d|([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+)$`
	byteSizeForm = `^[0-9]+ ?(B|kB|KiB|MB|MiB|GB|GiB|TB|TiB)?$`
	portForm     = `^[0-9]{1,5}(-[0-9]{1,5})?$`
)

// policyWords are the closed vocabularies of the policy, by type and key.
var policyWords = map[string][]string{
	"Spec.mode":        {"enforce", "report", "open", "block", "audit"},
	"RuleSpec.mode":    {"enforce", "report", "open", "block", "audit"},
	"RuleSpec.action":  {"allow", "deny"},
	"RuleSpec.inspect": {"never", "always"},
	"ToSpec.protocol":  {"tcp", "udp", "any"},
}

// optional are the keys of which "" is a value too.
var optional = map[string]bool{"TLS.source": true, "TLS.client_auth": true, "Telemetry.protocol": true}

// needed are the keys that must be there.
var needed = map[string][]string{
	"Listener": {"address", "doors"}, "Host": {"name", "addresses"}, "RuleSpec": {"to"}, "ServiceRef": {"name"},
}

// makeSchema makes the schema from the types and the comments at their fields.
func makeSchema(t *testing.T) []byte {
	t.Helper()
	comments := map[string]string{}
	fieldComments(t, "file.go", comments)
	fieldComments(t, "../../policy/spec.go", comments)
	r := reflector.Reflector{
		FieldNameTag: "mapstructure", RequiredFromJSONSchemaTags: true, ExpandedStruct: true, Anonymous: true,
		LookupComment: func(t reflect.Type, field string) string { return comments[t.Name()+"."+field] },
		Mapper:        special,
	}
	s := r.Reflect(&File{})
	s.Title = "Configuration of sluice"
	amend(s, "File")
	for name, def := range s.Definitions {
		amend(def, name)
	}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

// special are the types that are not written as their Go kind.
func special(t reflect.Type) *reflector.Schema {
	switch t {
	case reflect.TypeFor[Duration]():
		return &reflector.Schema{Type: "string", Pattern: durationForm}
	case reflect.TypeFor[ByteSize]():
		return &reflector.Schema{OneOf: []*reflector.Schema{{Type: "string", Pattern: byteSizeForm}, {Type: "integer", Minimum: "0"}}}
	case reflect.TypeFor[policy.PortRange]():
		return &reflector.Schema{OneOf: []*reflector.Schema{{Type: "string", Pattern: portForm}, {Type: "integer", Minimum: "1", Maximum: "65535"}}}
	case oneOrMoreType: // apps: one word or a list, and each may be several joined by |
		word := &reflector.Schema{AnyOf: []*reflector.Schema{{Type: "string"}, {Type: "string", Pattern: `^[a-z0-9-]+(\|[a-z0-9-]+)+$`}}}
		for _, app := range policy.Apps() {
			word.AnyOf[0].Enum = append(word.AnyOf[0].Enum, app)
		}
		return &reflector.Schema{OneOf: []*reflector.Schema{word, {Type: "array", Items: word}}}
	}
	return nil
}

// amend adds the vocabularies, and the two ways to name a service.
func amend(s *reflector.Schema, name string) {
	s.Required = needed[name]
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		list, ok := words[name+"."+p.Key]
		if !ok {
			list, ok = policyWords[name+"."+p.Key]
		}
		v := p.Value
		if v.Ref != "" && v.Description == "" {
			continue
		}
		if v.Items != nil && strings.HasSuffix(v.Items.Ref, "/ServiceRef") {
			v.Items = &reflector.Schema{OneOf: []*reflector.Schema{{Type: "string"}, {Ref: v.Items.Ref}}}
		}
		if !ok {
			continue
		}
		if v.Items != nil {
			v = v.Items
		}
		v.Enum = nil
		if optional[name+"."+p.Key] {
			v.Enum = append(v.Enum, "")
		}
		for _, w := range list {
			v.Enum = append(v.Enum, w)
		}
	}
}

// fieldComments reads the comment at each field of a file's structs.
func fieldComments(t *testing.T, file string, into map[string]string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		ts, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		st, ok := ts.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range st.Fields.List {
			for _, name := range field.Names {
				into[ts.Name.Name+"."+name.Name] = strings.TrimSpace(field.Comment.Text())
			}
		}
		return true
	})
}

func TestSchemaIsCurrent(t *testing.T) {
	want := makeSchema(t)
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(Schema, want) {
		t.Errorf("schema.json is not what the types say; run `go generate ./gateway/config`")
	}
}

// Each key has a description, and each closed vocabulary belongs to a key.
func TestSchemaSaysWhatEachKeyIs(t *testing.T) {
	var s struct {
		Properties map[string]json.RawMessage
		Defs       map[string]struct {
			Properties           map[string]json.RawMessage
			AdditionalProperties *bool
		} `json:"$defs"`
	}
	if err := json.Unmarshal(Schema, &s); err != nil {
		t.Fatal(err)
	}
	described := func(where string, raw json.RawMessage) {
		var p struct{ Description string }
		if json.Unmarshal(raw, &p); p.Description == "" {
			t.Errorf("%s has no description; write a comment behind the field", where)
		}
	}
	for key, p := range s.Properties {
		described(key, p)
	}
	for name, def := range s.Defs {
		if def.AdditionalProperties == nil || *def.AdditionalProperties {
			t.Errorf("%s takes unknown keys", name)
		}
		for key, p := range def.Properties {
			described(name+"."+key, p)
		}
	}
	for _, list := range []map[string][]string{words, policyWords} {
		for path := range list {
			name, key, _ := strings.Cut(path, ".")
			if !strings.Contains(string(s.Defs[name].Properties[key]), `"enum"`) {
				t.Errorf("%s has no enum", path)
			}
		}
	}
}

// validate checks a file by the schema, as an editor does.
func validate(t *testing.T, data []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("urn:sluice:config", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("urn:sluice:config")
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(inst)
}

func TestSchemaTakesOurFiles(t *testing.T) {
	example := readExample(t)
	files := map[string][]byte{"default.yaml": Embedded, "config.example.yaml": example, "config.example.yaml with its comments": uncomment(example)}
	for name, data := range files {
		if err := validate(t, data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a misspelt key":            "version: 1\nlistenerz: []\n",
		"a misspelt key below":      "relay: {idle_timout: 1h}\n",
		"an unknown door":           "listeners: [{address: ':1', doors: [htpp]}]\n",
		"a listener without doors":  "listeners: [{address: ':1'}]\n",
		"an unknown mode":           "policy: {mode: enforced}\n",
		"a duration without a unit": "relay: {idle_timeout: 5}\n",
		"a size in words":           "audit: {max_bytes: plenty}\n",
		"a port out of range":       "policy: {rules: [{to: {hosts: [a.test], ports: [70000]}}]}\n",
		"an unknown app":            "policy: {rules: [{to: {hosts: [a.test], app: [gopher]}}]}\n",
		"a text for a list":         "policy: {allow: a.test}\n",
		"a service as a number":     "policy: {services: [1]}\n",
		"another version":           "version: one\n",
	} {
		if validate(t, []byte(text)) == nil {
			t.Errorf("%s: accepted:\n%s", name, text)
		}
	}
}

// What the schema takes as a duration or a size, the program takes too.
func TestSchemaFormsAgreeWithTheParsers(t *testing.T) {
	for _, s := range []string{"5s", "1h30m", "30d", "250ms", "1.5h", "0s", "5", "", "d", "1w", "-5s", "5 s", "s"} {
		_, err := ParseDuration(s)
		if fits := regexp.MustCompile(durationForm).MatchString(s); fits != (err == nil) {
			t.Errorf("duration %q: schema %v, program %v", s, fits, err)
		}
	}
	for _, s := range []string{"5", "64KiB", "10 MiB", "2GB", "7B", "1kB", "", "KiB", "1.5MiB", "-1", "1PiB", "10mib"} {
		_, err := ParseByteSize(s)
		if fits := regexp.MustCompile(byteSizeForm).MatchString(s); fits != (err == nil) {
			t.Errorf("size %q: schema %v, program %v", s, fits, err)
		}
	}
}
