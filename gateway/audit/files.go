package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	filePrefix = "audit-"
	fileSuffix = ".jsonl"
	fileTime   = "20060102T150405.000000Z" // sorts by time
)

// Files lists the journal's files in a directory, oldest first.
func Files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if _, ok := begun(e.Name()); ok && e.Type().IsRegular() {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// begun reads from a file's name when it was begun.
func begun(name string) (time.Time, bool) {
	s, ok := strings.CutPrefix(filepath.Base(name), filePrefix)
	if !ok {
		return time.Time{}, false
	}
	if s, ok = strings.CutSuffix(s, fileSuffix); !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(fileTime, s)
	return t, err == nil
}

// start makes the directory, mends what a crash left, and opens a file: the
// newest one again if no other process has it and it is not due for a new one.
func (w *writer) start() error {
	if err := os.MkdirAll(w.opts.Dir, 0o750); err != nil {
		return err
	}
	names, err := Files(w.opts.Dir)
	if err != nil {
		return err
	}
	for i, name := range names {
		f, size, err := w.mend(name)
		if err != nil {
			w.log.Warn("audit journal: check the end of a file", "file", name, "error", err)
			continue
		}
		if f == nil {
			continue // another process writes to it
		}
		opened, _ := begun(name)
		if i < len(names)-1 || size >= w.opts.FileBytes || time.Since(opened) >= w.opts.FileAge {
			f.Close()
			continue
		}
		w.f, w.path, w.size, w.opened = f, name, size, opened
	}
	if w.f == nil {
		return w.rotate(time.Now())
	}
	w.sweep()
	return nil
}

// mend opens and locks a file, and cuts a torn line off its end. It returns
// nil if another process holds the file.
func (w *writer) mend(name string) (*os.File, int64, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, 0, err
	}
	if err := lock(f); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = nil
		}
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	size := info.Size()
	whole, err := wholeLines(f, size)
	if err == nil && whole < size {
		if err = f.Truncate(whole); err == nil {
			w.log.Warn("audit journal: cut a torn line off a file", "file", name, "bytes", size-whole)
		}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, whole, nil
}

// lock marks the file as being written. The lock goes with the process.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// wholeLines returns the offset behind the last line's end in the first size
// bytes.
func wholeLines(r io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for end := size; end > 0; {
		n := min(end, int64(len(buf)))
		if _, err := r.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// newFile makes a file with a name of its own.
func (w *writer) newFile(now time.Time) (file, string, error) {
	for {
		path := filepath.Join(w.opts.Dir, filePrefix+now.UTC().Format(fileTime)+fileSuffix)
		f, err := w.create(path)
		if errors.Is(err, fs.ErrExist) {
			now = now.Add(time.Microsecond)
			continue
		}
		return f, path, err
	}
}

// createFile makes a new file, locked, and its directory entry durable.
func createFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(lock(f), syncDir(filepath.Dir(path))); err != nil {
		f.Close()
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sweep removes the files that are too old, and the oldest ones while all
// together are too large. The file being written stays.
func (w *writer) sweep() {
	names, err := Files(w.opts.Dir)
	if err != nil {
		w.log.Error("audit journal: list files", "dir", w.opts.Dir, "error", err)
		return
	}
	infos := make([]fs.FileInfo, len(names))
	var total int64
	for i, name := range names {
		if infos[i], err = os.Stat(name); err == nil {
			total += infos[i].Size()
		}
	}
	now := time.Now()
	for i, name := range names {
		if infos[i] == nil || name == w.path {
			continue
		}
		old := w.opts.Retention > 0 && now.Sub(infos[i].ModTime()) > w.opts.Retention
		large := w.opts.MaxBytes > 0 && total > w.opts.MaxBytes
		if !old && !large {
			continue
		}
		if err := os.Remove(name); err != nil {
			w.log.Error("audit journal: remove old file", "file", name, "error", err)
			continue
		}
		total -= infos[i].Size()
		w.log.Info("audit journal: removed old file", "file", name, "bytes", infos[i].Size())
	}
}
