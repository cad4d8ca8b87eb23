package dial

import (
	"io"
	"os"
	"sync/atomic"
	"time"
)

const (
	watchEvery   = time.Second // a file is looked at no more often
	watchMaxSize = 32 << 20    // bytes read of a file; hosts files with block lists have some 10 MB
)

// watched is what a file holds, read again when the file changes. A file that
// can not be read leaves the last good value.
type watched[T any] struct {
	path  string
	parse func([]byte) T
	value atomic.Pointer[T]
	next  atomic.Int64 // when to look again, Unix nanoseconds
	stamp os.FileInfo  // owned by whoever moved next
	busy  atomic.Bool
}

// newWatched reads path. Until it can be read its value is parse(nil).
func newWatched[T any](path string, now time.Time, parse func([]byte) T) *watched[T] {
	w := &watched[T]{path: path, parse: parse}
	empty := parse(nil)
	w.value.Store(&empty)
	w.get(now)
	return w
}

// get returns the value, after a look at the file if it is time for one. It
// does not wait for a look that another goroutine takes.
func (w *watched[T]) get(now time.Time) T {
	if now.UnixNano() >= w.next.Load() && w.busy.CompareAndSwap(false, true) {
		w.look()
		w.next.Store(now.Add(watchEvery).UnixNano())
		w.busy.Store(false)
	}
	return *w.value.Load()
}

func (w *watched[T]) look() {
	f, err := os.Open(w.path)
	if err != nil {
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || w.same(info) {
		return
	}
	data, err := io.ReadAll(io.LimitReader(f, watchMaxSize))
	if err != nil {
		return
	}
	v := w.parse(data)
	w.value.Store(&v)
	w.stamp = info
}

func (w *watched[T]) same(info os.FileInfo) bool {
	return w.stamp != nil && os.SameFile(w.stamp, info) &&
		w.stamp.Size() == info.Size() && w.stamp.ModTime().Equal(info.ModTime())
}
