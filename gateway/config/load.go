package config

import (
	"crypto/sha256"
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
	doc     *document
	origin  map[string]string // path → where its value comes from, if not from the file
	globs   []string          // of the includes, absolute or from the main file's directory
	read    map[string]*sum   // what was read, by path
}

// Load reads a configuration. Its error joins one *Error per thing wrong.
func Load(in Input) (*Loaded, error) {
	l, err := load(in)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// load is Load. With an error it returns what is known so far, for Watch.
func load(in Input) (*Loaded, error) {
	l := &Loaded{Name: EmbeddedName, origin: map[string]string{}, read: map[string]*sum{}}
	data := Embedded
	if in.Path != "" {
		l.Name = in.Path
		l.read[in.Path] = nil
		var err error
		if data, err = readFile(in.Path); err != nil {
			return l, err
		}
		l.note(in.Path, data)
	}
	var err error
	if l.doc, err = parseStrict(l.Name, data, File{}); err != nil {
		return l, err
	}
	if err := l.decode(in); err != nil {
		return l, err
	}
	l.listenAt(in.ListenAddress)
	if l.File.Version != 1 {
		return l, l.at("version", "version %d is not known; this program reads version 1", l.File.Version)
	}
	return l, l.readIncludes(in.Path)
}

// note keeps the hash of what was read from a file.
func (l *Loaded) note(path string, data []byte) {
	h := sum(sha256.Sum256(data))
	l.read[path] = &h
}

func (l *Loaded) listenAt(address string) {
	if address == "" || len(l.File.Listeners) == 0 {
		return
	}
	i := slices.IndexFunc(l.File.Listeners, func(l Listener) bool { return slices.Contains(l.Doors, "connect") || slices.Contains(l.Doors, "http") })
	i = max(i, 0)
	l.File.Listeners[i].Address = address
	l.origin[fmt.Sprintf("listeners[%d].address", i)] = "flag --listen"
}

// decode merges defaults, file, environment and flags. The file's shape was
// checked before.
func (l *Loaded) decode(in Input) error {
	v := viper.NewWithOptions(viper.KeyDelimiter("::")) // host names have dots
	if err := v.MergeConfigMap(plain(l.doc.root, reflect.TypeFor[File]()).(map[string]any)); err != nil {
		return err
	}
	overrides, err := fromEnviron(in.Environ)
	if err != nil {
		return err
	}
	for path := range overrides {
		l.origin[path] = "environment: " + EnvName(path)
	}
	for path, value := range in.Set {
		typed, err := typedValue(path, value)
		if err != nil {
			return fmt.Errorf("flag for %s: %w", path, err)
		}
		overrides[path], l.origin[path] = typed, "flag for "+path
	}
	for path, value := range overrides {
		v.Set(strings.ReplaceAll(path, ".", "::"), value)
	}
	l.File = Default()
	err = v.UnmarshalExact(&l.File, viper.DecodeHook(decodeHook), func(c *mapstructure.DecoderConfig) { c.WeaklyTypedInput = false })
	if l.File.Listeners == nil {
		l.File.Listeners = defaultListeners()
	}
	return err
}

// plain turns a checked node into maps, lists and scalars. Texts stay as they
// are written, so that a date is not taken for a time.
func plain(n *yaml.Node, t reflect.Type) any {
	n = real(n)
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := real(n.Content[i]).Value, real(n.Content[i+1])
			if isNull(v) {
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
	l.Sources = []policy.Source{{File: l.Name, Spec: l.File.Policy, Line: func(p string) int { return l.line(join("policy", p)) }}}
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
		files, err := expand(glob)
		if err != nil {
			errs = append(errs, l.at(path, "%q is not a glob: %v", glob, err))
			continue
		}
		l.globs = append(l.globs, glob)
		if len(files) == 0 && !isGlob(glob) {
			errs = append(errs, l.at(path, "%s does not exist", glob))
		}
		for _, file := range files {
			if _, twice := l.read[file]; twice && file != mainPath {
				continue // two globs may overlap
			}
			if sameFile(file, mainPath) {
				errs = append(errs, l.at(path, "names this file itself; put included files into a directory of their own"))
				continue
			}
			src, err := l.readPolicy(file)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			l.Sources = append(l.Sources, src)
		}
	}
	return errors.Join(errs...)
}

func sameFile(a, b string) bool {
	ia, err := os.Stat(a)
	if err != nil {
		return false
	}
	ib, err := os.Stat(b)
	return err == nil && os.SameFile(ia, ib)
}

// readPolicy reads one included file: the keys of `policy`, at its top.
func (l *Loaded) readPolicy(file string) (policy.Source, error) {
	l.read[file] = nil
	data, err := readFile(file)
	if err != nil {
		return policy.Source{}, err
	}
	l.note(file, data)
	doc, err := parseStrict(file, data, policy.Spec{})
	if err != nil {
		return policy.Source{}, err
	}
	for _, key := range []string{"mode", "include"} {
		if line := doc.lines[key]; line > 0 {
			return policy.Source{}, &Error{File: file, Line: line, Path: key, Msg: "belongs in the main file only; remove it here"}
		}
	}
	var spec policy.Spec
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: &spec, ErrorUnused: true, DecodeHook: decodeHook})
	if err != nil {
		return policy.Source{}, err
	}
	if err := dec.Decode(plain(doc.root, reflect.TypeFor[policy.Spec]())); err != nil {
		return policy.Source{}, &Error{File: file, Msg: err.Error()}
	}
	return policy.Source{File: file, Spec: spec, Line: func(p string) int { return doc.lines[p] }}, nil
}

// at makes an error about a path of the main file, or about the variable or
// flag that set it.
func (l *Loaded) at(path, format string, args ...any) error {
	e := &Error{File: l.Name, Line: l.line(path), Path: path, Msg: fmt.Sprintf(format, args...)}
	if from := l.from(path); from != "" {
		e.File, e.Line, e.Path = from, 0, ""
	}
	return e
}

// from says where a value comes from that is not the file's, or "".
func (l *Loaded) from(path string) string {
	if o := l.origin[path]; o != "" {
		return o
	}
	if list, _, ok := strings.Cut(path, "["); ok {
		return l.origin[list]
	}
	return ""
}

// line is the line of a path in the main file, or of the nearest thing above
// it that stands there; 0 if its value is not the file's.
func (l *Loaded) line(path string) int {
	if l.from(path) != "" {
		return 0
	}
	for path != "" {
		if n := l.doc.lines[path]; n > 0 {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}
