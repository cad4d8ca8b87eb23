package catalog

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"sluice/policy"
)

//go:embed services/*.yaml
var builtin embed.FS

// Catalog is a checked set of services. It is immutable.
type Catalog struct {
	services map[string]*Service
}

// Load reads and checks the services that are built in. The error names the
// file, and with unknown keys the line.
func Load() (*Catalog, error) { return load(builtin) }

// Builtin is Load done once. It panics if the built-in files are at fault,
// which the tests of this package rule out for a released binary.
var Builtin = sync.OnceValue(func() *Catalog {
	c, err := Load()
	if err != nil {
		panic(err)
	}
	return c
})

func load(files fs.FS) (*Catalog, error) {
	names, err := fs.Glob(files, "services/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list the catalog: %w", err)
	}
	c := &Catalog{services: make(map[string]*Service, len(names))}
	for _, file := range names {
		s, err := decode(files, file)
		if err != nil {
			return nil, fmt.Errorf("catalog: %s: %w", file, err)
		}
		c.services[s.Name] = s
	}
	for _, name := range c.names() {
		if err := c.checkIncludes(name, nil); err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
	}
	return c, nil
}

// decode reads one file, which holds one service of the file's own name.
func decode(files fs.FS, file string) (*Service, error) {
	text, err := fs.ReadFile(files, file)
	if err != nil {
		return nil, err
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	s := new(Service)
	if err := d.Decode(s); err != nil {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("second document; write one service per file")
	}
	if want := strings.TrimSuffix(path.Base(file), ".yaml"); s.Name != want {
		return nil, fmt.Errorf("name %q; want %q, as the file", s.Name, want)
	}
	return s, s.check()
}

// checkIncludes follows the includes of a service; above are the services on
// the way to it.
func (c *Catalog) checkIncludes(name string, above []string) error {
	if slices.Contains(above, name) {
		return fmt.Errorf("includes go in a circle: %s", strings.Join(append(above, name), " → "))
	}
	above = append(slices.Clone(above), name)
	for _, in := range c.services[name].Includes {
		if c.services[in] == nil {
			return fmt.Errorf("%s includes %q, which does not exist", name, in)
		}
		if err := c.checkIncludes(in, above); err != nil {
			return err
		}
	}
	return nil
}

// Services returns every service, sorted by name.
func (c *Catalog) Services() []Service {
	out := make([]Service, 0, len(c.services))
	for _, name := range c.names() {
		out = append(out, *c.services[name])
	}
	return out
}

// Get returns the service of that name. The error suggests the nearest name.
func (c *Catalog) Get(name string) (Service, error) {
	if s := c.services[name]; s != nil {
		return *s, nil
	}
	names := c.names()
	if near := nearest(name, names); near != "" {
		return Service{}, fmt.Errorf("service %q is not in the catalog; did you mean %q?", name, near)
	}
	return Service{}, fmt.Errorf("service %q is not in the catalog; it has %s", name, strings.Join(names, ", "))
}

func (c *Catalog) names() []string {
	return slices.Sorted(maps.Keys(c.services))
}

// nearest returns the name that most likely was meant, or "". A name that
// begins with what was written wins over one that is spelt alike.
func nearest(name string, names []string) string {
	name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	best, least := "", len(name)/3+2
	for _, n := range names {
		d := policy.EditDistance(name, n)
		if len(name) >= 4 && (strings.HasPrefix(n, name) || strings.HasPrefix(name, n)) {
			d = 0
		}
		if d < least {
			best, least = n, d
		}
	}
	return best
}
