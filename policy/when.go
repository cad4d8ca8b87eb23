package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// when says at which times a rule is in force.
type when struct {
	expires time.Time // zero: never
	windows []window  // none: always
}

// window is a stretch of some days of the week, in minutes of the wall clock.
type window struct {
	days     [7]bool // by time.Weekday, the day on which it starts
	from, to int     // to <= from: over midnight
	zone     *time.Location
}

func (w when) bound() bool { return !w.expires.IsZero() || len(w.windows) > 0 }

func (w when) expired(t time.Time) bool { return !w.expires.IsZero() && !t.Before(w.expires) }

func (w when) inWindow(t time.Time) bool {
	if len(w.windows) == 0 {
		return true
	}
	for i := range w.windows {
		if w.windows[i].has(t) {
			return true
		}
	}
	return false
}

func (w *window) has(t time.Time) bool {
	t = t.In(w.zone)
	day, minute := t.Weekday(), t.Hour()*60+t.Minute()
	if w.from < w.to {
		return w.days[day] && w.from <= minute && minute < w.to
	}
	return w.days[day] && minute >= w.from || w.days[(day+6)%7] && minute < w.to
}

// next returns the next moment after now at which the rule comes into force or
// goes out of it; zero: none. A rule that has expired does not change again.
func (w when) next(now time.Time) time.Time {
	if w.expired(now) {
		return time.Time{}
	}
	next := w.expires
	for i := range w.windows {
		if t := w.windows[i].next(now); !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// next tries every border of the coming week, and the borders of daylight
// saving time, where a wall clock jumps; what does not change anything is
// passed over.
func (w *window) next(now time.Time) time.Time {
	var next time.Time
	try := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) && w.has(t) != w.has(t.Add(-1)) {
			next = t
		}
	}
	day := now.In(w.zone)
	for d := -1; d <= 8; d++ {
		y, m, dd := day.AddDate(0, 0, d).Date()
		for _, minute := range []int{0, w.from, w.to} {
			t := time.Date(y, m, dd, 0, minute, 0, 0, w.zone)
			try(t)
			try(t.Add(-time.Hour)) // the wall clock may show the border twice
			try(t.Add(time.Hour))
			_, end := t.ZoneBounds()
			if !end.IsZero() {
				try(end)
			}
		}
	}
	return next
}

// parseExpires reads a date, which means the end of that day in UTC, or a
// moment (RFC 3339).
func parseExpires(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, 1), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, &patternError{fmt.Sprintf("expires %q is no date", s), "write 2027-01-31, or a moment such as 2027-01-31T18:00:00Z"}
	}
	return t.UTC(), nil
}

var dayWords = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseWindow(s WindowSpec) (window, error) {
	w := window{zone: time.UTC}
	if s.Zone != "" {
		zone, err := time.LoadLocation(s.Zone)
		if err != nil || s.Zone == "Local" {
			return w, &patternError{fmt.Sprintf("zone %q is not known", s.Zone), "write an IANA name such as Europe/Brussels; the system needs time zone data"}
		}
		w.zone = zone
	}
	for _, d := range s.Days {
		if err := w.addDays(d); err != nil {
			return w, err
		}
	}
	if len(s.Days) == 0 {
		w.days = [7]bool{true, true, true, true, true, true, true}
	}
	var err error
	if w.from, err = parseClock(s.From, 0); err != nil {
		return w, err
	}
	if w.to, err = parseClock(s.To, 24*60); err != nil {
		return w, err
	}
	if w.from == 24*60 {
		return w, &patternError{"a window can not start at 24:00", "write 00:00 of the next day"}
	}
	return w, nil
}

func (w *window) addDays(s string) error {
	from, to, isRange := strings.Cut(strings.ToLower(s), "-")
	if !isRange {
		to = from
	}
	first, last := slices.Index(dayWords, from), slices.Index(dayWords, to)
	if first < 0 || last < 0 {
		return &patternError{fmt.Sprintf("%q is no day of the week", s), "write mon, tue, wed, thu, fri, sat, sun, or a range such as mon-fri"}
	}
	for d := first; ; d = (d + 1) % 7 {
		w.days[d] = true
		if d == last {
			return nil
		}
	}
}

// parseClock reads 08:00 as minutes; 24:00 is the end of the day.
func parseClock(s string, unset int) (int, error) {
	if s == "" {
		return unset, nil
	}
	h, m, ok := strings.Cut(s, ":")
	hours, err1 := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err1 != nil || err2 != nil || len(m) != 2 || minutes > 59 || hours > 24 || hours == 24 && minutes > 0 {
		return 0, &patternError{fmt.Sprintf("%q is no time of day", s), "write one such as 08:00, in quotes"}
	}
	return int(hours)*60 + int(minutes), nil
}
