package policy

import (
	"errors"
	"strings"
)

// Error is one thing that is wrong with a policy as written. Compile returns
// all of them, joined.
type Error struct {
	Pos  Position
	Path string // of the value, such as "rules[2].to.hosts[0]"
	Msg  string // what is wrong
	Fix  string // what to write instead
}

func (e *Error) Error() string { return sentence(e.Pos, e.Path, e.Msg, e.Fix) }

// Kind says what a Warning is about.
type Kind string

// The kinds of warnings.
const (
	KindEmpty       Kind = "empty"        // the policy lets nothing out
	KindRedundant   Kind = "redundant"    // another pattern covers it
	KindShadowed    Kind = "shadowed"     // a deny rule covers it
	KindExpired     Kind = "expired"      // the rule has expired
	KindExpiring    Kind = "expiring"     // the rule expires within 7 days
	KindMultiTenant Kind = "multi_tenant" // the names belong to many customers of one provider
	KindPlaceholder Kind = "placeholder"  // a label that stands for something else
	KindMisspelled  Kind = "misspelled"   // a mistake that vendors' own lists contain
	KindAny         Kind = "any"          // the rule names every destination
	KindPorts       Kind = "ports"        // the default port hardly fits the app
	KindDuplicate   Kind = "duplicate"    // two rules have one name
	KindPrivate     Kind = "private"      // the private range holds this host or the cloud's metadata service
)

// Warning is something in a policy that compiles and is hardly meant.
type Warning struct {
	Pos  Position `json:"pos"`
	Kind Kind     `json:"kind"`
	Msg  string   `json:"msg"`
	Fix  string   `json:"fix,omitempty"`
}

func (w Warning) String() string { return sentence(w.Pos, "", w.Msg, w.Fix) }

// sentence puts a message as file:line: message; fix. The path stands in for a
// line that is not known.
func sentence(pos Position, path, msg, fix string) string {
	var b strings.Builder
	if at := pos.String(); at != "" {
		b.WriteString(at + ": ")
	}
	if pos.Line == 0 && path != "" {
		b.WriteString(path + ": ")
	}
	b.WriteString(msg)
	if fix != "" {
		b.WriteString("; " + fix)
	}
	return b.String()
}

// scope is the place in a source that is being compiled. It collects what is
// wrong there, each with its position.
type scope struct {
	c      *compiler
	src    *Source
	path   string // of what is compiled, such as "rules[2]"
	whole  bool   // positions are those of path itself: what is compiled stands in no file
	prefix string // before every message
}

func (s *scope) join(path string) string {
	switch {
	case s.path == "":
		return path
	case s.whole || path == "":
		return s.path
	}
	return s.path + "." + path
}

// pos is the position of a path below the scope; "" is the scope itself.
func (s *scope) pos(path string) Position {
	full := s.join(path)
	p := Position{File: s.src.File}
	if s.src.Line != nil {
		p.Line = s.src.Line(full)
		if p.Line == 0 && full != s.path {
			p.Line = s.src.Line(s.path)
		}
	}
	return p
}

func (s *scope) fail(path, msg, fix string) {
	s.c.errs = append(s.c.errs, &Error{Pos: s.pos(path), Path: s.join(path), Msg: s.prefix + msg, Fix: fix})
}

func (s *scope) failErr(path string, err error) {
	if pe := (*patternError)(nil); errors.As(err, &pe) {
		s.fail(path, pe.msg, pe.fix)
		return
	}
	s.fail(path, err.Error(), "")
}

func (s *scope) warn(path string, kind Kind, msg, fix string) {
	s.c.warn(s.pos(path), kind, s.prefix+msg, fix)
}
