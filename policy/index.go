package policy

import (
	"strings"
	"unsafe"

	"github.com/armon/go-radix"
)

// entry is one pattern (or address range, or any) of one rule.
type entry struct {
	rule *Rule
	text string // the pattern in normal form
	line int32
	seq  int32  // its place in compiler.items
	rank uint32 // of an allow entry: the highest that matches decides
}

// The parts of a rank, from the weightiest: not on trial, class, length.
const (
	rankEnforced = 1 << 30
	rankExact    = 3 << 28
	rankInner    = 2 << 28
	rankSuffix   = 1 << 28
)

func (p Pattern) rank() uint32 {
	n := uint32(len(p.fixed))
	switch {
	case !p.wild():
		return rankExact | n
	case strings.Contains(p.fixed, "*"):
		return rankInner | n
	}
	return rankSuffix | n
}

// nameIndex finds the patterns that match a name. It is a radix tree over the
// names' bytes in reverse, each closed by a dot ("moc.xobkot."), so that every
// key on the path of a longer name ends at a label of it. What stands left of
// an inner wildcard is a tree of its own, below the node of what stands right
// of it; so the work is bounded by the name, not by the number of patterns.
// The index is not changed after it is built: go-radix has no lock.
type nameIndex struct{ root *radix.Tree }

type node struct {
	at    []entry     // patterns that end here
	below []entry     // patterns that match one or more labels more
	star  *radix.Tree // patterns that go on after exactly one more label
}

func newNameIndex() nameIndex { return nameIndex{root: radix.New()} }

func (x nameIndex) add(p Pattern, e entry) {
	t, fixed := x.root, p.fixed
	for {
		dotted := "." + fixed + "."
		i := strings.LastIndex(dotted, ".*.")
		if i < 0 {
			break
		}
		n := at(t, strings.TrimSuffix(dotted[i+3:], "."))
		if n.star == nil {
			n.star = radix.New()
		}
		t, fixed = n.star, strings.TrimPrefix(dotted[:i], ".")
	}
	n := at(t, fixed)
	if p.lead != below {
		n.at = append(n.at, e)
	}
	switch {
	case p.lead == exact:
	case !p.one:
		n.below = append(n.below, e)
	default: // one more label, and nothing left of it
		if n.star == nil {
			n.star = radix.New()
		}
		m := at(n.star, "")
		m.at = append(m.at, e)
	}
}

// at returns the node of a name, and makes it if there is none.
func at(t *radix.Tree, name string) *node {
	var buf [maxName + 2]byte
	key := string(reverse(&buf, name))
	if v, ok := t.Get(key); ok {
		return v.(*node)
	}
	n := &node{}
	t.Insert(key, n)
	return n
}

// reverse writes the key of a name of at most maxName bytes. The key of the
// empty name is empty.
func reverse(buf *[maxName + 2]byte, name string) []byte {
	if name == "" {
		return buf[:0]
	}
	n := len(name)
	for i := range n {
		buf[n-1-i] = name[i]
	}
	buf[n] = '.'
	return buf[:n+1]
}

// walk calls visit for every entry whose pattern matches a name in normal form.
func (x nameIndex) walk(name string, visit func(*entry)) {
	var buf [maxName + 2]byte
	key := reverse(&buf, name)
	walk(x.root, unsafe.String(unsafe.SliceData(key), len(key)), visit)
}

func walk(t *radix.Tree, path string, visit func(*entry)) {
	t.WalkPath(path, func(key string, value any) bool {
		n := value.(*node)
		rest := path[len(key):]
		if rest == "" {
			for i := range n.at {
				visit(&n.at[i])
			}
			return false
		}
		for i := range n.below {
			visit(&n.below[i])
		}
		if n.star != nil {
			walk(n.star, rest[strings.IndexByte(rest, '.')+1:], visit)
		}
		return false
	})
}
