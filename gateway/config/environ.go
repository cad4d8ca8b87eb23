package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// envPrefix begins the name of every environment variable of ours.
const envPrefix = "SLUICE_"

// settable lists the keys that one variable or flag can set, by path: values
// and lists of texts that are not inside a list.
func settable() map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		for i := range t.NumField() {
			f := t.Field(i)
			key := f.Tag.Get("mapstructure")
			if key == "-" {
				continue
			}
			p := join(path, key)
			switch {
			case f.Type.Kind() == reflect.Struct:
				walk(f.Type, p)
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() != reflect.String && f.Type.Elem() != serviceRefType:
			default:
				keys[p] = f.Type
			}
		}
	}
	walk(reflect.TypeFor[File](), "")
	return keys
}

// EnvName returns the variable that sets the key at path.
func EnvName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// fromEnviron returns the keys that SLUICE_* variables set. A variable that
// names no key is an error: a misspelt limit must not pass as no limit.
func fromEnviron(environ []string) (map[string]any, error) {
	keys := settable()
	byName := map[string]string{}
	var names []string
	for path := range keys {
		byName[EnvName(path)] = path
		names = append(names, EnvName(path))
	}
	slices.Sort(names)
	set := map[string]any{}
	var errs []error
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || name == "SLUICE_CONFIG" {
			continue
		}
		path, ok := byName[name]
		if !ok && fromKubernetes(name, value) {
			continue
		}
		if !ok {
			errs = append(errs, fmt.Errorf("environment: unknown variable %s; %s", name, didYouMean(name, names)))
			continue
		}
		typed, err := typedValue(path, value)
		if err != nil {
			errs = append(errs, fmt.Errorf("environment: %s: %w", name, err))
			continue
		}
		set[path] = typed
	}
	return set, errors.Join(errs...)
}

// serviceLink is how Kubernetes tells the pods of a namespace about a Service
// called sluice, or sluice-something: they are not meant for us.
var serviceLink = regexp.MustCompile(`^SLUICE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

func fromKubernetes(name, value string) bool {
	if !serviceLink.MatchString(name) {
		return false
	}
	return !strings.HasSuffix(name, "_PORT") || strings.Contains(value, "://") || strings.Trim(value, "0123456789") == ""
}

// typedValue reads the text of a variable or flag as its key's type. Lists
// are separated by commas.
func typedValue(path, value string) (any, error) {
	t, ok := settable()[path]
	if !ok {
		return nil, fmt.Errorf("unknown key %q", path)
	}
	switch {
	case t == reflect.TypeFor[Duration]():
		d, err := ParseDuration(value)
		return d, err
	case t == reflect.TypeFor[ByteSize]():
		b, err := ParseByteSize(value)
		return b, err
	case t.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return nil, fmt.Errorf("want true or false, not %q", value)
		}
		return b, nil
	case t.Kind() == reflect.Int:
		n, err := strconv.Atoi(value)
		if err != nil {
			return nil, fmt.Errorf("want a whole number, not %q", value)
		}
		return n, nil
	case t.Kind() == reflect.Slice:
		list := []any{}
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		return list, nil
	}
	return value, nil
}
