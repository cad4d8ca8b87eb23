package policy

import (
	"fmt"
	"slices"
	"strings"
)

var (
	modeWords     = []string{"", "enforce", "report", "open"}
	protocolWords = []string{"any", "tcp", "udp"}
	seenWords     = []string{"nothing", "tls", "tls_no_name", "http", "stun", "opaque", "silent"}
	inspectWords  = []string{"", "never", "always"}
)

func word(words []string, i uint8) string {
	if int(i) < len(words) {
		return words[i]
	}
	return fmt.Sprintf("unknown(%d)", i)
}

// ParseMode reads a mode: enforce (or block), report (or audit), open, in any
// case. The empty string is ModeUnset.
func ParseMode(s string) (Mode, error) {
	switch s = strings.ToLower(s); s {
	case "block":
		s = "enforce"
	case "audit":
		s = "report"
	}
	if i := slices.Index(modeWords, s); i >= 0 {
		return Mode(i), nil
	}
	return ModeUnset, fmt.Errorf("mode %q is not one of enforce, report, open", s)
}

func (m Mode) String() string { return word(modeWords, uint8(m)) }

// MarshalText gives the mode as a word, so that records read in words.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMode reads.
func (m *Mode) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMode(string(b))
	return err
}

// ParseProtocol reads a transport protocol: tcp, udp or any, in any case;
// "tcp|udp" is another word for any.
func ParseProtocol(s string) (Protocol, error) {
	s = strings.ToLower(s)
	if s == "tcp|udp" || s == "udp|tcp" {
		return AnyProtocol, nil
	}
	if i := slices.Index(protocolWords, s); i >= 0 {
		return Protocol(i), nil
	}
	return AnyProtocol, fmt.Errorf("protocol %q is not one of tcp, udp, any", s)
}

func (p Protocol) String() string { return word(protocolWords, uint8(p)) }

// MarshalText gives the protocol as a word.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParseProtocol reads.
func (p *Protocol) UnmarshalText(b []byte) (err error) {
	*p, err = ParseProtocol(string(b))
	return err
}

func (s Seen) String() string { return word(seenWords, uint8(s)) }

// MarshalText gives what was seen as a word.
func (s Seen) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the words that MarshalText writes; nothing and the empty
// string are SeenNothing.
func (s *Seen) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*s = SeenNothing
		return nil
	}
	i := slices.Index(seenWords, string(b))
	if i < 0 {
		return fmt.Errorf("%q is not one of %s", b, strings.Join(seenWords, ", "))
	}
	*s = Seen(i)
	return nil
}

func (i Inspect) String() string { return word(inspectWords, uint8(i)) }

// MarshalText gives the setting as a word; InspectUnset is empty.
func (i Inspect) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads the words that MarshalText writes.
func (i *Inspect) UnmarshalText(b []byte) error {
	n := slices.Index(inspectWords, string(b))
	if n < 0 {
		return fmt.Errorf("inspect %q is not one of never, always", b)
	}
	*i = Inspect(n)
	return nil
}

// String gives the position as file:line, or what is known of it.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// list joins words as a sentence does: "a, b and c".
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}
