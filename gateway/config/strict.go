package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"sluice/policy"
)

// Error is one thing wrong with a configuration.
type Error struct {
	File string
	Line int    // 0: not known
	Path string // such as listeners[0].address; "" for the file itself
	Msg  string // what is wrong, and what to write instead
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// document is one YAML file whose shape was checked against a Go type: viper
// decodes weakly and knows no lines, so neither is left to it.
type document struct {
	file  string
	root  *yaml.Node     // the map at the top
	lines map[string]int // path → line
	errs  []error
}

// maxNodes bounds the values of a file, and what aliases blow it up to. Names
// fill maxFile with fewer.
const maxNodes = 2_000_000

// maxErrors bounds what is said of one file.
const maxErrors = 100

// parseStrict reads data as one YAML document that must fit the type of
// shape. All errors are found, each with its line.
func parseStrict(file string, data []byte, shape any) (*document, error) {
	d := &document{file: file, lines: map[string]int{}}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var root, second yaml.Node
	if err := dec.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &Error{File: file, Msg: "the file is empty; see config.example.yaml for every key"}
		}
		return nil, yamlError(file, data, err)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, &Error{File: file, Line: second.Line, Msg: "a second YAML document would be ignored; put everything in one"}
	case !errors.Is(err, io.EOF):
		return nil, yamlError(file, data, err)
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return nil, &Error{File: file, Line: root.Line, Msg: "the file must be a map of keys such as `version: 1`; see config.example.yaml"}
	}
	d.root = root.Content[0]
	if weigh(d.root, map[*yaml.Node]int{}) > maxNodes {
		return nil, &Error{File: file, Msg: fmt.Sprintf("has more than %d values, those of aliases (*) counted each time, or an alias of itself", maxNodes)}
	}
	d.walk(d.root, reflect.TypeOf(shape), "")
	if more := len(d.errs) - maxErrors; more > 0 {
		d.errs = append(d.errs[:maxErrors], &Error{File: file, Msg: fmt.Sprintf("and %d errors more", more)})
	}
	return d, errors.Join(d.errs...)
}

// weigh counts the values below a node, those of aliases each time, up to a
// few more than maxNodes. known holds what anchors weigh; one that is being
// weighed is too heavy, as it would hold itself.
func weigh(n *yaml.Node, known map[*yaml.Node]int) int {
	n = real(n)
	if n.Anchor != "" {
		if w, ok := known[n]; ok {
			return w
		}
		known[n] = maxNodes + 1
	}
	w := 1
	for _, c := range n.Content {
		if w += weigh(c, known); w > maxNodes {
			return maxNodes + 1
		}
	}
	if n.Anchor != "" {
		known[n] = w
	}
	return w
}

// real is the node that an alias stands for, or the node itself.
func real(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// isNull reports whether a value is left empty.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && slices.Contains([]string{"", "~", "null", "Null", "NULL"}, n.Value)
}

// yamlError says where a file is not YAML, and names the two usual causes.
func yamlError(file string, data []byte, err error) error {
	var line int
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if n, _ := fmt.Sscanf(msg, "line %d:", &line); n == 1 {
		_, msg, _ = strings.Cut(msg, ": ")
	}
	e := &Error{File: file, Line: line, Msg: "not valid YAML: " + msg}
	if lines := bytes.Split(data, []byte("\n")); line > 0 && line <= len(lines) {
		text := bytes.TrimLeft(lines[line-1], " -")
		switch {
		case bytes.HasPrefix(text, []byte("\t")):
			e.Msg += "; indent with spaces, not tabs"
		case bytes.HasPrefix(text, []byte("*")):
			e.Msg += fmt.Sprintf("; a pattern that begins with * needs quotes: %q", bytes.TrimSpace(text))
		}
	}
	return e
}

func (d *document) fail(n *yaml.Node, path, format string, args ...any) {
	d.errs = append(d.errs, &Error{File: d.file, Line: n.Line, Path: path, Msg: fmt.Sprintf(format, args...)})
}

var (
	serviceRefType = reflect.TypeFor[policy.ServiceRef]()
	oneOrMoreType  = reflect.TypeFor[policy.OneOrMore]()
)

// walk checks node against t, and notes the line of every path.
func (d *document) walk(n *yaml.Node, t reflect.Type, path string) {
	line := n.Line // of an alias, not of what it stands for
	n = real(n)
	d.lines[path] = line
	if isNull(n) {
		return // an empty value: the default
	}
	switch {
	case (t == serviceRefType || t == oneOrMoreType) && n.Kind == yaml.ScalarNode:
		d.scalar(n, reflect.TypeFor[string](), path)
	case t.Kind() == reflect.Struct:
		d.mapping(n, t, path)
	case t.Kind() == reflect.Slice:
		d.list(n, t, path)
	case t.Kind() == reflect.Map:
		d.words(n, t, path)
	default:
		d.scalar(n, t, path)
	}
}

