package config

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watched is a configuration under a quick watcher. Each call of changed
// loads the file, as a gateway does.
type watched struct {
	t     *testing.T
	in    Input
	calls atomic.Int64
	last  atomic.Pointer[string] // state_dir of the last good load, or the error
	stop  func()
}

func watch(t *testing.T, path string, meanwhile func()) *watched {
	t.Helper()
	w := &watched{t: t, in: Input{Path: path}}
	l, err := Load(w.in)
	if err != nil {
		t.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile()
	}
	ctx, cancel := context.WithCancel(t.Context())
	watcher := &watcher{in: w.in, log: slog.New(slog.DiscardHandler), settle: 10 * time.Millisecond, poll: 100 * time.Millisecond}
	done := watcher.start(ctx, l, func() {
		state := ""
		if l, err := Load(w.in); err != nil {
			state = err.Error()
		} else {
			state = l.File.StateDir
			for _, s := range l.Sources[1:] {
				state += " " + strings.Join(s.Spec.Allow, ",")
			}
		}
		w.last.Store(&state)
		w.calls.Add(1)
	})
	w.stop = func() { cancel(); <-done }
	t.Cleanup(w.stop)
	return w
}

// await waits until the last load came to want.
func (w *watched) await(want string) {
	w.t.Helper()
	w.until(want, func() bool { s := w.last.Load(); return s != nil && strings.Contains(*s, want) })
}

func (w *watched) until(what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			got := "nothing"
			if s := w.last.Load(); s != nil {
				got = *s
			}
			w.t.Fatalf("not within 20 s: %s; last: %s", what, got)
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestWatchSeesAFileChange(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir, path string){
		"written in place": func(t *testing.T, dir, path string) { write(t, dir, "c.yaml", "state_dir: /new\n") },
		"renamed over": func(t *testing.T, dir, path string) {
			rename(t, write(t, dir, "c.yaml.tmp", "state_dir: /new\n"), path)
		},
		"removed and made again": func(t *testing.T, dir, path string) {
			os.Remove(path)
			write(t, dir, "c.yaml", "state_dir: /new\n")
		},
		"its directory replaced": func(t *testing.T, dir, path string) {
			rename(t, dir, dir+".old")
			write(t, dir, "c.yaml", "state_dir: /new\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "conf")
			path := write(t, dir, "c.yaml", "state_dir: /old\n")
			w := watch(t, path, nil)
			change(t, dir, path)
			w.await("/new")
		})
	}
}

// What is written between the first load and the watch counts too.
func TestWatchSeesWhatChangedBeforeItBegan(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "c.yaml", "state_dir: /old\n")
	watch(t, path, func() { write(t, dir, "c.yaml", "state_dir: /new\n") }).await("/new")
}

// Kubernetes swaps a symbolic link, and never touches the file's own name.
func TestWatchSeesAConfigMapSwap(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "..2026_01/c.yaml", "state_dir: /old\n")
	write(t, dir, "..2026_02/c.yaml", "state_dir: /new\n")
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..2026_01", "..data")
	link("..data/c.yaml", "c.yaml")
	w := watch(t, filepath.Join(dir, "c.yaml"), nil)
	link("..2026_02", "..data_tmp")
	rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	w.await("/new")
}

func TestWatchSeesAHalfWrittenFileCompleted(t *testing.T) {
	dir := t.TempDir()
	w := watch(t, write(t, dir, "c.yaml", "state_dir: /old\n"), nil)
	write(t, dir, "c.yaml", "state_dir: \"/ne")
	w.await("not valid YAML")
	write(t, dir, "c.yaml", "state_dir: \"/new\"\n")
	w.await("/new")
}

func TestWatchSeesADeletedFileComeBack(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "c.yaml", "state_dir: /old\n")
	w := watch(t, path, nil)
	os.Remove(path)
	w.await("does not exist")
	write(t, dir, "c.yaml", "state_dir: /old\n")
	w.await("/old")
}

func TestWatchSeesIncludes(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir, "c.yaml", "state_dir: /one\npolicy: {include: [policy.d/*.yaml]}\n")
	w := watch(t, main, nil) // policy.d does not exist yet
	write(t, dir, "policy.d/a.yaml", "allow: [a.example.com]\n")
	w.await("/one a.example.com")
	write(t, dir, "policy.d/b.yaml", "allow: [b.example.com]\n")
	w.await("/one a.example.com b.example.com")
	write(t, dir, "policy.d/a.yaml", "allow: [c.example.com]\n")
	w.await("/one c.example.com b.example.com")

	// An include that is new, and wrong, and put right.
	write(t, dir, "more/x.yaml", "allow: x\n")
	write(t, dir, "c.yaml", "state_dir: /two\npolicy: {include: [more/x.yaml]}\n")
	w.await("want a list")
	write(t, dir, "more/x.yaml", "allow: [x.example.com]\n")
	w.await("/two x.example.com")
}

// Neither the same content nor a neighbour is a change, and a busy directory
// does not put a change off.
func TestWatchCallsOnlyForChanges(t *testing.T) {
	dir := t.TempDir()
	text := "state_dir: /old\npolicy: {include: [./*.policy]}\n"
	w := watch(t, write(t, dir, "c.yaml", text), nil)
	busy, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(busy)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				os.WriteFile(filepath.Join(dir, "neighbour.log"), []byte{byte(i)}, 0o600)
			}
		}
	}()
	for range 50 {
		rename(t, write(t, dir, "tmp", text), filepath.Join(dir, "c.yaml"))
	}
	rename(t, write(t, dir, "tmp", "state_dir: /new\n"), filepath.Join(dir, "c.yaml"))
	w.await("/new")
	close(stop)
	<-busy
	if n := w.calls.Load(); n != 1 {
		t.Errorf("%d calls; want 1", n)
	}
}

// Notices can be lost, or never sent.
func TestWatchFindsByPollingWhatTheKernelDoesNotTell(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "c.yaml", "state_dir: /old\n")
	l, err := Load(Input{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan struct{}, 10)
	w := &watcher{in: Input{Path: path}, log: slog.New(slog.DiscardHandler), settle: time.Millisecond, poll: time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx, fingerprint(l.read), func() { called <- struct{}{} })
	}()
	write(t, dir, "c.yaml", "state_dir: /new\n")
	<-called
	cancel()
	<-done
}

// fsnotify waits for a reader of its errors: an overflow must not end notices.
func TestWatchSurvivesAnOverflow(t *testing.T) {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the kernel gives no notifications, and CI must have them: %v", err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	path := write(t, dir, "c.yaml", "state_dir: /old\n")
	l, err := Load(Input{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan struct{}, 10)
	w := &watcher{in: Input{Path: path}, log: slog.New(slog.DiscardHandler), settle: time.Millisecond, poll: time.Hour, fs: fs}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx, fingerprint(l.read), func() { called <- struct{}{} })
	}()
	fs.Errors <- fsnotify.ErrEventOverflow
	write(t, dir, "c.yaml", "state_dir: /new\n") // its notice was lost
	fs.Errors <- fsnotify.ErrEventOverflow
	<-called
	cancel()
	<-done
	fs.Close()
}

func TestWatchOfNothingToWatch(t *testing.T) {
	for _, path := range []string{"", "/dev/null"} {
		<-Watch(t.Context(), Input{Path: path}, &Loaded{}, slog.New(slog.DiscardHandler), nil)
	}
}
