package policy

import (
	"fmt"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// checkWidth refuses a pattern of an allow rule that spans a public suffix of
// the ICANN section of the list at publicsuffix.org, such as *.co.uk. For a
// suffix of the private section (*.cloudfront.net) it says tenants: the names
// belong to many customers of one provider.
func (p Pattern) checkWidth() (tenants bool, err error) {
	tail := p.tail()
	if !p.wild() {
		if strings.Contains(tail, ".") {
			return false, nil
		}
		if _, icann := publicsuffix.PublicSuffix(tail); icann {
			return false, &patternError{fmt.Sprintf("%q is a top-level domain", p.String()), "write the whole name, such as www.example." + tail}
		}
		return false, nil
	}
	suffix, icann := publicsuffix.PublicSuffix(tail)
	whole := suffix == tail
	if !whole {
		// The list has rules such as *.kawasaki.jp, which make every name
		// below a suffix while kawasaki.jp itself is none.
		probe := "a." + tail
		suffix, icann = publicsuffix.PublicSuffix(probe)
		whole = suffix == probe
	}
	switch {
	case !whole:
		return false, nil
	case icann || !strings.Contains(tail, "."):
		return false, &patternError{fmt.Sprintf("%q has no registered domain right of its wildcard: it would be everybody's names under %s", p.String(), tail),
			fmt.Sprintf("write *.name.%s", tail)}
	}
	return true, nil
}