func (d *document) mapping(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "want a map of keys (%s), not %s", strings.Join(keysOf(t), ", "), kindOf(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := real(n.Content[i]), n.Content[i+1]
		if k.Tag == "!!merge" {
			d.fail(k, path, "merge keys (<<) are not supported; write the keys out")
			continue
		}
		f, ok := fieldOf(t, k.Value)
		if !ok {
			d.fail(k, path, "unknown key %q; %s", k.Value, didYouMean(k.Value, keysOf(t)))
			continue
		}
		if first := seen[k.Value]; first > 0 {
			d.fail(k, path, "key %q stands twice (first in line %d); keep one", k.Value, first)
			continue
		}
		seen[k.Value] = k.Line
		d.walk(v, f.Type, join(path, k.Value))
	}
}

func (d *document) list(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind != yaml.SequenceNode {
		if n.Kind == yaml.ScalarNode {
			d.fail(n, path, "want a list, not %s; write [%q]", kindOf(n), n.Value)
		} else {
			d.fail(n, path, "want a list, not %s", kindOf(n))
		}
		return
	}
	for i, item := range n.Content {
		p := fmt.Sprintf("%s[%d]", path, i)
		if isNull(real(item)) {
			d.fail(item, p, "is empty; remove it or write a value")
			continue
		}
		d.walk(item, t.Elem(), p)
	}
}

// words checks a map from words to scalars: the parameters of a service.
func (d *document) words(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "want a map of names and values, not %s", kindOf(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := real(n.Content[i])
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || k.Value == "" {
			d.fail(k, path, "want names as keys")
			continue
		}
		if seen[strings.ToLower(k.Value)] {
			d.fail(k, path, "key %q stands twice; keep one", k.Value)
			continue
		}
		seen[strings.ToLower(k.Value)] = true
		d.walk(n.Content[i+1], t.Elem(), join(path, k.Value))
	}
}

// scalar checks that a value is of the kind its key wants. Strings must be
// strings: YAML reads an unquoted `no` or `1.20` as something else.
func (d *document) scalar(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "want one value, not %s", kindOf(n))
		return
	}
	switch t {
	case reflect.TypeFor[Duration]():
		if _, err := ParseDuration(n.Value); err != nil {
			d.fail(n, path, "%v", err)
		}
		return
	case reflect.TypeFor[ByteSize]():
		if _, err := ParseByteSize(n.Value); err != nil {
			d.fail(n, path, "%v", err)
		}
		return
	case reflect.TypeFor[policy.PortRange]():
		if n.Tag != "!!int" && n.Tag != "!!str" {
			d.fail(n, path, "want a port such as 443 or a range such as \"5228-5230\", not %s", kindOf(n))
		}
		return
	}
	want := map[reflect.Kind]string{reflect.Bool: "!!bool", reflect.Int: "!!int", reflect.Uint32: "!!int", reflect.String: "!!str"}[t.Kind()]
	switch {
	case want == "!!bool" && n.Tag == want && !slices.Contains(boolWords, n.Value),
		want == "!!int" && n.Tag == want && !wholeNumber(n.Value, t):
		d.fail(n, path, "%q is out of range", n.Value)
	case n.Tag == want, want == "!!str" && n.Tag == "!!timestamp":
	case want == "!!str":
		d.fail(n, path, "want text, not %s; write %q", kindOf(n), n.Value)
	case want == "!!bool":
		d.fail(n, path, "want true or false, not %q", n.Value)
	default:
		d.fail(n, path, "want a whole number, not %q", n.Value)
	}
}

var boolWords = []string{"true", "True", "TRUE", "false", "False", "FALSE"}

func wholeNumber(s string, t reflect.Type) bool {
	_, err := strconv.ParseInt(s, 0, t.Bits())
	if t.Kind() == reflect.Uint32 {
		_, err = strconv.ParseUint(s, 0, 32)
	}
	return err == nil
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a map"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "the number " + n.Value
	case n.Tag == "!!bool":
		return "the truth value " + n.Value
	}
	return fmt.Sprintf("%q", n.Value)
}

// fieldOf finds the field of t that key names, exactly as written.
func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); key != "-" && f.Tag.Get("mapstructure") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if k := t.Field(i).Tag.Get("mapstructure"); k != "-" && k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// didYouMean suggests the nearest known word, or lists them all.
func didYouMean(got string, known []string) string {
	best, bestDist := "", 3
	for _, k := range known {
		if dist := policy.EditDistance(strings.ToLower(got), strings.ToLower(k)); dist < bestDist {
			best, bestDist = k, dist
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	known = slices.Sorted(slices.Values(known))
	return "known: " + strings.Join(known, ", ")
}
