package dial

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	maxAliases = 16 // of a CNAME chain
	maxAddrs   = 64 // of one family of one answer; the rest is never dialled
)

// half is what the answer to one question, for A or for AAAA, says.
type half struct {
	addrs   []netip.Addr
	aliases []string
	ttl     time.Duration // of addrs, or of the news that there are none
	rcode   int           // valid if err is nil: success or name error
	err     error
}

// readAnswer takes from m what concerns name: the chain of its aliases, and
// the addresses at the end of the chain. Records of other names are ignored.
func readAnswer(m *dns.Msg, name string, qtype uint16) half {
	h := half{rcode: m.Rcode}
	owner, ttl := name+".", time.Duration(math.MaxInt64)
	for len(h.aliases) < maxAliases {
		target, t, ok := alias(m.Answer, owner)
		if !ok {
			break
		}
		ttl = min(ttl, t)
		owner = target
		h.aliases = append(h.aliases, strings.TrimSuffix(target, "."))
	}
	for _, rr := range m.Answer {
		if len(h.addrs) == maxAddrs || !strings.EqualFold(rr.Header().Name, owner) {
			continue
		}
		if a, ok := address(rr, qtype); ok {
			h.addrs = append(h.addrs, a)
			ttl = min(ttl, seconds(rr.Header().Ttl))
		}
	}
	h.ttl = ttl
	if len(h.addrs) == 0 {
		h.ttl = negativeTTL(m.Ns)
	}
	return h
}

func alias(rrs []dns.RR, owner string) (target string, ttl time.Duration, ok bool) {
	for _, rr := range rrs {
		if c, is := rr.(*dns.CNAME); is && c.Hdr.Class == dns.ClassINET && strings.EqualFold(c.Hdr.Name, owner) {
			return strings.ToLower(c.Target), seconds(c.Hdr.Ttl), true
		}
	}
	return "", 0, false
}

func address(rr dns.RR, qtype uint16) (netip.Addr, bool) {
	if rr.Header().Rrtype != qtype || rr.Header().Class != dns.ClassINET {
		return netip.Addr{}, false
	}
	switch rr := rr.(type) {
	case *dns.A:
		return netip.AddrFromSlice(rr.A.To4())
	case *dns.AAAA:
		return netip.AddrFromSlice(rr.AAAA)
	}
	return netip.Addr{}, false
}

// seconds takes a TTL with its highest bit set for 0, RFC 2181 section 8.
func seconds(ttl uint32) time.Duration {
	if ttl > math.MaxInt32 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// negativeTTL is the lesser of the SOA's minimum and its own TTL, RFC 2308
// section 5. Without SOA it is 0: such an answer is not to be kept.
func negativeTTL(authority []dns.RR) time.Duration {
	for _, rr := range authority {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(seconds(soa.Minttl), seconds(soa.Hdr.Ttl))
		}
	}
	return 0
}
