package config

import "testing"

// FuzzUnits: what is read and written again is read as the same.
func FuzzUnits(f *testing.F) {
	for _, s := range []string{"", "0s", "5s", "1h30m", "90m", "24h", "30d", "1d12h", "65535d", "500", "64KiB", "10 MiB", "2GiB", "3TB", "-1s", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil {
			if again, err := ParseDuration(d.String()); err != nil || again != d {
				t.Errorf("duration %q is written %q, and read again as %d, %v; want %d", s, d, again, err, d)
			}
		}
		if b, err := ParseByteSize(s); err == nil {
			if again, err := ParseByteSize(b.String()); err != nil || again != b || b < 0 {
				t.Errorf("size %q is written %q, and read again as %d, %v; want %d", s, b, again, err, b)
			}
		}
	})
}
