package audit

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// disk is a file on a disk that can be full: writes then stop part of the way.
type disk struct {
	*os.File
	full   *atomic.Bool
	noSync *atomic.Bool
}

func (d disk) Write(b []byte) (int, error) {
	if d.full.Load() {
		n, _ := d.File.Write(b[:len(b)/2])
		return n, syscall.ENOSPC
	}
	return d.File.Write(b)
}

func (d disk) Sync() error {
	if d.noSync.Load() {
		return syscall.EIO
	}
	return d.File.Sync()
}

// onDisk opens a journal whose disk the test can fill.
func onDisk(t *testing.T, o Options) (j *Journal, log *testLog, full, noSync *atomic.Bool) {
	t.Helper()
	full, noSync, log = new(atomic.Bool), new(atomic.Bool), new(testLog)
	w := &writer{opts: o.withDefaults(), log: log.logger()}
	w.create = func(path string) (file, error) {
		f, err := createFile(path)
		if err != nil {
			return nil, err
		}
		return disk{f.(*os.File), full, noSync}, nil
	}
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	j = run(w)
	t.Cleanup(func() { j.Close() })
	return j, log, full, noSync
}

func TestJournalOutlivesAFullDisk(t *testing.T) {
	dir := t.TempDir()
	j, log, full, _ := onDisk(t, Options{Dir: dir, Queue: 10})
	appendAll(t, j, numbered(0))
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	for i := range 25 { // 10 can wait, 15 can not
		appendAll(t, j, numbered(1+i))
	}
	if err := j.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("sync: got %v; want ENOSPC", err)
	}
	if err := j.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("second sync: got %v; want ENOSPC", err)
	}
	if got := readAll(t, dir); len(got) != 1 { // fails on a torn line
		t.Errorf("while full: got %d records; want 1", len(got))
	}
	if said := log.count("can not write"); said != 1 {
		t.Errorf("said %d times that it can not write; want once a minute", said)
	}
	full.Store(false)
	waitFor(t, "recovery", func() bool { return j.Stats().Queued == 0 && log.count("writes again") == 1 })
	appendAll(t, j, numbered(99))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	var lost int64
	var hosts []string
	for _, r := range readAll(t, dir) {
		if r.Event == EventLost {
			lost += r.Lost
			continue
		}
		hosts = append(hosts, r.Host)
	}
	if lost != 15 || len(hosts) != 12 || hosts[11] != "n99.test" || j.Stats().Lost != 15 {
		t.Errorf("got %d lost, %d in all, records %v; want 15, 15 and 12 records", lost, j.Stats().Lost, hosts)
	}
}

// stuck is a file whose writes wait.
type stuck struct {
	*os.File
	release chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	<-s.release
	return s.File.Write(b)
}

func TestAppendDoesNotWaitForTheDisk(t *testing.T) {
	for _, required := range []bool{false, true} {
		dir := t.TempDir()
		release := make(chan struct{})
		w := &writer{opts: Options{Dir: dir, Queue: 10, Required: required}.withDefaults(), log: slog.New(slog.DiscardHandler)}
		w.create = func(path string) (file, error) {
			f, err := createFile(path)
			if err != nil {
				return nil, err
			}
			return stuck{f.(*os.File), release}, nil
		}
		if err := w.start(); err != nil {
			t.Fatal(err)
		}
		j := run(w)
		for i := range 10 {
			appendAll(t, j, numbered(i))
		}
		if err := j.Append(numbered(10)); errors.Is(err, ErrFull) != required {
			t.Errorf("required %v: got %v for one too many", required, err)
		}
		close(release)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		got := readAll(t, dir)
		if len(got) != 11 || got[10].Lost != 1 {
			t.Errorf("required %v: got %d records; want 10 and the note of a lost one", required, len(got))
		}
	}
}

func TestRequiredJournalRefusesWhileTheDiskDoes(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(full, noSync *atomic.Bool, on bool)
	}{
		{"writes fail", func(full, _ *atomic.Bool, on bool) { full.Store(on) }},
		{"syncs fail", func(_, noSync *atomic.Bool, on bool) { noSync.Store(on) }},
	} {
		j, _, full, noSync := onDisk(t, Options{Dir: t.TempDir(), Required: true})
		c.fail(full, noSync, true)
		appendAll(t, j, numbered(1))
		waitFor(t, c.name, func() bool { return j.Stats().Errors > 0 })
		if err := j.Append(numbered(2)); !errors.Is(err, ErrFull) {
			t.Errorf("%s: got %v; want ErrFull", c.name, err)
		}
		c.fail(full, noSync, false)
		waitFor(t, c.name+": recovery", func() bool { return j.Append(numbered(3)) == nil })
		if err := j.Close(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestJournalSaysWhatIsLostAtClose(t *testing.T) {
	j, _, full, _ := onDisk(t, Options{Dir: t.TempDir()})
	full.Store(true)
	appendAll(t, j, numbered(1), numbered(2))
	err := j.Close()
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "2 records lost") {
		t.Errorf("got %v; want 2 records lost for want of space", err)
	}
	if err := j.Append(numbered(3)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: got %v; want ErrClosed", err)
	}
	if err := j.Sync(); !errors.Is(err, ErrClosed) {
		t.Errorf("sync after close: got %v; want ErrClosed", err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "a-file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Dir: blocked}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "make the directory writable") {
		t.Errorf("got %v", err)
	}
}

// TestJournalOnARealFullDisk needs root for a small tmpfs.
func TestJournalOnARealFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount a tmpfs: %v", err)
		}
		t.Skipf("mount a tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	j, err := Open(Options{Dir: dir, MaxBytes: 1 << 30, Queue: 1000}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		appendAll(t, j, numbered(i))
	}
	if err := j.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v; want ENOSPC", err)
	}
	if err := syscall.Mount("", dir, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "recovery", func() bool { return j.Stats().Queued == 0 })
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, dir); len(got) != 500 {
		t.Errorf("got %d records; want 500", len(got))
	}
}

func BenchmarkAppend(b *testing.B) {
	j, err := Open(Options{Dir: b.TempDir(), Queue: 1 << 20}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	r := numbered(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := j.Append(r); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}
