package dial

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// hostsPerName bounds the addresses that one name gets from a hosts file.
const hostsPerName = 64

// Host is a fixed answer: the resolver asks nobody for the name.
type Host struct {
	Name      string
	Addresses []netip.Addr
}

// hostTable holds fixed answers by normal name.
type hostTable map[string]*entry

func (t hostTable) add(name string, addr netip.Addr) {
	e := t[name]
	if e == nil {
		e = &entry{}
		t[name] = e
	}
	if len(e.answer.Addrs) < hostsPerName && !slices.Contains(e.answer.Addrs, addr) {
		e.answer.Addrs = append(e.answer.Addrs, addr)
	}
}

// seal puts the addresses in the order of an answer: IPv6, then IPv4.
func (t hostTable) seal() hostTable {
	for _, e := range t {
		slices.SortStableFunc(e.answer.Addrs, func(a, b netip.Addr) int { return b.BitLen() - a.BitLen() })
	}
	return t
}

func fixedHosts(hosts []Host) (hostTable, error) {
	t := hostTable{}
	for _, h := range hosts {
		name, ok := normalName(h.Name)
		if !ok {
			return nil, fmt.Errorf("fixed answer for %q: not a host name", h.Name)
		}
		if len(h.Addresses) == 0 {
			return nil, fmt.Errorf("fixed answer for %q: give at least one address", h.Name)
		}
		for _, a := range h.Addresses {
			if !a.IsValid() || a.Zone() != "" {
				return nil, fmt.Errorf("fixed answer for %q: %q is not an address without zone", h.Name, a)
			}
			t.add(name, a.Unmap())
		}
	}
	return t.seal(), nil
}

// parseHosts reads the hosts(5) format. What is no address or no host name is
// passed over, as everybody does.
func parseHosts(data []byte) hostTable {
	t := hostTable{}
	for line := range bytes.Lines(data) {
		line, _, _ = bytes.Cut(line, []byte("#"))
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || addr.Zone() != "" {
			continue
		}
		for _, f := range fields[1:] {
			if name, ok := normalName(f); ok {
				t.add(name, addr.Unmap())
			}
		}
	}
	return t.seal()
}
