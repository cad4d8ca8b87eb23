package certs

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a directory must be quiet before its files are read, so that a pair is not read
	// between the writing of its two halves.
	settle = 200 * time.Millisecond
	// maxSettle bounds that, in a directory that is never quiet.
	maxSettle = 2 * time.Second
	// maxPEM bounds what is read of a file named in the configuration. A chain is some KiB.
	maxPEM = 4 << 20
)

// watch calls check when something happens in the directories of files, and every PollInterval, until ctx ends.
//
// Directories and not files are watched: a file that is replaced takes its watch with it, and the files of a
// Kubernetes Secret are links through ..data, which is what changes.
func watch(ctx context.Context, o Options, files []string, check func()) {
	var events chan fsnotify.Event
	var errs chan error
	if w, err := watchDirs(files); err == nil {
		defer w.Close()
		events, errs = w.Events, w.Errors
	} else {
		o.Logger.Warn("no notices of changed files; they are polled only", "error", err, "interval", o.PollInterval)
	}
	poll := time.NewTicker(o.PollInterval)
	defer poll.Stop()
	// What changed between the first reading and the start of the watch had no notice.
	check()
	quiet := time.NewTimer(0)
	quiet.Stop()
	defer quiet.Stop()
	var since time.Time // of the first event not yet looked at
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			check()
		case <-errs:
			// The queue of the kernel overflowed: something was missed.
			check()
		case <-events:
			if since.IsZero() {
				since = time.Now()
			}
			quiet.Reset(min(settle, maxSettle-min(maxSettle, time.Since(since))))
		case <-quiet.C:
			since = time.Time{}
			check()
		}
	}
}

func watchDirs(files []string) (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	for _, f := range files {
		if err := w.Add(filepath.Dir(f)); err != nil {
			w.Close()
			return nil, fmt.Errorf("watch %s: %w", filepath.Dir(f), err)
		}
	}
	return w, nil
}

// readPEM reads a file that the configuration names.
func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxPEM {
		return nil, fmt.Errorf("%s: larger than %d bytes; is it the right file?", path, maxPEM)
	}
	return b, nil
}
