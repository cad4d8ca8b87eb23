package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// who says which clients a rule is for. Each field that is set must match.
type who struct {
	set             bool // some field is set
	cidrs           addrSet
	users           []string
	groups          []string
	subjects        []string
	namespaces      []string
	serviceAccounts []string
	labels          [][2]string
	processes       []string
	uids            []uint32
}

// check returns 0 if the client is one that the rule is for.
func (w *who) check(source netip.Addr, id *Identity) stage {
	if !w.set {
		return 0
	}
	if len(w.cidrs) > 0 && !w.cidrs.has(source.Unmap().WithZone("")) {
		return atSource
	}
	if len(w.users)+len(w.groups)+len(w.subjects) > 0 &&
		(id == nil || id.User == "" && id.Subject == "" && len(id.Groups) == 0) {
		return atUnauthenticated
	}
	if id == nil {
		id = &nobody
	}
	switch {
	case len(w.users) > 0 && !slices.Contains(w.users, id.User),
		len(w.groups) > 0 && !overlap(w.groups, id.Groups),
		len(w.subjects) > 0 && !slices.Contains(w.subjects, id.Subject),
		len(w.namespaces) > 0 && !slices.Contains(w.namespaces, id.Namespace),
		len(w.serviceAccounts) > 0 && !slices.Contains(w.serviceAccounts, id.ServiceAccount),
		len(w.processes) > 0 && !slices.Contains(w.processes, id.Process),
		len(w.uids) > 0 && !(id.HasUID && slices.Contains(w.uids, id.UID)):
		return atSource
	}
	for _, l := range w.labels {
		if v, ok := id.Labels[l[0]]; !ok || v != l[1] {
			return atSource
		}
	}
	return 0
}

var nobody Identity

func overlap(a, b []string) bool {
	for _, s := range a {
		if slices.Contains(b, s) {
			return true
		}
	}
	return false
}

func (s *scope) who(f FromSpec) who {
	w := who{
		users: f.Users, groups: f.Groups, subjects: f.Subjects, namespaces: f.Namespaces,
		serviceAccounts: f.ServiceAccounts, processes: f.Processes, uids: f.UIDs,
	}
	w.cidrs = newAddrSet(s.prefixes(f.CIDRs, "from.cidrs"))
	fields := []struct {
		path   string
		values []string
	}{
		{"users", f.Users}, {"groups", f.Groups}, {"subjects", f.Subjects}, {"namespaces", f.Namespaces},
		{"service_accounts", f.ServiceAccounts}, {"processes", f.Processes}, {"labels", f.Labels},
	}
	w.set = len(f.CIDRs)+len(f.UIDs) > 0
	for _, field := range fields {
		w.set = w.set || len(field.values) > 0
		for i, v := range field.values {
			// An empty value would match every client that has no such fact.
			if v == "" {
				s.fail(fmt.Sprintf("from.%s[%d]", field.path, i), "an empty value", "remove it")
			}
		}
	}
	for i, l := range f.Labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			s.fail(fmt.Sprintf("from.labels[%d]", i), fmt.Sprintf("label %q has no value", l), "write key=value")
			continue
		}
		w.labels = append(w.labels, [2]string{key, value})
	}
	return w
}

// prefixes reads a list of address ranges.
func (s *scope) prefixes(list []string, path string) []netip.Prefix {
	var out []netip.Prefix
	for i, v := range list {
		p, err := ParsePrefix(v)
		if err != nil {
			s.failErr(fmt.Sprintf("%s[%d]", path, i), err)
			continue
		}
		out = append(out, p)
	}
	return out
}
