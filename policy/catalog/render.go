package catalog

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// lineWidth is where running text is broken, in characters.
const lineWidth = 100

// RenderList writes one line for each service: its name and what it is.
func RenderList(w io.Writer, services []Service) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tVENDOR\tWHAT IT IS")
	for _, s := range services {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Name, s.Vendor, s.Title)
	}
	return t.Flush()
}

// Render writes all that is known of a service in words: what it opens, by
// default and part by part, its parameters, where the facts were taken from,
// and how to write it in the configuration.
func Render(w io.Writer, s Service) error {
	var b bytes.Buffer
	p := page{out: &b}
	p.line("%s: %s", s.Name, s.Title)
	p.line("Vendor: %s", s.Vendor)
	p.blank()
	p.text("", s.Summary)

	p.entries(s, "", "Opens by default")
	if len(s.Includes) > 0 {
		p.head("Comes with")
		p.text("  ", strings.Join(s.Includes, ", ")+"; ask for their parts as "+s.Includes[0]+"/PART")
	}
	for _, part := range s.Parts {
		p.entries(s, part.Name, fmt.Sprintf("Opens only with part %s: %s", part.Name, part.Description))
	}
	p.params(s)
	p.corrections(s)
	if len(s.Notes) > 0 {
		p.head("Good to know")
		for _, n := range s.Notes {
			p.item(n)
		}
	}
	p.head("Sources")
	for _, src := range s.Sources {
		p.item(fmt.Sprintf("%s (%s, certainty %s)", src.Title, src.Basis.words(), src.Sure))
		if src.URL != "" {
			p.line("    %s", src.URL)
		}
	}
	p.usage(s)
	_, err := w.Write(b.Bytes())
	return err
}

// page gathers lines of text.
type page struct{ out *bytes.Buffer }

func (p page) line(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }
func (p page) blank()                          { p.out.WriteByte('\n') }

func (p page) head(title string) {
	p.blank()
	p.text("", title)
}

func (p page) item(s string) { p.wrapped("  - ", "    ", s) }

func (p page) text(indent, s string) { p.wrapped(indent, indent, s) }

// wrapped breaks a text between words, with one indent for its first line and
// another for the rest.
func (p page) wrapped(first, rest, s string) {
	line := first
	for word := range strings.FieldsSeq(s) {
		full := utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > lineWidth
		if full && strings.TrimSpace(line) != "" {
			p.line("%s", line)
			line = rest
		}
		if line != first && line != rest {
			line += " "
		}
		line += word
	}
	p.line("%s", line)
}

func (p page) entries(s Service, part, title string) {
	var list []Entry
	for _, e := range s.Entries {
		if e.Part == part {
			list = append(list, e)
		}
	}
	p.head(title)
	if len(list) == 0 && part == "" {
		p.line("  nothing of its own")
	}
	for _, e := range list {
		p.text("  ", strings.Join(each(e.Hosts, hostWords), ", "))
		p.text("      ", e.how()+": "+e.Purpose)
		if len(e.Fallback) > 0 {
			p.text("      ", "without the parameter: "+strings.Join(each(e.Fallback, hostWords), ", "))
		}
		if e.CoveredBy != "" {
			p.text("      ", "let out by "+e.CoveredBy+" already")
		}
	}
}

// how says protocol, ports and what else there is to know of an entry.
func (e Entry) how() string {
	protocol := map[string]string{"tcp": "TCP", "udp": "UDP", "any": "TCP and UDP"}[e.Protocol]
	out := protocol + " " + strings.Join(e.Ports, ", ")
	if !slices.Contains(e.App, "opaque") {
		out += " (" + strings.Join(e.App, ", ") + ")"
	}
	switch e.Direction {
	case In:
		out += ", towards your own server"
	case LAN:
		out += ", inside your network"
	}
	if e.Inspect == "never" {
		out += ", never inspected"
	}
	if e.MultiTenant {
		out += ", shared by many customers"
	}
	if e.Sure != High {
		out += ", certainty " + string(e.Sure)
	}
	return out
}

// hostWords says what a host pattern matches where its form does not show it.
func hostWords(pattern string) string {
	switch rest, dotted := strings.CutPrefix(pattern, "."); {
	case pattern == anyHost:
		return "any address"
	case dotted:
		return fmt.Sprintf("%s (%s and everything below it)", pattern, rest)
	case strings.Contains(pattern, ".*."):
		return pattern + " (exactly one label at the star)"
	}
	return pattern
}

func (p page) params(s Service) {
	if len(s.Params) == 0 {
		return
	}
	p.head("Parameters")
	for _, q := range s.Params {
		words := q.Kind.words()
		if len(q.Values) > 0 {
			words = strings.Join(q.Values, ", ")
		}
		if q.Default != "" {
			words += "; default " + q.Default
		} else if s.requires(q.Name) {
			words += "; required"
		}
		p.wrapped("  "+q.Name+": ", "      ", q.Description+" ("+words+")")
	}
}

// requires tells whether the default of a service has an entry with no host or
// port unless the parameter is given.
func (s Service) requires(name string) bool {
	return slices.ContainsFunc(s.Entries, func(e Entry) bool {
		texts := e.Ports
		if len(e.Fallback) == 0 {
			texts = slices.Concat(e.Ports, e.Hosts)
		}
		return e.Part == "" && slices.ContainsFunc(texts, func(t string) bool {
			return slices.Contains(references(t), name)
		})
	})
}

func (p page) corrections(s Service) {
	first := true
	for _, e := range s.Entries {
		if e.Verbatim == "" {
			continue
		}
		if first {
			p.head("Corrected")
			first = false
		}
		p.item(fmt.Sprintf("documents say %q: %s", e.Verbatim, e.Correction))
	}
}

// usage shows how the service is written in a configuration: alone, and in a
// comment with all that it can be given.
func (p page) usage(s Service) {
	p.head("In the configuration")
	p.line("  policy:")
	p.line("    services:")
	var required, all []string
	for _, q := range s.Params {
		value := "…"
		if len(q.Values) > 0 {
			value = q.Values[0]
		}
		if s.requires(q.Name) && q.Default == "" {
			required = append(required, q.Name+": "+value)
		}
		all = append(all, q.Name+": "+value)
	}
	if len(required) == 0 {
		p.line("      - %s", s.Name)
	} else {
		p.line("      - {name: %s, params: {%s}}", s.Name, strings.Join(required, ", "))
	}
	if len(all) == len(required) && len(s.Parts) == 0 {
		return
	}
	p.line("      # or, with what you need of this:")
	p.line("      # - name: %s", s.Name)
	if len(all) > 0 {
		p.line("      #   params: {%s}", strings.Join(all, ", "))
	}
	if len(s.Parts) > 0 {
		p.line("      #   parts: [%s]", strings.Join(each(s.Parts, func(q Part) string { return q.Name }), ", "))
	}
}

func (k ParamKind) words() string {
	switch k {
	case KindHost:
		return "host name, address or CIDR"
	case KindAddress:
		return "address or CIDR"
	case KindLabel:
		return "one label"
	case KindPorts:
		return "port or range"
	}
	return "CIDR"
}

func (b Basis) words() string {
	switch b {
	case VendorPage:
		return "a vendor's page"
	case VendorManual:
		return "a vendor's manual, not published"
	case ClientCode:
		return "the vendor's client"
	case ThirdParty:
		return "somebody else's page"
	case GeneralKnowledge:
		return "general knowledge"
	}
	return string(b)
}

// each maps a list.
func each[T any](list []T, f func(T) string) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}
