package dial

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func prefixes(s ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(s))
	for i, p := range s {
		list[i] = netip.MustParsePrefix(p)
	}
	return list
}

func addrs(s ...string) []netip.Addr {
	list := make([]netip.Addr, len(s))
	for i, a := range s {
		list[i] = netip.MustParseAddr(a)
	}
	return list
}

func classOf(t *testing.T, err error) Class {
	t.Helper()
	if err == nil {
		return Public
	}
	var f *ForbiddenError
	if !errors.As(err, &f) {
		t.Fatalf("got error %v; want a *ForbiddenError", err)
	}
	return f.Class
}

// Each range with what is at both its ends and next to them.
func TestGuardEdges(t *testing.T) {
	tests := []struct {
		before      Class
		first, last string
		class       Class
		after       Class
	}{
		{"-", "0.0.0.0", "0.255.255.255", Unspecified, Public},
		{Public, "10.0.0.0", "10.255.255.255", Private, Public},
		{Public, "100.64.0.0", "100.100.100.199", Shared, Metadata},
		{Shared, "100.100.100.200", "100.100.100.200", Metadata, Shared},
		{Metadata, "100.100.100.201", "100.127.255.255", Shared, Public},
		{Public, "127.0.0.0", "127.255.255.255", Loopback, Public},
		{Public, "168.63.129.16", "168.63.129.16", Metadata, Public},
		{Public, "169.254.0.0", "169.254.0.22", LinkLocal, Metadata},
		{LinkLocal, "169.254.0.23", "169.254.0.23", Metadata, LinkLocal},
		{LinkLocal, "169.254.42.42", "169.254.42.42", Metadata, LinkLocal},
		{LinkLocal, "169.254.169.254", "169.254.169.254", Metadata, LinkLocal},
		{LinkLocal, "169.254.170.2", "169.254.170.2", Metadata, LinkLocal},
		{LinkLocal, "169.254.170.23", "169.254.170.23", Metadata, LinkLocal},
		{Metadata, "169.254.170.24", "169.254.255.255", LinkLocal, Public},
		{Public, "172.16.0.0", "172.31.255.255", Private, Public},
		{Public, "192.0.0.0", "192.0.0.191", Reserved, Metadata},
		{Reserved, "192.0.0.192", "192.0.0.192", Metadata, Reserved},
		{Metadata, "192.0.0.193", "192.0.0.255", Reserved, Public},
		{Public, "192.0.2.0", "192.0.2.255", Documentation, Public},
		{Public, "192.88.99.0", "192.88.99.255", SixToFour, Public},
		{Public, "192.168.0.0", "192.168.255.255", Private, Public},
		{Public, "198.18.0.0", "198.19.255.255", Benchmarking, Public},
		{Public, "198.51.100.0", "198.51.100.255", Documentation, Public},
		{Public, "203.0.113.0", "203.0.113.255", Documentation, Public},
		{Public, "224.0.0.0", "239.255.255.255", Multicast, Reserved},
		{Multicast, "240.0.0.0", "255.255.255.254", Reserved, Broadcast},
		{Reserved, "255.255.255.255", "255.255.255.255", Broadcast, "-"},
		{Public, "192.31.196.0", "192.31.196.255", Public, Public}, // AS112
		{Public, "192.52.193.0", "192.52.193.255", Public, Public}, // AMT
		{Public, "192.175.48.0", "192.175.48.255", Public, Public}, // AS112

		{"-", "::", "::", Unspecified, Loopback},
		{Unspecified, "::1", "::1", Loopback, IPv4Compatible},
		{Loopback, "::2", "::ffff:ffff", IPv4Compatible, Reserved},
		{Reserved, "::ffff:0:0:0", "::ffff:0:ffff:ffff", NAT64, Reserved},
		{Reserved, "64:ff9b::", "64:ff9b::ffff:ffff", NAT64, Reserved},
		{Reserved, "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", NAT64, Reserved},
		{Reserved, "100::", "100::1:ffff:ffff:ffff:ffff", Discard, Reserved},
		{Public, "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", Teredo, Reserved},
		{Teredo, "2001:1::", "2001:1:ffff:ffff:ffff:ffff:ffff:ffff", Reserved, Benchmarking},
		{Reserved, "2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", Benchmarking, Reserved},
		{Reserved, "2001:3::", "2001:3:ffff:ffff:ffff:ffff:ffff:ffff", Public, Reserved}, // AMT
		{Reserved, "2001:4:112::", "2001:4:112:ffff:ffff:ffff:ffff:ffff", Public, Reserved},
		{Public, "2001:4:113::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved, Public}, // ORCHID and others
		{Public, "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Documentation, Public},
		{Public, "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", SixToFour, Public},
		{Reserved, "2000::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Public, Teredo},
		{Public, "2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", Public, Public}, // AS112
		{Public, "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Documentation, Public},
		{Documentation, "3fff:1000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Public, Reserved},
		{Public, "4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved, Private},
		{Reserved, "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved, Reserved}, // segment routing
		{Reserved, "fc00::", "fd00:42::41", Private, Metadata},
		{Private, "fd00:42::42", "fd00:42::42", Metadata, Private},
		{Private, "fd00:ec2::23", "fd00:ec2::23", Metadata, Private},
		{Private, "fd00:ec2::254", "fd00:ec2::254", Metadata, Private},
		{Private, "fd20:ce::254", "fd20:ce::254", Metadata, Private},
		{Metadata, "fd20:ce::255", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Private, Reserved},
		{Reserved, "fe80::", "fe80::a9fe:a9fd", LinkLocal, Metadata},
		{LinkLocal, "fe80::a9fe:a9fe", "fe80::a9fe:a9fe", Metadata, LinkLocal},
		{Metadata, "fe80::a9fe:a9ff", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", LinkLocal, SiteLocal},
		{LinkLocal, "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", SiteLocal, Multicast},
		{SiteLocal, "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Multicast, "-"},
	}
	g := NewGuard(GuardOptions{})
	check := func(a netip.Addr, want Class) {
		t.Helper()
		if got := classOf(t, g.Check(netip.AddrPortFrom(a, 443), nil)); want != "-" && got != want {
			t.Errorf("%s: got class %q; want %q", a, got, want)
		}
	}
	for _, tt := range tests {
		first, last := netip.MustParseAddr(tt.first), netip.MustParseAddr(tt.last)
		check(first, tt.class)
		check(last, tt.class)
		if first.Is4() { // the same in disguise, as a mapped address
			check(netip.AddrFrom16(first.As16()), tt.class)
		}
		if p := first.Prev(); p.IsValid() {
			check(p, tt.before)
		}
		if n := last.Next(); n.IsValid() {
			check(n, tt.after)
		}
	}
	check(netip.MustParseAddr("fe80::1%eth0"), LinkLocal)
	check(netip.MustParseAddr("fe80::a9fe:a9fe%eth0"), Metadata)
	check(netip.Addr{}, Unspecified)
}

func TestGuardPermit(t *testing.T) {
	tests := []struct {
		name, addr string
		permit     []netip.Prefix
		want       Class
	}{
		{"private inside", "10.1.2.3", prefixes("10.1.0.0/16"), Public},
		{"private outside", "10.2.2.3", prefixes("10.1.0.0/16"), Private},
		{"mapped private inside", "::ffff:10.1.2.3", prefixes("10.1.0.0/16"), Public},
		{"prefix written mapped", "10.1.2.3", prefixes("::ffff:10.1.0.0/112"), Public},
		{"prefix with host bits", "10.1.2.3", prefixes("10.1.9.9/16"), Public},
		{"loopback", "127.0.0.9", prefixes("127.0.0.0/8"), Public},
		{"IPv6 loopback", "::1", prefixes("::1/128"), Public},
		{"link-local with zone", "fe80::1%eth0", prefixes("fe80::/10"), Public},
		{"documentation", "192.0.2.7", prefixes("192.0.2.0/24"), Public},
		{"everything lifts no metadata", "169.254.169.254", prefixes("0.0.0.0/0", "::/0"), Metadata},
		{"metadata by its link", "169.254.169.254", prefixes("169.254.0.0/16"), Metadata},
		{"metadata by two addresses", "169.254.169.254", prefixes("169.254.169.254/31"), Metadata},
		{"metadata by name", "169.254.169.254", prefixes("169.254.169.254/32"), Public},
		{"IPv6 metadata by range", "fd00:ec2::254", prefixes("fd00::/8"), Metadata},
		{"IPv6 metadata by name", "fd00:ec2::254", prefixes("fd00:ec2::254/128"), Public},
		{"unspecified never", "0.0.0.0", prefixes("0.0.0.0/0", "0.0.0.0/32"), Unspecified},
		{"IPv6 unspecified never", "::", prefixes("::/0", "::/128"), Unspecified},
		{"multicast never", "239.1.1.1", prefixes("239.0.0.0/8"), Multicast},
		{"broadcast never", "255.255.255.255", prefixes("255.255.255.255/32"), Broadcast},
		{"translated public", "64:ff9b::8.8.8.8", prefixes("64:ff9b::/96"), Public},
		{"translated private", "64:ff9b::10.0.0.1", prefixes("64:ff9b::/96"), Private},
		{"translated private, permitted too", "64:ff9b::10.0.0.1", prefixes("64:ff9b::/96", "10.0.0.0/8"), Public},
		{"translated metadata", "64:ff9b::169.254.169.254", prefixes("64:ff9b::/96", "169.254.0.0/16"), Metadata},
		{"translated locally", "64:ff9b:1::127.0.0.1", prefixes("64:ff9b:1::/48"), Loopback},
		{"6to4 private", "2002:a00:1::1", prefixes("2002::/16"), Private},
		{"6to4 public", "2002:808:808::1", prefixes("2002::/16"), Public},
		{"Teredo private", "2001:0:808:808::f5ff:fffe", prefixes("2001::/32"), Private},
		{"compatible loopback", "::127.0.0.1", prefixes("::/0"), Loopback},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ap := netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 443)
			if got := classOf(t, NewGuard(GuardOptions{}).Check(ap, tt.permit)); got != tt.want {
				t.Errorf("permitted by the rule: got class %q; want %q", got, tt.want)
			}
			if got := classOf(t, NewGuard(GuardOptions{Permit: tt.permit}).Check(ap, nil)); got != tt.want {
				t.Errorf("permitted by the guard: got class %q; want %q", got, tt.want)
			}
		})
	}
}

func TestGuardSelf(t *testing.T) {
	ifaces, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	all := prefixes("0.0.0.0/0", "::/0")
	for _, wild := range []string{"0.0.0.0:3128", "[::]:3128"} {
		g := NewGuard(GuardOptions{Permit: all, Self: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort(wild)}
		}})
		for _, i := range ifaces {
			a, _ := netip.AddrFromSlice(i.(*net.IPNet).IP)
			if got := classOf(t, g.Check(netip.AddrPortFrom(a, 3128), all)); got != Self {
				t.Errorf("listener %s, address %s: got class %q; want self", wild, a, got)
			}
			if got := classOf(t, g.Check(netip.AddrPortFrom(a, 3129), all)); got == Self {
				t.Errorf("listener %s, address %s at another port: got class self", wild, a)
			}
		}
		for _, a := range []string{"127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::127.0.0.1"} {
			if got := classOf(t, g.Check(netip.AddrPortFrom(netip.MustParseAddr(a), 3128), all)); got != Self {
				t.Errorf("listener %s, address %s: got class %q; want self", wild, a, got)
			}
		}
		if err := g.Check(netip.MustParseAddrPort("8.8.8.8:3128"), nil); err != nil {
			t.Errorf("listener %s, another host: got %v", wild, err)
		}
	}
	one := NewGuard(GuardOptions{Permit: all, Self: func() []netip.AddrPort {
		return []netip.AddrPort{netip.MustParseAddrPort("[::ffff:127.0.0.1]:3128")}
	}})
	for addr, want := range map[string]Class{
		"127.0.0.1:3128": Self, "[::ffff:127.0.0.1]:3128": Self, "0.0.0.0:3128": Self, "127.0.0.2:3128": Public, "127.0.0.1:80": Public,
	} {
		if got := classOf(t, one.Check(netip.MustParseAddrPort(addr), nil)); got != want {
			t.Errorf("listener 127.0.0.1:3128, address %s: got class %q; want %q", addr, got, want)
		}
	}
}

func TestGuardFilterUsesTheGoodAddresses(t *testing.T) {
	g := NewGuard(GuardOptions{})
	ok, refused := g.Filter(addrs("10.0.0.1", "::ffff:8.8.8.8", "8.8.8.8", "169.254.169.254", "2606:4700::1"), 443, nil)
	if want := addrs("8.8.8.8", "2606:4700::1"); !slices.Equal(ok, want) {
		t.Errorf("got addresses %v; want %v", ok, want)
	}
	if len(refused) != 2 || refused[0].Class != Private || refused[1].Class != Metadata {
		t.Errorf("got refused %v; want the private and the metadata address", refused)
	}
}

func TestForbiddenErrorSaysWhatToDo(t *testing.T) {
	g := NewGuard(GuardOptions{Self: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("8.8.8.8:1")} }})
	for addr, want := range map[string]string{
		"[::ffff:10.0.0.1]:443": "address 10.0.0.1:443 is forbidden (private): permit 10.0.0.1/32 if the rule may reach it",
		"169.254.169.254:80":    "address 169.254.169.254:80 is forbidden (metadata): only a permit of exactly 169.254.169.254/32 lifts this",
		"[ff02::2]:80":          "address [ff02::2]:80 is forbidden (multicast)",
		"8.8.8.8:1":             "address 8.8.8.8:1 is a listener of this gateway",
	} {
		if err := g.Check(netip.MustParseAddrPort(addr), nil); err == nil || err.Error() != want {
			t.Errorf("%s: got %v; want %q", addr, err, want)
		}
	}
}

// The cases of stripe/smokescreen, with its configuration expressed as ours.
func TestGuardAgreesWithSmokescreen(t *testing.T) {
	var file struct {
		Config struct {
			AllowRanges []netip.Prefix `json:"allow_ranges"`
			LocalIPs    []netip.Addr   `json:"local_ips"`
			ProxyPort   uint16         `json:"proxy_port"`
		} `json:"ip_config"`
		Cases []struct {
			IP      netip.Addr `json:"ip"`
			Port    uint16     `json:"port"`
			Verdict string     `json:"verdict"`
		} `json:"ip"`
	}
	data, err := os.ReadFile("testdata/smokescreen_ip.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	// Where we answer otherwise, and why.
	differs := map[string]struct {
		want Class
		why  string
	}{
		"10.0.0.1:321":   {Private, "its allow list has ports; a port is the policy's to judge"},
		"8.8.8.8:321":    {Public, "its deny list of public addresses is the policy's to judge"},
		"1.1.1.1:1":      {Public, "its deny list of public addresses is the policy's to judge"},
		"[64:ff9c::1]:1": {Reserved, "outside of 2000::/3 nothing is handed out"},
	}
	g := NewGuard(GuardOptions{Permit: file.Config.AllowRanges, Self: func() []netip.AddrPort {
		var list []netip.AddrPort
		for _, a := range file.Config.LocalIPs {
			list = append(list, netip.AddrPortFrom(a, file.Config.ProxyPort))
		}
		return list
	}})
	seen := 0
	for _, c := range file.Cases {
		ap := netip.AddrPortFrom(c.IP, c.Port)
		got := classOf(t, g.Check(ap, nil))
		if d, ok := differs[ap.String()]; ok {
			seen++
			if got != d.want {
				t.Errorf("%s: got class %q; want %q, as %s", ap, got, d.want, d.why)
			}
			continue
		}
		if (got == Public) != strings.HasPrefix(c.Verdict, "allow") || (got == Self) != (c.Verdict == "deny_self") {
			t.Errorf("%s: got class %q; smokescreen says %s", ap, got, c.Verdict)
		}
	}
	if len(file.Cases) < 41 || seen != len(differs) {
		t.Errorf("got %d cases and %d differences; want at least 41 and %d", len(file.Cases), seen, len(differs))
	}
}

func TestGuardCheckDoesNotAllocate(t *testing.T) {
	self := []netip.AddrPort{netip.MustParseAddrPort("[::]:3128"), netip.MustParseAddrPort("127.0.0.1:9127")}
	g := NewGuard(GuardOptions{Permit: prefixes("10.0.0.0/8"), Self: func() []netip.AddrPort { return self }})
	permit := prefixes("127.0.0.0/8", "fd12::/16")
	for _, s := range []string{"93.184.216.34:443", "[2606:4700::1]:443", "10.0.0.1:443", "[fd12::1]:443", "[::ffff:127.0.0.1]:80"} {
		ap := netip.MustParseAddrPort(s)
		if n := testing.AllocsPerRun(100, func() {
			if err := g.Check(ap, permit); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: got %v allocations; want 0", s, n)
		}
	}
}

func BenchmarkGuardCheck(b *testing.B) {
	self := []netip.AddrPort{netip.MustParseAddrPort("[::]:3128"), netip.MustParseAddrPort("127.0.0.1:9127")}
	g := NewGuard(GuardOptions{Self: func() []netip.AddrPort { return self }})
	for _, s := range []string{"93.184.216.34:443", "[2606:4700::1]:443"} {
		ap := netip.MustParseAddrPort(s)
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Check(ap, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
