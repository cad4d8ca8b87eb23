package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// how says in which way a rule's destinations may be spoken to.
type how struct {
	proto   Protocol
	ports   []portSpan // none: every port
	methods []string   // none: every method
	paths   []string   // none: every path
}

type portSpan struct{ first, last uint16 }

func (p portSpan) String() string {
	if p.first == p.last {
		return strconv.Itoa(int(p.first))
	}
	return fmt.Sprintf("%d-%d", p.first, p.last)
}

func (h *how) hasPort(port uint16) bool {
	if len(h.ports) == 0 {
		return true
	}
	for _, p := range h.ports {
		if p.first <= port && port <= p.last {
			return true
		}
	}
	return false
}

// check returns 0 if the request is one that the rule is for. A request that is
// not known yet matches no deny rule, and an allow rule only if it will be
// known before anything goes out.
func (h *how) check(r *Rule, q *Query) stage {
	if len(h.methods)+len(h.paths) == 0 {
		return 0
	}
	if q.Method == "" && q.Path == "" {
		seenLater := q.Seen == SeenNothing || q.Seen == SeenTLS && r.Inspect == InspectAlways
		if r.Deny || !seenLater {
			return atRequest
		}
		return 0
	}
	if len(h.methods) > 0 && !slices.Contains(h.methods, q.Method) {
		return atRequest
	}
	if len(h.paths) > 0 && !h.hasPath(q.Path, r.Deny) {
		return atRequest
	}
	return 0
}

// hasPath compares paths as they are written. One that a server might read as
// another path is in no allow rule, and in every deny rule.
func (h *how) hasPath(path string, deny bool) bool {
	if ambiguous(path) {
		return deny
	}
	for _, p := range h.paths {
		if prefix, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(path, prefix) || p == path {
			return true
		}
	}
	return false
}

// ambiguous reports whether servers differ about what a path names: dot
// segments, empty segments, backslashes, parameters, and percent-encoding of
// what needs none.
func ambiguous(path string) bool {
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '\\', ';', 0:
			return true
		case '/':
			rest := path[i+1:]
			segment, _, more := strings.Cut(rest, "/")
			if segment == "." || segment == ".." || segment == "" && more {
				return true
			}
		case '%':
			if i+2 >= len(path) {
				return true
			}
			v, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
			c := byte(v)
			if err != nil || c < 0x20 || c == '/' || c == '\\' || c == ';' || c == '%' ||
				c == '-' || c == '.' || c == '_' || c == '~' || isAlphanumeric(c) {
				return true
			}
		}
	}
	return false
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// how reads the ports, protocol, methods and paths of a rule whose apps are
// known.
func (s *scope) how(r *Rule, to ToSpec) how {
	h := how{proto: TCP, ports: s.ports(to.Ports)}
	udp, http := len(r.Apps) > 0, len(r.Apps) > 0
	for _, w := range r.Apps {
		udp = udp && apps[w].udp
		http = http && apps[w].port == "80"
	}
	switch {
	case to.Protocol != "":
		p, err := ParseProtocol(to.Protocol)
		if err != nil {
			s.fail("to.protocol", err.Error(), "write tcp or udp, or any for both")
		}
		h.proto = p
	case r.Deny || r.everything:
		h.proto = AnyProtocol
	case udp:
		h.proto = UDP
	}
	if len(to.Ports) == 0 && !r.Deny && !r.everything {
		h.ports = []portSpan{{443, 443}}
		if http {
			h.ports = []portSpan{{80, 80}}
		} else if port := usualPort(r.Apps); port != "" && len(to.Hosts)+len(to.CIDRs) > 0 {
			s.warn("", KindPorts, list(r.Apps)+" is rarely on port 443, the default", "write ports: ["+port+"]")
		}
	}
	s.requests(to)
	h.methods, h.paths = to.Methods, to.Paths
	if len(h.methods)+len(h.paths) > 0 && !r.Deny && !http && r.Inspect != InspectAlways {
		s.fail("to", "methods and paths can not be seen inside TLS", "add app: http for plain HTTP, or inspect: always")
	}
	return h
}

// requests checks the methods and paths of a rule.
func (s *scope) requests(to ToSpec) {
	for i, m := range to.Methods {
		if m == "" || strings.ToUpper(m) != m || strings.ContainsAny(m, " \t*/") {
			s.fail(fmt.Sprintf("to.methods[%d]", i), fmt.Sprintf("%q is no method", m), "write it in capitals, such as GET")
		}
	}
	for i, p := range to.Paths {
		at := fmt.Sprintf("to.paths[%d]", i)
		switch body, _ := strings.CutSuffix(p, "*"); {
		case !strings.HasPrefix(p, "/"):
			s.fail(at, fmt.Sprintf("path %q does not start with a slash", p), fmt.Sprintf("write %q", "/"+p))
		case strings.ContainsAny(body, "*?#"):
			s.fail(at, fmt.Sprintf("path %q has a * that is not at its end, or a query", p), "write an exact path, or a prefix that ends in *")
		case ambiguous(body):
			s.fail(at, fmt.Sprintf("path %q can be read in more than one way", p), "write it without dot or empty segments and without needless percent-encoding")
		}
	}
}

// usualPort is where the first of some apps lives, if none of them speaks TLS
// and so may well be on 443.
func usualPort(words []string) string {
	for _, w := range words {
		if apps[w].seen.has(SeenTLS) {
			return ""
		}
	}
	if len(words) == 0 {
		return ""
	}
	return apps[words[0]].port
}

// ports reads port ranges, sorted and joined.
func (s *scope) ports(list []PortRange) []portSpan {
	var spans []portSpan
	for i, p := range list {
		from, to, isRange := strings.Cut(strings.TrimSpace(string(p)), "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
		last, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
		if err1 != nil || err2 != nil || first == 0 || last < first {
			s.fail(fmt.Sprintf("to.ports[%d]", i), fmt.Sprintf("%q is no port", p), "write one of 1 to 65535, or a range such as 5228-5230")
			continue
		}
		spans = append(spans, portSpan{uint16(first), uint16(last)})
	}
	slices.SortFunc(spans, func(a, b portSpan) int { return int(a.first) - int(b.first) })
	out := spans[:0]
	for _, p := range spans {
		if n := len(out); n > 0 && int(out[n-1].last)+1 >= int(p.first) {
			out[n-1].last = max(out[n-1].last, p.last)
			continue
		}
		out = append(out, p)
	}
	return out
}
