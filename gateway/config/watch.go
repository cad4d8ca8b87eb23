package config

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settleTime is how long files must stay as they are before a change
	// counts: editors and copies write in steps.
	settleTime = 200 * time.Millisecond
	// pollTime finds changes that the kernel does not report, such as on
	// network file systems.
	pollTime = 30 * time.Second
)

// Watch calls changed after the files of a configuration changed and have
// settled, until ctx ends; then the returned channel is closed. It watches
// directories, so that a replaced file, a new include and the symbolic links
// of a Kubernetes ConfigMap are seen. Changes are told by content.
func Watch(ctx context.Context, in Input, l *Loaded, log *slog.Logger, changed func()) <-chan struct{} {
	w := &watcher{in: in, log: log, settle: settleTime, poll: pollTime}
	return w.start(ctx, l, changed)
}

// watcher is the state of one Watch.
type watcher struct {
	in           Input
	log          *slog.Logger
	settle, poll time.Duration
	globs        []string // of the includes
	fs           *fsnotify.Watcher
}

func (w *watcher) start(ctx context.Context, l *Loaded, changed func()) <-chan struct{} {
	done := make(chan struct{})
	if info, err := os.Stat(w.in.Path); w.in.Path == "" || err == nil && !info.Mode().IsRegular() {
		close(done) // a pipe can be read only once
		return done
	}
	w.globs = l.globs
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("watch configuration: the kernel gives no notices; looking from time to time", "every", w.poll, "error", err)
	} else {
		w.fs = fs
	}
	w.subscribe()
	go func() {
		defer close(done)
		if w.fs != nil {
			defer w.fs.Close()
		}
		w.run(ctx, fingerprint(l.read), changed)
	}()
	return done
}

// run compares what is on disk with last, what was loaded: at first, for what
// changed since, then at each notice and each poll. A difference counts once
// it was seen twice, w.settle apart.
func (w *watcher) run(ctx context.Context, last sum, changed func()) {
	var events <-chan fsnotify.Event
	var troubles <-chan error
	if w.fs != nil {
		events, troubles = w.fs.Events, w.fs.Errors
	}
	poll := time.NewTicker(w.poll)
	defer poll.Stop()
	look := time.NewTimer(w.settle)
	defer look.Stop()
	armed, pending := true, last
	for {
		notice := false
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			notice = true
		case <-events:
			notice = true
		case <-troubles: // such as an overflow: notices were lost
			notice = true
		case <-look.C:
			armed = false
			switch now := w.fingerprint(); now {
			case last:
				pending = last
			case pending:
				before := last
				last = w.follow()
				pending = last
				if last != before {
					changed()
				}
				notice = true // what was written meanwhile
			default:
				pending = now
				notice = true
			}
			w.subscribe()
		}
		// Not put off by every notice: a busy directory would never settle.
		if notice && !armed {
			armed = true
			look.Reset(w.settle)
		}
	}
}

// follow learns of new includes, and returns the fingerprint of what is now to
// be loaded. It is taken before that, so that no later change is missed.
func (w *watcher) follow() sum {
	l, err := load(w.in)
	if l.doc != nil && l.File.Version > 0 { // the includes are known, even if one is broken
		w.globs = l.globs
	}
	if err == nil {
		return fingerprint(l.read)
	}
	return w.fingerprint()
}

// files lists the files that count now.
func (w *watcher) files() []string {
	files := map[string]bool{w.in.Path: true}
	for _, glob := range w.globs {
		found, _ := expand(glob) // a bad glob was never loaded
		for _, f := range found {
			files[f] = true
		}
	}
	return slices.Sorted(maps.Keys(files))
}

func (w *watcher) fingerprint() sum {
	contents := map[string]*sum{}
	for _, f := range w.files() {
		contents[f] = nil
		if data, err := readFile(f); err == nil {
			h := sum(sha256.Sum256(data))
			contents[f] = &h
		}
	}
	return fingerprint(contents)
}

// subscribe watches the directories of all files, and of what they link to.
// A directory that was removed and made again is watched again.
func (w *watcher) subscribe() {
	if w.fs == nil {
		return
	}
	var dirs []string
	for _, glob := range w.globs {
		dirs = append(dirs, filepath.Dir(glob))
	}
	for _, f := range w.files() {
		dirs = append(dirs, filepath.Dir(f))
		if real, err := filepath.EvalSymlinks(f); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if isGlob(dir) {
			continue // found by polling
		}
		if err := w.fs.Add(dir); err != nil {
			w.log.Debug("watch configuration", "dir", dir, "error", err)
		}
	}
}
