package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of Journal.Append.
var (
	// ErrFull says that the journal can not take a record that it must keep:
	// its queue is full, or the disk refuses. The flow must be refused.
	ErrFull = errors.New("audit journal can not keep up: check the disk of audit.dir")
	// ErrClosed says that the journal was closed.
	ErrClosed = errors.New("audit journal is closed")
)

// Options set a Journal. Zero values take the default that is named.
type Options struct {
	Dir       string        // made if it is missing, mode 0750
	Required  bool          // no flow without a record: Append fails with ErrFull instead of losing one
	Retention time.Duration // files whose last record is older are removed; 0: kept for ever
	MaxBytes  int64         // of all files together, oldest removed first; 0: no limit
	FileBytes int64         // a file that would grow over it is followed by a new one; 0: 64 MiB, or an eighth of MaxBytes if that is less
	FileAge   time.Duration // the same by age; 0: 24 h
	Queue     int           // records waiting for the disk; 0: 65,536, about 60 MB when full
}

func (o Options) withDefaults() Options {
	if o.FileBytes == 0 {
		o.FileBytes = 64 << 20
		if o.MaxBytes > 0 {
			o.FileBytes = min(o.FileBytes, max(o.MaxBytes/8, 1))
		}
	}
	if o.FileAge == 0 {
		o.FileAge = 24 * time.Hour
	}
	if o.Queue == 0 {
		o.Queue = 65536
	}
	return o
}

// Stats are counts since the journal was opened, and what waits now.
type Stats struct {
	Written int64 // records in files
	Lost    int64 // records that were not taken, or given up at Close
	Errors  int64 // failed writes and syncs
	Queued  int   // records waiting
}

// Journal is the durable, append-only file of records: JSON lines in files
// audit-TIME.jsonl of one directory. A record is in the file 200 ms after
// Append, and safe from a power cut one second later, unless the disk is
// slower. A file never holds a torn line for longer than the write that tore
// it: what a full disk cut off is taken back, and written again when it can be.
type Journal struct {
	opts Options
	log  *slog.Logger

	mu     sync.Mutex // held for a few instructions, never over I/O
	queue  []*Record
	held   int // taken by the writer, not yet in the file
	closed bool

	wake     chan struct{} // the queue is no longer empty
	urgent   chan struct{} // a quarter of the queue is used
	requests chan request
	done     chan struct{}

	written, lost, errors atomic.Int64
	failing               atomic.Bool // the last write failed
}

var _ Sink = (*Journal)(nil)

type requestKind uint8

const (
	syncRequest requestKind = iota
	reopenRequest
	closeRequest
)

type request struct {
	kind requestKind
	done chan error
}

// Open opens the journal in a directory and starts its writer. A line that a
// crash tore at the end of a file is cut off. Two processes can write to one
// directory, each to its own file.
func Open(o Options, log *slog.Logger) (*Journal, error) {
	o = o.withDefaults()
	w := &writer{opts: o, log: log, create: createFile}
	if err := w.start(); err != nil {
		return nil, fmt.Errorf("open audit journal %s: %w; make the directory writable for the gateway, or set audit.dir", o.Dir, err)
	}
	return run(w), nil
}

func run(w *writer) *Journal {
	j := &Journal{
		opts: w.opts, log: w.log,
		wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1),
		requests: make(chan request), done: make(chan struct{}),
	}
	go j.write(w)
	return j
}

// Append hands a record to the writer. It does not wait for the disk.
func (j *Journal) Append(r *Record) error {
	if j.opts.Required && j.failing.Load() {
		j.lost.Add(1)
		return ErrFull
	}
	j.mu.Lock()
	n := len(j.queue) + 1
	closed, full := j.closed, n+j.held > j.opts.Queue
	if !closed && !full {
		j.queue = append(j.queue, r)
	}
	j.mu.Unlock()

	switch {
	case closed:
		j.lost.Add(1)
		return ErrClosed
	case full:
		j.lost.Add(1)
		if j.opts.Required {
			return ErrFull
		}
		return nil
	case n == 1:
		signal(j.wake)
	case n == j.opts.Queue/4:
		signal(j.urgent)
	}
	return nil
}

// signal never waits: one signal that is not yet seen is as good as two.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Sync returns when every record appended before it is on the disk, or with
// the error that keeps it from getting there.
func (j *Journal) Sync() error { return j.request(syncRequest) }

// Reopen goes on in a new file, for a tool that moved the old one away.
func (j *Journal) Reopen() error { return j.request(reopenRequest) }

// Close writes what waits, and closes the file. Records that the disk still
// refuses are lost, and said in the error.
func (j *Journal) Close() error { return j.request(closeRequest) }

func (j *Journal) request(kind requestKind) error {
	r := request{kind, make(chan error, 1)}
	select {
	case j.requests <- r:
		return <-r.done
	case <-j.done:
		if kind == closeRequest {
			return nil
		}
		return ErrClosed
	}
}

// Stats returns the counts of now.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	queued := len(j.queue) + j.held
	j.mu.Unlock()
	return Stats{Written: j.written.Load(), Lost: j.lost.Load(), Errors: j.errors.Load(), Queued: queued}
}
