package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/integration/testbed"
)

// tinyDisk mounts a file system of its own for a journal.
func tinyDisk(t *testing.T, size string) string {
	t.Helper()
	testbed.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		testbed.Unable(t, "mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill takes what space is left, and returns how to give it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, zeroReader{}); err == nil {
		t.Fatal("the disk does not fill")
	}
	f.Close()
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// A full disk stops the records, and the flows only where they must be
// recorded. When there is room again, all goes on and no line is torn.
func TestJournalDiskFull(t *testing.T) {
	for _, required := range []bool{false, true} {
		t.Run(fmt.Sprintf("required %v", required), func(t *testing.T) {
			disk := tinyDisk(t, "512k")
			dir := filepath.Join(disk, "audit")
			w := newWorld(t, fmt.Sprintf("audit: {dir: %s, required: %v, max_bytes: 1GiB}\nlog: {flows: none}\n", dir, required))
			status := func() int { s, _, _ := w.tried(t, "hlg.tokbox.com:443"); return s }
			if got := status(); got != 200 {
				t.Fatalf("before: %d", got)
			}
			free := fill(t, disk)
			if required {
				testbed.Eventually(t, "flows are refused", func() bool { return status() == 503 })
				_, said, body := w.tried(t, "hlg.tokbox.com:443")
				if !strings.Contains(said, "error=") || !strings.Contains(body, "recorded") {
					t.Errorf("the answer does not say why: %q %s", said, body)
				}
			} else {
				testbed.Eventually(t, "the journal fails", func() bool { status(); return w.Metric("sluice_journal_errors_total") > 0 })
				for range 20 {
					if got := status(); got != 200 {
						t.Errorf("while the disk is full: %d", got)
					}
				}
			}
			if got, _, _ := w.tried(t, "evil.test:443"); got != 403 {
				t.Errorf("a denied name while the disk is full: %d", got)
			}
			if !strings.Contains(w.Stderr(), "audit journal can not write") {
				t.Error("the log does not say so")
			}
			if code, _ := w.Get("/healthz"); code != 200 {
				t.Errorf("healthz: %d", code)
			}
			free()
			testbed.Eventually(t, "flows pass again", func() bool { return status() == 200 })
			testbed.Eventually(t, "the journal writes again", func() bool {
				return strings.Contains(w.Stderr(), "audit journal writes again") && w.Metric("sluice_journal_queued") == 0
			})
			w.tried(t, "after.the.flood.example:443")
			w.Stop()
			var after, lost int
			for _, r := range testbed.WholeJournal(t, dir) {
				switch {
				case r.Str("host") == "after.the.flood.example":
					after++
				case r.Str("event") == "lost":
					lost++
				}
			}
			if after != 1 {
				t.Errorf("%d records of the flow after; want 1", after)
			}
			if required != (lost > 0) {
				t.Errorf("%d records of records that were lost, required %v", lost, required)
			}
		})
	}
}

// A gateway that is killed leaves a journal that can be read, with all but
// its last moment, and goes on in it.
func TestKilledUnderLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	w := newWorld(t, "audit: {dir: "+dir+"}\nlog: {flows: none}\n")
	var wg sync.WaitGroup
	var answered atomic.Int64
	stop := make(chan struct{})
	for k := range 8 {
		client := w.through(t)
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				res, err := client.Get(fmt.Sprintf("http://n%d-%d.denied.example.net/", k, i))
				if err != nil {
					return // it was killed
				}
				res.Body.Close()
				if res.StatusCode == http.StatusForbidden {
					answered.Add(1)
				}
			}
		})
	}
	testbed.Eventually(t, "enough load", func() bool { return answered.Load() > 3000 })
	before := answered.Load()
	testbed.Eventually(t, "what was answered before is on disk", func() bool {
		return w.Metric("sluice_journal_written_total") >= float64(before)
	})
	w.Signal(syscall.SIGKILL)
	testbed.Eventually(t, "the process has ended", func() bool { ended, _ := w.Exited(); return ended })
	close(stop)
	wg.Wait()

	again := testbed.StartFile(t, w.Config)
	records := testbed.WholeJournal(t, dir) // the start cut off what was torn
	if int64(len(records)) < before || int64(len(records)) > answered.Load()+8 {
		t.Errorf("%d records of %d to %d flows", len(records), before, answered.Load())
	}
	w.Gateway, w.addr, w.proxy = again, again.Address("proxy"), "http://"+again.Address("proxy")
	w.tried(t, "after.the.end.example:443")
	again.Stop()
	records = testbed.WholeJournal(t, dir)
	if last := records[len(records)-1]; last.Str("host") != "after.the.end.example" {
		t.Errorf("last record: %v", last)
	}
}
