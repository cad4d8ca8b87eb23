package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestParsePrefix(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8":          "10.0.0.0/8",
		"192.0.2.7":           "192.0.2.7/32",
		"2001:db8::/32":       "2001:db8::/32",
		"::1":                 "::1/128",
		"::ffff:10.0.0.0/104": "10.0.0.0/8",
		"0.0.0.0/0":           "0.0.0.0/0",
		"":                    `"" is not an address range; write one such as 192.0.2.0/24`,
		"10.0.0.0/33":         `"10.0.0.0/33" is not an address range; write one such as 192.0.2.0/24`,
		"010.0.0.0/8":         `"010.0.0.0/8" is not an address range; write one such as 192.0.2.0/24`,
		"10.1":                `"10.1" is not an address range; write one such as 192.0.2.0/24`,
		"a.example.org":       `"a.example.org" is not an address range; write one such as 192.0.2.0/24`,
		"10.2.3.4/16":         `"10.2.3.4/16" has bits set right of its length; write 10.2.0.0/16, or 10.2.3.4 for the one address`,
		"::/0":                "::/0",
		"::ffff:0.0.0.0/95":   `"::ffff:0.0.0.0/95" has bits set right of its length; write ::fffe:0:0/95, or ::ffff:0.0.0.0 for the one address`,
		"fe80::1%eth0":        `"fe80::1%eth0" is not an address range; write one such as 192.0.2.0/24`,
	} {
		p, err := ParsePrefix(in)
		got := p.String()
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

// Random nested ranges of a small space: the set and the index agree with
// asking every range.
func TestAddressSetsAgreeWithEveryRangeAsked(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var ranges []netip.Prefix
		var index addrIndex
		for range 1 + rng.IntN(8) {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(256))})
			if rng.IntN(2) == 0 {
				a = netip.AddrFrom16([16]byte{0xfd, 15: byte(rng.IntN(256))})
			}
			p := netip.PrefixFrom(a, a.BitLen()-rng.IntN(9)).Masked()
			ranges = append(ranges, p)
			index.add(p, entry{text: p.String()})
		}
		set := newAddrSet(ranges)
		for i := range 256 {
			for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), netip.AddrFrom16([16]byte{0xfd, 15: byte(i)})} {
				var want []string
				for _, p := range ranges {
					if p.Contains(a) {
						want = append(want, p.String())
					}
				}
				var got []string
				index.walk(a, func(e *entry) { got = append(got, e.text) })
				slices.Sort(want)
				slices.Sort(got)
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("%v in %v: index has %v, want %v", a, ranges, got, want)
				}
				if set.has(a) != (len(want) > 0) {
					t.Fatalf("%v in %v: set has it: %v", a, ranges, set.has(a))
				}
			}
		}
	}
}
