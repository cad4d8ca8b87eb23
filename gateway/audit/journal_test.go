package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testLog keeps what was logged.
type testLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *testLog) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

func (l *testLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func openJournal(t *testing.T, o Options) *Journal {
	t.Helper()
	j, err := Open(o, new(testLog).logger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func numbered(n int) *Record {
	f := flow.New(flow.DoorConnect, netip.MustParseAddrPort("192.0.2.7:40000"), netip.AddrPort{})
	f.Host = fmt.Sprintf("n%d.test", n)
	f.Decision.Host, f.Decision.Reason = f.Host, "no_rule"
	r := *FromFlow(f, EventDecision, f.Start)
	return &r
}

// readAll returns the records of a directory in order, and fails on any line
// that is not one.
func readAll(t *testing.T, dir string) []Record {
	t.Helper()
	names, err := Files(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []Record
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			var r Record
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Fatalf("%s: line %q: %v", name, lines.Text(), err)
			}
			out = append(out, r)
		}
	}
	return out
}

func appendAll(t *testing.T, j *Journal, records ...*Record) {
	t.Helper()
	for _, r := range records {
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
}

// waitFor polls until ok, for a bounded number of times.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

func TestJournalKeepsAllOfEightWriters(t *testing.T) {
	const writers, each = 8, 12500
	dir := t.TempDir()
	j := openJournal(t, Options{Dir: dir, Queue: writers * each, FileBytes: 4 << 20})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := j.Append(numbered(w*each + i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := Files(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			_, rest, _ := bytes.Cut(line, []byte(`"host":"`))
			host, _, _ := bytes.Cut(rest, []byte(`"`))
			seen[string(host)] = json.Valid(line)
		}
	}
	for host, valid := range seen {
		if !valid {
			t.Fatalf("the line of %q is not JSON", host)
		}
	}
	if len(seen) != writers*each {
		t.Errorf("got %d records; want %d", len(seen), writers*each)
	}
	if s := j.Stats(); s.Written != writers*each || s.Lost != 0 || s.Queued != 0 {
		t.Errorf("got %+v", s)
	}
	if len(names) < 3 {
		t.Errorf("got %d files; want several of at most 4 MiB", len(names))
	}
	for _, name := range names {
		if info, err := os.Stat(name); err != nil || info.Size() > 4<<20 || info.Mode()&^0o640 != 0 {
			t.Errorf("%s: size %d, mode %v, %v", name, info.Size(), info.Mode(), err)
		}
	}
}

func TestJournalWritesWithoutBeingAsked(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, Options{Dir: dir})
	appendAll(t, j, numbered(1))
	waitFor(t, "the record", func() bool { return len(readAll(t, dir)) == 1 })
}

func TestJournalKeepsTheOrder(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, Options{Dir: dir, FileBytes: 2000})
	for i := range 200 {
		appendAll(t, j, numbered(i))
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	for i, r := range readAll(t, dir) {
		if want := fmt.Sprintf("n%d.test", i); r.Host != want {
			t.Fatalf("record %d: got %s; want %s", i, r.Host, want)
		}
	}
}

func TestJournalCutsATornTailAtStart(t *testing.T) {
	for _, c := range []struct{ name, tail string }{
		{"half a line", `{"schema":"sluice.audit/v1","ev`},
		{"a torn line longer than one look", strings.Repeat("x", 200_000)},
		{"nothing torn", ""},
	} {
		dir := t.TempDir()
		j := openJournal(t, Options{Dir: dir})
		appendAll(t, j, numbered(1), numbered(2))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		names, _ := Files(dir)
		f, err := os.OpenFile(names[0], os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(c.tail)
		f.Close()

		log := new(testLog)
		j, err = Open(Options{Dir: dir}, log.logger())
		if err != nil {
			t.Fatal(err)
		}
		appendAll(t, j, numbered(3))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, dir); len(got) != 3 {
			t.Errorf("%s: got %d records; want 3", c.name, len(got))
		}
		if names, _ := Files(dir); len(names) != 1 {
			t.Errorf("%s: got %d files; want the same one", c.name, len(names))
		}
		if said := log.count("cut a torn line"); said != min(len(c.tail), 1) {
			t.Errorf("%s: said %d times", c.name, said)
		}
	}
}

func TestTwoJournalsShareADirectory(t *testing.T) {
	dir := t.TempDir()
	a := openJournal(t, Options{Dir: dir})
	b := openJournal(t, Options{Dir: dir})
	for i := range 10 {
		appendAll(t, a, numbered(i))
		appendAll(t, b, numbered(100+i))
	}
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	if names, _ := Files(dir); len(names) != 2 || len(readAll(t, dir)) != 20 {
		t.Errorf("got %d files, %d records; want 2, 20", len(names), len(readAll(t, dir)))
	}
}

func TestJournalReopen(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, Options{Dir: dir})
	appendAll(t, j, numbered(1))
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	names, _ := Files(dir)
	if err := os.Rename(names[0], filepath.Join(dir, "taken-away")); err != nil {
		t.Fatal(err)
	}
	if err := j.Reopen(); err != nil {
		t.Fatal(err)
	}
	appendAll(t, j, numbered(2))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, dir); len(got) != 1 || got[0].Host != "n2.test" {
		t.Errorf("got %v; want the second record", got)
	}
}

func TestJournalRetention(t *testing.T) {
	line := int64(len(numbered(0).AppendJSON(nil)) + 1)
	t.Run("by size", func(t *testing.T) {
		dir := t.TempDir()
		j := openJournal(t, Options{Dir: dir, FileBytes: 10 * line, MaxBytes: 50 * line})
		for i := range 200 {
			appendAll(t, j, numbered(i))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		got := readAll(t, dir)
		if len(got) < 30 || len(got) > 60 || got[len(got)-1].Host != "n199.test" {
			t.Errorf("got %d records, last %s; want the newest 30 to 60", len(got), got[len(got)-1].Host)
		}
	})
	t.Run("by age", func(t *testing.T) {
		dir := t.TempDir()
		old := filepath.Join(dir, "audit-20200101T000000.000000Z.jsonl")
		young := filepath.Join(dir, "audit-20200102T000000.000000Z.jsonl")
		other := filepath.Join(dir, "notes.jsonl")
		for _, name := range []string{old, young, other} {
			if err := os.WriteFile(name, append(numbered(0).AppendJSON(nil), '\n'), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		long := time.Now().Add(-48 * time.Hour)
		for _, name := range []string{old, other} {
			if err := os.Chtimes(name, long, long); err != nil {
				t.Fatal(err)
			}
		}
		openJournal(t, Options{Dir: dir, Retention: 24 * time.Hour})
		if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old file is still there: %v", err)
		}
		for _, name := range []string{young, other} {
			if _, err := os.Stat(name); err != nil {
				t.Errorf("removed: %v", err)
			}
		}
	})
}

func TestJournalRotatesByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j, err := Open(Options{Dir: dir, FileAge: time.Hour}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			appendAll(t, j, numbered(i))
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(40 * time.Minute) //nolint:forbidigo // the clock is synctest's
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if names, _ := Files(dir); len(names) != 2 {
			t.Errorf("got files %v; want 2", names)
		}
	})
}
