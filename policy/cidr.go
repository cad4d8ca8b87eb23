package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ParsePrefix reads an address range: a CIDR without host bits, or one
// address. A range of IPv4 addresses mapped into IPv6 becomes the IPv4 range.
func ParsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		_, a, err := ParseHost(s)
		if err != nil || !a.IsValid() {
			return netip.Prefix{}, &patternError{fmt.Sprintf("%q is not an address range", s), "write one such as 192.0.2.0/24"}
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, &patternError{fmt.Sprintf("%q is not an address range", s), "write one such as 192.0.2.0/24"}
	}
	if p != p.Masked() {
		return netip.Prefix{}, &patternError{fmt.Sprintf("%q has bits set right of its length", s), fmt.Sprintf("write %s, or %s for the one address", p.Masked(), p.Addr())}
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, &patternError{fmt.Sprintf("%q spans the mapped IPv4 addresses and more", s), "write the IPv4 range"}
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

// addrRange is the addresses from first to last, both of one family.
type addrRange struct{ first, last netip.Addr }

// addrSet is a set of addresses: disjoint ranges in order, so that a look-up is
// one binary search.
type addrSet []addrRange

func newAddrSet(prefixes []netip.Prefix) addrSet {
	set := make(addrSet, 0, len(prefixes))
	for _, p := range prefixes {
		set = append(set, addrRange{p.Addr(), lastAddr(p)})
	}
	slices.SortFunc(set, func(a, b addrRange) int {
		return cmp.Or(a.first.Compare(b.first), b.last.Compare(a.last))
	})
	// Prefixes nest or are apart: one that starts inside the range before it
	// ends inside it too, as of those with one start the widest comes first.
	out := set[:0]
	for _, r := range set {
		if n := len(out); n > 0 && out[n-1].last.Compare(r.first) >= 0 {
			continue
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}

func (s addrSet) has(a netip.Addr) bool {
	i, found := slices.BinarySearchFunc(s, a, func(r addrRange, a netip.Addr) int { return r.first.Compare(a) })
	if found {
		return true
	}
	return i > 0 && s[i-1].last.Compare(a) >= 0
}

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// addrIndex finds the entries whose range holds an address, longest range
// first: one map look-up for every length in use, at most 33 or 129.
type addrIndex struct {
	entries    map[netip.Prefix][]entry
	len4, len6 []int // lengths in use, longest first
}

func (x *addrIndex) add(p netip.Prefix, e entry) {
	if x.entries == nil {
		x.entries = map[netip.Prefix][]entry{}
	}
	lens := &x.len6
	if p.Addr().Is4() {
		lens = &x.len4
	}
	if !slices.Contains(*lens, p.Bits()) {
		*lens = append(*lens, p.Bits())
		slices.SortFunc(*lens, func(a, b int) int { return b - a })
	}
	x.entries[p] = append(x.entries[p], e)
}

func (x *addrIndex) walk(a netip.Addr, visit func(*entry)) {
	lens := x.len6
	if a.Is4() {
		lens = x.len4
	}
	for _, n := range lens {
		p, err := a.Prefix(n)
		if err != nil {
			continue
		}
		found := x.entries[p]
		for i := range found {
			visit(&found[i])
		}
	}
}
