package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	_ "embed"

	"sluice/policy"
)

// Embedded is the configuration of a gateway that was given none.
//
//go:embed default.yaml
var Embedded []byte

// EmbeddedName stands for the file name of the embedded default in messages.
const EmbeddedName = "(embedded default)"

// Input says where a configuration comes from.
type Input struct {
	Path    string            // file; "" for the embedded default
	Environ []string          // os.Environ form; SLUICE_* names set keys
	Set     map[string]string // keys set by flags, such as "policy.mode"; they win

	// ListenAddress takes the place of the address of the first listener
	// that has a door for explicit proxying, or of the first at all.
	ListenAddress string
}

// Loaded is a configuration that was read and has the right shape. Its values
// may still be wrong: Options says so.
type Loaded struct {
	File    File
	Name    string          // of the main file, for messages
	Sources []policy.Source // the main file's policy, then the included ones
	Watch   []string        // directories and files whose change may change this
	doc     *document
}

// Load reads a configuration. Its error joins one *Error per thing wrong.
func Load(in Input) (*Loaded, error) {
	l := &Loaded{Name: EmbeddedName}
	data := Embedded
	if in.Path != "" {
		var err error
		if data, err = os.ReadFile(in.Path); err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		l.Name = in.Path
		l.Watch = append(l.Watch, in.Path)
	}
	doc, err := parseStrict(l.Name, data, File{})
	if err != nil {
		return nil, err
	}
	l.doc = doc
	if l.File, err = decode(data, in); err != nil {
		return nil, err
	}
	l.listenAt(in.ListenAddress)
	if l.File.Version != 1 {
		return nil, l.at("version", "version %d is not known; this program reads version 1", l.File.Version)
	}
	return l, l.readIncludes(in.Path)
}

func (l *Loaded) listenAt(address string) {
	if address == "" || len(l.File.Listeners) == 0 {
		return
	}
	i := slices.IndexFunc(l.File.Listeners, func(l Listener) bool { return slices.Contains(l.Doors, "connect") || slices.Contains(l.Doors, "http") })
	l.File.Listeners[max(i, 0)].Address = address
}

// decode merges defaults, file, environment and flags. The file's shape was
// checked before.
func decode(data []byte, in Input) (File, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return File{}, err
	}
	v := viper.NewWithOptions(viper.KeyDelimiter("::")) // host names have dots
	if err := v.MergeConfigMap(plain(root.Content[0], reflect.TypeFor[File]()).(map[string]any)); err != nil {
		return File{}, err
	}
	overrides, err := fromEnviron(in.Environ)
	if err != nil {
		return File{}, err
	}
	for path, value := range in.Set {
		typed, err := typedValue(path, value)
		if err != nil {
			return File{}, fmt.Errorf("flag for %s: %w", path, err)
		}
		overrides[path] = typed
	}
	for path, value := range overrides {
		v.Set(strings.ReplaceAll(path, ".", "::"), value)
	}
	f := Default()
	return f, v.UnmarshalExact(&f, viper.DecodeHook(decodeHook), func(c *mapstructure.DecoderConfig) { c.WeaklyTypedInput = false })
}

// plain turns a checked node into maps, lists and scalars. Texts stay as they
// are written, so that a date is not taken for a time.
func plain(n *yaml.Node, t reflect.Type) any {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i].Value, n.Content[i+1]
			if v.Tag == "!!null" {
				continue
			}
			if t.Kind() == reflect.Map {
				m[k] = plain(v, t.Elem())
			} else if f, ok := fieldOf(t, k); ok {
				m[k] = plain(v, f.Type)
			}
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			list[i] = plain(item, t.Elem())
		}
		return list
	}
	switch t.Kind() {
	case reflect.Bool:
		return n.Value == "true" || n.Value == "True" || n.Value == "TRUE"
	case reflect.Int, reflect.Uint32:
		i, _ := strconv.ParseInt(n.Value, 0, 64)
		return i
	}
	return n.Value
}

func decodeHook(from, to reflect.Type, data any) (any, error) {
	s, ok := data.(string)
	if !ok {
		return data, nil
	}
	switch to {
	case reflect.TypeFor[Duration]():
		return ParseDuration(s)
	case reflect.TypeFor[ByteSize]():
		return ParseByteSize(s)
	case serviceRefType:
		return policy.ServiceRef{Name: s}, nil
	case oneOrMoreType:
		return policy.OneOrMore{s}, nil
	}
	return data, nil
}

// readIncludes reads the policy files that policy.include names, in the
// order of their names, and fills Sources.
func (l *Loaded) readIncludes(mainPath string) error {
	l.Sources = []policy.Source{{File: l.Name, Spec: l.File.Policy, Line: func(p string) int { return l.doc.lines[join("policy", p)] }}}
	var errs []error
	for i, glob := range l.File.Policy.Include {
		path := fmt.Sprintf("policy.include[%d]", i)
		if mainPath == "" {
			errs = append(errs, l.at(path, "includes need a configuration file"))
			continue
		}
		if !filepath.IsAbs(glob) {
			glob = filepath.Join(filepath.Dir(mainPath), glob)
		}
		files, err := filepath.Glob(glob)
		switch {
		case err != nil:
			errs = append(errs, l.at(path, "%q is not a glob: %v", glob, err))
		case len(files) == 0 && !strings.ContainsAny(glob, "*?["):
			errs = append(errs, l.at(path, "%s does not exist", glob))
		}
		l.Watch = append(l.Watch, filepath.Dir(glob))
		slices.Sort(files)
		for _, file := range files {
			src, err := readPolicy(file)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			l.Watch = append(l.Watch, file)
			l.Sources = append(l.Sources, src)
		}
	}
	return errors.Join(errs...)
}

// readPolicy reads one included file: the keys of `policy`, at its top.
func readPolicy(file string) (policy.Source, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return policy.Source{}, fmt.Errorf("read included policy: %w", err)
	}
	doc, err := parseStrict(file, data, policy.Spec{})
	if err != nil {
		return policy.Source{}, err
	}
	for _, key := range []string{"mode", "include"} {
		if line := doc.lines[key]; line > 0 {
			return policy.Source{}, &Error{File: file, Line: line, Path: key, Msg: "belongs in the main file only; remove it here"}
		}
	}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return policy.Source{}, err
	}
	var spec policy.Spec
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: &spec, ErrorUnused: true, DecodeHook: decodeHook})
	if err != nil {
		return policy.Source{}, err
	}
	if err := dec.Decode(plain(root.Content[0], reflect.TypeFor[policy.Spec]())); err != nil {
		return policy.Source{}, &Error{File: file, Msg: err.Error()}
	}
	return policy.Source{File: file, Spec: spec, Line: func(p string) int { return doc.lines[p] }}, nil
}

// at makes an error about a path of the main file.
func (l *Loaded) at(path, format string, args ...any) error {
	return &Error{File: l.Name, Line: l.doc.lines[path], Path: path, Msg: fmt.Sprintf(format, args...)}
}
