package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// BenchmarkDecide answers from policies of 10 to 1,000,000 patterns; the time
// should hardly grow, and nothing be allocated.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 10_000, 1_000_000} {
		if n > 10_000 && testing.Short() {
			continue
		}
		allow := make([]string, n)
		for i := range allow {
			switch i % 10 {
			case 9:
				allow[i] = fmt.Sprintf("api.*.site%d.example.org", i)
			case 4, 5, 6, 7, 8:
				allow[i] = fmt.Sprintf("*.site%d.example.org", i)
			default:
				allow[i] = fmt.Sprintf("www.site%d.example.org", i)
			}
		}
		p := compile(b, Spec{Allow: allow})
		for _, c := range []struct {
			name  string
			host  string // of site %d
			allow bool
		}{
			{"hit", "a.b.site%d.example.org", true},
			{"miss", "www.site%dx.example.org", false},
			{"hostile", strings.Repeat("a.", 112) + "site%d.example.net", false},
		} {
			questions := make([]*Query, 4096) // more than fits the nearest caches
			for i := range questions {
				questions[i] = https(fmt.Sprintf(c.host, i*7919*10%n+4))
			}
			b.Run(fmt.Sprintf("%d/%s", n, c.name), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if d := p.Decide(questions[i%len(questions)]); d.Allow != c.allow {
						b.Fatalf("decided wrongly on %s", d.Host)
					}
				}
			})
		}
	}
}

// BenchmarkDecideAddress answers for addresses from 10,000 ranges, and for
// clients in one of 10,000.
func BenchmarkDecideAddress(b *testing.B) {
	ranges := make([]string, 10_000)
	for i := range ranges {
		ranges[i] = fmt.Sprintf("11.%d.%d.0/%d", i/256, i%256, 24+i%5)
	}
	to := compile(b, Spec{Rules: []RuleSpec{{Name: "r", To: ToSpec{CIDRs: ranges}}}})
	from := compile(b, Spec{Rules: []RuleSpec{{Name: "r", From: FromSpec{CIDRs: ranges}, To: ToSpec{Hosts: []string{"a.example.org"}}}}})
	b.Run("destination", func(b *testing.B) {
		q := https("11.20.7.1")
		b.ReportAllocs()
		for b.Loop() {
			if !to.Decide(q).Allow {
				b.Fatal("decided wrongly")
			}
		}
	})
	b.Run("source", func(b *testing.B) {
		q := https("a.example.org")
		q.Source = netip.MustParseAddr("11.20.7.1")
		b.ReportAllocs()
		for b.Loop() {
			if !from.Decide(q).Allow {
				b.Fatal("decided wrongly")
			}
		}
	})
}
