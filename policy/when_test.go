package policy

import (
	"testing"
	"time"
)

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		window WindowSpec
		at     string // a Saturday is 2026-11-21
		want   bool
	}{
		{WindowSpec{}, "2026-11-21T00:00:00Z", true},
		{WindowSpec{From: "08:00", To: "18:00"}, "2026-11-21T07:59:59Z", false},
		{WindowSpec{From: "08:00", To: "18:00"}, "2026-11-21T08:00:00Z", true},
		{WindowSpec{From: "08:00", To: "18:00"}, "2026-11-21T18:00:00Z", false},
		{WindowSpec{Days: []string{"Sat"}}, "2026-11-21T23:59:59Z", true},
		{WindowSpec{Days: []string{"sat"}}, "2026-11-22T00:00:00Z", false},
		{WindowSpec{Days: []string{"fri-mon"}}, "2026-11-22T00:00:00Z", true},
		{WindowSpec{Days: []string{"fri-mon"}}, "2026-11-24T00:00:00Z", false},
		{WindowSpec{Days: []string{"sat"}, From: "22:00", To: "06:00"}, "2026-11-22T05:59:00Z", true},
		{WindowSpec{Days: []string{"sat"}, From: "22:00", To: "06:00"}, "2026-11-21T05:59:00Z", false},
		{WindowSpec{Days: []string{"sat"}, From: "12:00", To: "12:00"}, "2026-11-22T11:59:00Z", true},
		{WindowSpec{From: "08:00", To: "24:00"}, "2026-11-21T23:59:59Z", true},
		{WindowSpec{From: "08:00", To: "18:00", Zone: "Europe/Brussels"}, "2026-11-21T07:00:00Z", true},
		{WindowSpec{From: "08:00", To: "18:00", Zone: "Europe/Brussels"}, "2026-07-21T06:00:00Z", true},
		{WindowSpec{From: "08:00", To: "18:00", Zone: "Europe/Brussels"}, "2026-11-21T06:00:00Z", false},
	} {
		w, err := parseWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.has(at); got != c.want {
			t.Errorf("%+v at %s: %v", c.window, c.at, got)
		}
	}
}

// Minute by minute through the two days on which clocks change, next says
// exactly where has changes.
func TestNextChangeOverDaylightSaving(t *testing.T) {
	for _, spec := range []WindowSpec{
		{From: "02:30", To: "03:30", Zone: "Europe/Brussels"},
		{From: "02:15", To: "02:45", Zone: "Europe/Brussels"},
		{From: "23:00", To: "02:30", Zone: "America/New_York"},
		{Days: []string{"sun"}, From: "01:30", To: "02:00", Zone: "Australia/Lord_Howe"},
	} {
		w, err := parseWindow(spec)
		if err != nil {
			t.Fatal(err)
		}
		for _, day := range []string{"2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"} {
			start, err := time.Parse(time.DateOnly, day)
			if err != nil {
				t.Fatal(err)
			}
			start = start.Add(-14 * time.Hour)
			next := w.next(start)
			for m := 1; m < 48*60; m++ {
				at := start.Add(time.Duration(m) * time.Minute)
				changed := w.has(at) != w.has(at.Add(-time.Minute))
				if changed != at.Equal(next) {
					t.Fatalf("%+v: changes at %v: %v, next was %v", spec, at, changed, next)
				}
				if changed {
					next = w.next(at)
				}
			}
		}
	}
}

func TestNextChange(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	to := ToSpec{Hosts: []string{"a.example.org"}}
	if next := compile(t, Spec{Allow: []string{"a.example.org"}}).NextChange(now); !next.IsZero() {
		t.Errorf("a policy without times changes at %v", next)
	}
	p := compile(t, Spec{Rules: []RuleSpec{
		{Name: "gone", Expires: "2026-01-01", To: to},
		{Name: "soon", Expires: "2026-11-21", To: to},
		{Name: "office", Windows: []WindowSpec{{Days: []string{"mon-fri"}, From: "08:00", To: "18:00"}}, To: to},
	}})
	for _, want := range []string{"2026-11-22T00:00:00Z", "2026-11-23T08:00:00Z", "2026-11-23T18:00:00Z", "2026-11-24T08:00:00Z"} {
		now = p.NextChange(now)
		if got := now.Format(time.RFC3339); got != want {
			t.Fatalf("changes at %s, want %s", got, want)
		}
	}
}
