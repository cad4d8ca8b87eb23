package catalog

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	wordForm      = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	referenceForm = regexp.MustCompile(`\{([a-z0-9_]+)\}`)
)

// check finds what is wrong with a service by itself; includes are checked
// when all services are read.
func (s *Service) check() error {
	if !wordForm.MatchString(s.Name) {
		return fmt.Errorf("name %q; want lower-case words joined by hyphens", s.Name)
	}
	if s.Title == "" || s.Vendor == "" || s.Summary == "" {
		return errors.New("title, vendor and summary must be set")
	}
	if len(s.Sources) == 0 {
		return errors.New("no source; say where the facts were taken from")
	}
	for _, src := range s.Sources {
		if src.Title == "" {
			return errors.New("source without a title")
		}
		if err := checkBasis(src.Basis, src.Sure); err != nil {
			return fmt.Errorf("source %q: %w", src.Title, err)
		}
	}
	if err := s.checkParams(); err != nil {
		return err
	}
	if err := s.checkParts(); err != nil {
		return err
	}
	for i := range s.Entries {
		if err := s.checkEntry(&s.Entries[i]); err != nil {
			return fmt.Errorf("entries[%d]: %w", i, err)
		}
	}
	return nil
}

func (s *Service) checkParams() error {
	used := make(map[string]bool)
	for _, e := range s.Entries {
		for _, text := range slices.Concat(e.Hosts, e.Fallback, e.Ports) {
			for _, name := range references(text) {
				used[name] = true
			}
		}
	}
	seen := make(map[string]bool)
	for _, p := range s.Params {
		switch {
		case seen[p.Name]:
			return fmt.Errorf("parameter %q is there twice", p.Name)
		case p.Description == "":
			return fmt.Errorf("parameter %q has no description", p.Name)
		case p.Kind != KindPrivate && !used[p.Name]:
			return fmt.Errorf("parameter %q is used by no entry", p.Name)
		}
		seen[p.Name] = true
		for _, v := range p.Values {
			if err := p.checkValue(v); err != nil {
				return err
			}
		}
		if p.Default != "" {
			if err := p.checkValue(p.Default); err != nil {
				return err
			}
		}
		if !slices.Contains([]ParamKind{KindHost, KindAddress, KindLabel, KindPorts, KindPrivate}, p.Kind) {
			return fmt.Errorf("parameter %q: kind %q; want host, address, label, ports or private", p.Name, p.Kind)
		}
	}
	return nil
}

