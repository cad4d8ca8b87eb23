package config

import (
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long files must stay as they are before a change counts:
	// editors and copies write in steps.
	settle = 200 * time.Millisecond
	// pollEvery finds changes that the kernel does not report, such as on
	// network file systems.
	pollEvery = 30 * time.Second
)

// Watch calls changed after the files of a configuration changed and have
// settled, until ctx ends; then the returned channel is closed. It watches
// directories, so that a replaced file, a new include and the symbolic links
// of a Kubernetes ConfigMap are seen. Changes are told by content.
func Watch(ctx context.Context, in Input, l *Loaded, log *slog.Logger, changed func()) <-chan struct{} {
	done := make(chan struct{})
	if in.Path == "" {
		close(done)
		return done
	}
	w := &watcher{in: in, files: l.Watch, log: log}
	events := make(<-chan fsnotify.Event)
	if fw, err := fsnotify.NewWatcher(); err != nil {
		log.Warn("watch configuration: the kernel gives no notifications; looking every 30 s", "error", err)
	} else {
		w.fs, events = fw, fw.Events
		context.AfterFunc(ctx, func() { fw.Close() })
	}
	w.subscribe()
	last := w.fingerprint()
	go func() {
		defer close(done)
		poll := time.NewTicker(pollEvery)
		defer poll.Stop()
		quiet := time.NewTimer(time.Hour)
		defer quiet.Stop()
		pending := [sha256.Size]byte{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-poll.C:
				quiet.Reset(0)
			case _, ok := <-events:
				if !ok {
					events = nil
					continue
				}
				quiet.Reset(settle)
			case <-quiet.C:
				now := w.fingerprint()
				switch {
				case now == last:
				case now != pending: // still being written, perhaps
					pending = now
					quiet.Reset(settle)
				default:
					last = now
					changed()
					w.refresh()
					last = w.fingerprint()
				}
			}
		}
	}()
	return done
}

type watcher struct {
	in    Input
	files []string
	fs    *fsnotify.Watcher
	log   *slog.Logger
}

// subscribe watches the directories of all files, and of what they link to.
func (w *watcher) subscribe() {
	if w.fs == nil {
		return
	}
	var dirs []string
	for _, f := range w.files {
		dirs = append(dirs, filepath.Dir(f))
		if info, err := os.Stat(f); err == nil && info.IsDir() {
			dirs = append(dirs, f)
		}
		if real, err := filepath.EvalSymlinks(f); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if err := w.fs.Add(dir); err != nil {
			w.log.Debug("watch configuration", "dir", dir, "error", err)
		}
	}
}

// refresh follows a change of the includes. A configuration that does not
// load keeps the files that are watched.
func (w *watcher) refresh() {
	if l, err := Load(w.in); err == nil {
		w.files = l.Watch
	}
	w.subscribe()
}

// fingerprint is a hash over the names and contents of all files.
func (w *watcher) fingerprint() (sum [sha256.Size]byte) {
	h := sha256.New()
	files := slices.Clone(w.files)
	for _, f := range w.files { // new files in an included directory count
		if entries, err := os.ReadDir(f); err == nil {
			for _, e := range entries {
				files = append(files, filepath.Join(f, e.Name()))
			}
		}
	}
	for _, f := range files {
		io.WriteString(h, f+"\x00")
		if data, err := os.ReadFile(f); err == nil {
			h.Write(data)
		} else {
			io.WriteString(h, "\x00absent")
		}
		h.Write([]byte{0})
	}
	h.Sum(sum[:0])
	return sum
}
