package dial

import "net/netip"

// Class says what kind of address the guard refused: a closed vocabulary, the
// same word in the response, the record and the metric.
type Class string

// The classes. An IPv4-mapped address (::ffff:0:0/96) has none of its own: it
// is the IPv4 address inside, and is judged and dialled as that.
const (
	Public         Class = ""                // not refused
	Self           Class = "self"            // a listener of this gateway
	Metadata       Class = "metadata"        // a cloud's instance metadata and credentials
	Loopback       Class = "loopback"        // 127.0.0.0/8, ::1
	Private        Class = "private"         // RFC 1918, RFC 4193
	LinkLocal      Class = "link_local"      // RFC 3927, RFC 4291
	Shared         Class = "shared"          // carrier-grade NAT, RFC 6598
	Multicast      Class = "multicast"       // RFC 5771, RFC 4291
	Broadcast      Class = "broadcast"       // RFC 919
	Unspecified    Class = "unspecified"     // "this network", which Linux takes for itself: RFC 1122, RFC 4291
	Documentation  Class = "documentation"   // RFC 5737, RFC 3849, RFC 9637
	Benchmarking   Class = "benchmarking"    // RFC 2544, RFC 5180
	Reserved       Class = "reserved"        // kept by the IETF, or not handed out yet
	Discard        Class = "discard"         // RFC 6666, RFC 9780
	SiteLocal      Class = "site_local"      // RFC 3879, deprecated
	NAT64          Class = "nat64"           // an IPv4 address behind a translator: RFC 6052, RFC 8215, RFC 7915
	SixToFour      Class = "6to4"            // an IPv4 address behind a tunnel: RFC 3056, RFC 7526
	Teredo         Class = "teredo"          // an IPv4 address behind a tunnel: RFC 4380
	IPv4Compatible Class = "ipv4_compatible" // RFC 4291 section 2.5.5.1, deprecated
)

// liftable reports whether a permit can lift the class at all. A connection to
// an unspecified address ends at the gateway's own host, past Self; the others
// are no destination of a connection.
func (c Class) liftable() bool {
	switch c {
	case Self, Unspecified, Multicast, Broadcast:
		return false
	}
	return true
}

// span is one range and its class.
type span struct {
	prefix netip.Prefix
	class  Class
}

func spans(class Class, prefixes ...string) []span {
	s := make([]span, len(prefixes))
	for i, p := range prefixes {
		s[i] = span{netip.MustParsePrefix(p), class}
	}
	return s
}

func table(parts ...[]span) []span {
	var t []span
	for _, p := range parts {
		t = append(t, p...)
	}
	return t
}

// The ranges, from the IANA IPv4 and IPv6 special-purpose address registries
// (RFC 6890, RFC 8190) and the IPv6 address space registry; the first that
// holds the address counts. What the registries call globally reachable and
// what is in use as a destination (AS112, AMT) stays public.
var (
	spans4 = table(
		// The metadata services that are not at 169.254.169.254: ECS tasks and
		// EKS pods, Alibaba, Oracle (classic), Azure's host agent, Tencent, Scaleway.
		spans(Metadata, "169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", "100.100.100.200/32",
			"192.0.0.192/32", "168.63.129.16/32", "169.254.0.23/32", "169.254.42.42/32"),
		spans(Unspecified, "0.0.0.0/8"),
		spans(Private, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
		spans(Shared, "100.64.0.0/10"),
		spans(Loopback, "127.0.0.0/8"),
		spans(LinkLocal, "169.254.0.0/16"),
		spans(Reserved, "192.0.0.0/24"),
		spans(Documentation, "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
		spans(SixToFour, "192.88.99.0/24"), // the relay's anycast address
		spans(Benchmarking, "198.18.0.0/15"),
		spans(Multicast, "224.0.0.0/4"),
		spans(Broadcast, "255.255.255.255/32"),
		spans(Reserved, "240.0.0.0/4"),
	)
	spans6 = table(
		// EC2, EKS pods, Google, Scaleway, OpenStack.
		spans(Metadata, "fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128", "fd00:42::42/128", "fe80::a9fe:a9fe/128"),
		spans(Unspecified, "::/128"),
		spans(Loopback, "::1/128"),
		spans(IPv4Compatible, "::/96"),
		spans(NAT64, "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
		spans(Discard, "100::/64", "100:0:0:1::/64"),
		spans(Teredo, "2001::/32"),
		spans(Benchmarking, "2001:2::/48"),
		spans(Public, "2001:3::/32", "2001:4:112::/48"),
		spans(Reserved, "2001::/23"),
		spans(Documentation, "2001:db8::/32"),
		spans(SixToFour, "2002::/16"),
		spans(Documentation, "3fff::/20"),
		spans(Private, "fc00::/7"),
		spans(LinkLocal, "fe80::/10"),
		spans(SiteLocal, "fec0::/10"),
		spans(Multicast, "ff00::/8"),
		spans(Public, "2000::/3"), // the only part that is handed out
		spans(Reserved, "::/0"),   // 5f00::/16 (RFC 9602) and all the rest
	)
)

// The same ranges by the first byte of the address: most public addresses are
// then found so after no or one comparison.
var (
	byFirst4 = byFirst(spans4)
	byFirst6 = byFirst(spans6)
)

func byFirst(t []span) *[256][]span {
	var by [256][]span
	for _, s := range t {
		first := int(s.prefix.Addr().AsSlice()[0])
		for b := first; b < first+1<<max(8-s.prefix.Bits(), 0); b++ {
			by[b] = append(by[b], s)
		}
	}
	return &by
}

// classify returns the class of a, which is unmapped and has no zone.
func classify(a netip.Addr) Class {
	var t []span
	if a.Is4() {
		t = byFirst4[a.As4()[0]]
	} else {
		t = byFirst6[a.As16()[0]]
	}
	for i := range t {
		if t[i].prefix.Contains(a) {
			return t[i].class
		}
	}
	return Public
}

// inside returns the IPv4 address that a carries in disguise, if it has the
// shape of class. Of 64:ff9b:1::/48 the layout with the address in the last 32
// bits is taken, as translators use a /96 of it (RFC 8215 section 5).
func inside(a netip.Addr, class Class) (netip.Addr, bool) {
	if a.Is4() {
		return netip.Addr{}, false
	}
	b := a.As16()
	switch class {
	case NAT64, IPv4Compatible:
		return netip.AddrFrom4([4]byte(b[12:])), true
	case SixToFour:
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case Teredo: // the client's address is inverted, RFC 4380 section 4
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	}
	return netip.Addr{}, false
}
