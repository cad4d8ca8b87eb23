package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time as written: 250ms, 5s, 1h30m, 30d.
type Duration time.Duration

// ParseDuration reads a Duration. A number without a unit is an error.
func ParseDuration(s string) (Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration; write it like 30d or 12h", s)
		}
		return Duration(n) * Duration(24*time.Hour), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		if _, num := strconv.ParseFloat(s, 64); num == nil {
			return 0, fmt.Errorf("%q has no unit; write %ss for seconds, %sm for minutes", s, s, s)
		}
		return 0, fmt.Errorf("%q is not a duration; write it like 250ms, 5s, 1h30m or 30d", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("%q is negative", s)
	}
	return Duration(d), nil
}

// String returns the form that ParseDuration reads.
func (d Duration) String() string {
	const day = Duration(24 * time.Hour)
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	s = strings.TrimSuffix(s, "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(s, "m0s")]
	return strings.TrimSuffix(s, "h0m") + map[bool]string{true: "h"}[strings.HasSuffix(s, "h0m")]
}

// ByteSize is a number of bytes as written: 500, 64KiB, 10MiB, 2GiB.
type ByteSize int64

var byteUnits = []struct {
	suffix string
	size   int64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
	{"", 1},
}

// ParseByteSize reads a ByteSize.
func ParseByteSize(s string) (ByteSize, error) {
	for _, u := range byteUnits {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.size {
			break
		}
		return ByteSize(n * u.size), nil
	}
	return 0, fmt.Errorf("%q is not a size; write it like 500, 64KiB, 10MiB or 2GiB", s)
}

// String returns the form that ParseByteSize reads.
func (b ByteSize) String() string {
	for i := 3; i >= 0; i-- {
		if u := byteUnits[i]; b > 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