func (s *Service) checkParts() error {
	used := make(map[string]bool)
	for _, e := range s.Entries {
		used[e.Part] = true
	}
	seen := make(map[string]bool)
	for _, p := range s.Parts {
		switch {
		case !wordForm.MatchString(p.Name):
			return fmt.Errorf("part %q; want lower-case words joined by hyphens", p.Name)
		case seen[p.Name]:
			return fmt.Errorf("part %q is there twice", p.Name)
		case p.Description == "":
			return fmt.Errorf("part %q has no description", p.Name)
		case !used[p.Name]:
			return fmt.Errorf("part %q has no entry", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}

func (s *Service) checkEntry(e *Entry) error {
	if len(e.Hosts) == 0 || len(e.Ports) == 0 || len(e.App) == 0 || e.Purpose == "" {
		return errors.New("hosts, ports, app and purpose must be set")
	}
	if !slices.Contains([]string{"tcp", "udp", "any"}, e.Protocol) {
		return fmt.Errorf("protocol %q; want tcp, udp or any", e.Protocol)
	}
	if !slices.Contains([]string{"", "never"}, e.Inspect) {
		return fmt.Errorf("inspect %q; want never, or leave it out", e.Inspect)
	}
	for _, app := range e.App {
		if !slices.Contains(apps, app) {
			return fmt.Errorf("app %q; want one of %s", app, strings.Join(apps, ", "))
		}
	}
	if (e.Verbatim == "") != (e.Correction == "") {
		return errors.New("verbatim and correction go together")
	}
	if err := s.checkPart(e); err != nil {
		return err
	}
	if err := s.checkReferences(e); err != nil {
		return err
	}
	if err := s.checkCovered(e); err != nil {
		return err
	}
	return checkBasis(e.Basis, e.Sure)
}

// checkPart keeps what is no egress of a client, and what opens every
// destination, out of a service's default.
func (s *Service) checkPart(e *Entry) error {
	switch e.Direction {
	case Out:
	case In, LAN:
		if e.Part == "" {
			return fmt.Errorf("direction %q needs a part, since it is no egress of a client", e.Direction)
		}
	default:
		return fmt.Errorf("direction %q; want out, in or lan", e.Direction)
	}
	if e.Part != "" {
		if _, ok := s.part(e.Part); !ok {
			return fmt.Errorf("part %q is not described under parts", e.Part)
		}
	}
	if slices.Contains(e.Hosts, anyHost) {
		return errors.New("hosts: any; write it as the fallback of a parameter that can narrow it")
	}
	if slices.Contains(e.Fallback, anyHost) && (e.Part == "" || len(e.Fallback) > 1) {
		return errors.New("fallback: any must stand alone, and in a part")
	}
	return nil
}

func (s *Service) checkReferences(e *Entry) error {
	for _, text := range slices.Concat(e.Hosts, e.Fallback) {
		if strings.ContainsAny(referenceForm.ReplaceAllString(text, "x"), "{} \t,") {
			return fmt.Errorf("host %q; want a pattern with {parameters}", text)
		}
		for _, name := range references(text) {
			p, ok := s.param(name)
			if !ok {
				return fmt.Errorf("host %q: parameter %q is not described under params", text, name)
			}
			whole := text == "{"+name+"}"
			if whole != (p.Kind == KindHost || p.Kind == KindAddress) {
				return fmt.Errorf("host %q: parameter %q is of kind %q", text, name, p.Kind)
			}
		}
	}
	for _, text := range e.Ports {
		if names := references(text); len(names) > 0 {
			if p, ok := s.param(names[0]); !ok || p.Kind != KindPorts || text != "{"+names[0]+"}" {
				return fmt.Errorf("port %q; want a port, a range, or one parameter of kind ports", text)
			}
			continue
		}
		if err := checkPorts(text); err != nil {
			return err
		}
	}
	return nil
}

// checkCovered makes sure that an entry which gets no rule of its own is
// really let out by another one.
func (s *Service) checkCovered(e *Entry) error {
	if e.CoveredBy == "" {
		return nil
	}
	suffix, ok := strings.CutPrefix(e.CoveredBy, "*")
	for _, h := range e.Hosts {
		if !ok || !strings.HasSuffix(h, suffix) {
			return fmt.Errorf("covered_by %q does not cover %q", e.CoveredBy, h)
		}
	}
	for _, wide := range s.Entries {
		if wide.CoveredBy == "" && (wide.Part == "" || wide.Part == e.Part) && wide.Protocol == e.Protocol &&
			slices.Contains(wide.Hosts, e.CoveredBy) && containsAll(wide.Ports, e.Ports) && containsAll(wide.App, e.App) {
			return nil
		}
	}
	return fmt.Errorf("covered_by %q: no entry with that pattern opens the same ports and apps", e.CoveredBy)
}

func checkBasis(b Basis, s Sure) error {
	if !slices.Contains([]Basis{VendorPage, VendorManual, Standard, ClientCode, Observed, ThirdParty, GeneralKnowledge}, b) {
		return fmt.Errorf("basis %q is not one of the known ones", b)
	}
	if !slices.Contains([]Sure{High, Medium, Low}, s) {
		return fmt.Errorf("sure %q; want high, medium or low", s)
	}
	return nil
}

// checkPorts accepts one port, or a range of ports written low-high.
func checkPorts(text string) error {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	l, errLow := strconv.ParseUint(low, 10, 16)
	h, errHigh := strconv.ParseUint(high, 10, 16)
	if errLow != nil || errHigh != nil || l == 0 || l > h {
		return fmt.Errorf("port %q; want 1 to 65535, or a range such as 5228-5230", text)
	}
	return nil
}

// references returns the names of the parameters that a text refers to.
func references(text string) []string {
	var names []string
	for _, m := range referenceForm.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}
