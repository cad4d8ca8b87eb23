package audit

import (
	"io/fs"
	"log/slog"
	"time"
)

// file is what the writer needs of an *os.File.
type file interface {
	Write([]byte) (int, error)
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Sync() error
	Close() error
}

// writer writes lines to the newest file of a directory. It belongs to one
// goroutine.
type writer struct {
	opts   Options
	log    *slog.Logger
	create func(path string) (file, error)

	f      file // nil: none is open
	path   string
	size   int64     // of whole lines
	opened time.Time // when the file was begun
	dirty  bool      // written since the last sync
	buf    []byte

	reportedLost int64
	complained   time.Time
}

// writeSome writes records from the front of a batch, as many as make one
// chunk, and returns how many.
func (w *writer) writeSome(batch []*Record) (int, error) {
	w.buf = w.buf[:0]
	n := 0
	for n < len(batch) && len(w.buf) < chunkBytes {
		before := len(w.buf)
		w.buf = append(batch[n].AppendJSON(w.buf), '\n')
		if before > 0 && w.size+int64(len(w.buf)) > w.opts.FileBytes {
			w.buf = w.buf[:before] // begins the next file
			break
		}
		n++
	}
	return n, w.writeLines(w.buf)
}

// writeLost notes that records are missing.
func (w *writer) writeLost(lost int64) error {
	missing := lost - w.reportedLost
	if missing == 0 {
		return nil
	}
	r := Record{Schema: Schema, Event: EventLost, Time: time.Now().UTC(), Lost: missing}
	if err := w.writeLines(append(r.AppendJSON(w.buf[:0]), '\n')); err != nil {
		return err
	}
	w.reportedLost = lost
	return nil
}

// writeLines writes whole lines to the file, or nothing: what a failed write
// left behind is cut off again.
func (w *writer) writeLines(lines []byte) error {
	now := time.Now()
	over := w.size > 0 && (w.size+int64(len(lines)) > w.opts.FileBytes || now.Sub(w.opened) >= w.opts.FileAge)
	if w.f == nil || over {
		// An old file that is too large is better than no file.
		if err := w.rotate(now); err != nil && w.f == nil {
			return err
		}
	}
	if _, err := w.f.Write(lines); err != nil {
		w.cutBack()
		return err
	}
	w.size += int64(len(lines))
	w.dirty = true
	return nil
}

// cutBack takes away what stands behind the last whole line. If that fails the
// file is left, and the next start cuts it.
func (w *writer) cutBack() {
	info, err := w.f.Stat()
	if err == nil && info.Size() > w.size {
		err = w.f.Truncate(w.size)
	}
	if err != nil {
		w.log.Error("audit journal: cut torn line", "file", w.path, "error", err)
		w.f.Close()
		w.f = nil
	}
}

func (w *writer) sync() error {
	if w.f == nil || !w.dirty {
		return nil
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	w.dirty = false
	return nil
}

// rotate goes on in a new file. If it can not be made, the old one stays.
func (w *writer) rotate(now time.Time) error {
	f, path, err := w.newFile(now)
	if err != nil {
		return err
	}
	if err := w.close(); err != nil {
		w.log.Error("audit journal: close file", "file", w.path, "error", err)
	}
	w.f, w.path, w.size, w.opened, w.dirty = f, path, 0, now, false
	w.sweep()
	return nil
}

func (w *writer) close() error {
	if w.f == nil {
		return nil
	}
	err := w.sync()
	if cerr := w.f.Close(); err == nil {
		err = cerr
	}
	w.f = nil
	return err
}
