package dial

import (
	"net/netip"
	"slices"
)

// GuardOptions say what a guard lets pass beyond public addresses.
type GuardOptions struct {
	// Permit lists ranges that every rule may reach although their class is
	// refused. It never lifts Self, Unspecified, Multicast and Broadcast, and
	// lifts Metadata only with a prefix of exactly that one address.
	Permit []netip.Prefix

	// Self returns the addresses that the gateway listens on now; nil: none.
	// It is called for every check and should not allocate.
	Self func() []netip.AddrPort
}

// Guard refuses addresses that a name must not resolve to. It can not see a
// translator with a prefix of its own (RFC 6052 section 2.2, a network-specific
// prefix): where there is one, a policy must deny that prefix.
type Guard struct {
	permit []netip.Prefix
	self   func() []netip.AddrPort
	local  localAddrs
}

// NewGuard returns a guard.
func NewGuard(o GuardOptions) *Guard {
	g := &Guard{self: o.Self, permit: slices.Clone(o.Permit)}
	if g.self == nil {
		g.self = func() []netip.AddrPort { return nil }
	}
	return g
}

// Check refuses ap with a *ForbiddenError unless it is public, or permitted by
// the guard or by permit, the list of the rule that wants to reach it. An
// IPv4-mapped address is judged as the IPv4 address inside. Where a permit
// lifts an address that carries an IPv4 address in disguise, that one is
// judged too. Check does not allocate if ap is fine.
func (g *Guard) Check(ap netip.AddrPort, permit []netip.Prefix) error {
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if class := g.judge(ap, permit); class != Public {
		return &ForbiddenError{Addr: ap, Class: class}
	}
	return nil
}

func (g *Guard) judge(ap netip.AddrPort, permit []netip.Prefix) Class {
	// A prefix never contains an address with a zone, so judge without.
	a := ap.Addr().WithZone("")
	if !a.IsValid() {
		return Unspecified
	}
	if g.isSelf(netip.AddrPortFrom(a, ap.Port())) {
		return Self
	}
	class := classify(a)
	if class == Public {
		return Public
	}
	if !class.liftable() || !(permits(g.permit, a, class) || permits(permit, a, class)) {
		return class
	}
	if v4, ok := inside(a, class); ok {
		return g.judge(netip.AddrPortFrom(v4, ap.Port()), permit)
	}
	return Public
}

// permits reports whether one of the prefixes lifts class for a.
func permits(prefixes []netip.Prefix, a netip.Addr, class Class) bool {
	for _, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p.Contains(a) && (class != Metadata || p.IsSingleIP()) {
			return true
		}
	}
	return false
}

// Filter splits the addresses of an answer into those that may be dialled at
// port, unmapped and each once, and those that are refused. An answer with
// both is used for its good ones; one with no good address fails with the
// first error.
func (g *Guard) Filter(addrs []netip.Addr, port uint16, permit []netip.Prefix) (ok []netip.Addr, refused []*ForbiddenError) {
	for _, a := range addrs {
		ap := netip.AddrPortFrom(a.Unmap(), port)
		class := g.judge(ap, permit)
		switch {
		case class != Public:
			refused = append(refused, &ForbiddenError{Addr: ap, Class: class})
		case !slices.Contains(ok, ap.Addr()):
			ok = append(ok, ap.Addr())
		}
	}
	return ok, refused
}
