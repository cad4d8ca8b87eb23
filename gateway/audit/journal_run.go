package audit

import (
	"fmt"
	"time"
)

const (
	gatherTime  = 10 * time.Millisecond // records are collected for so long, to write them with one call
	syncEvery   = 500 * time.Millisecond
	retryEvery  = 500 * time.Millisecond
	sweepEvery  = 10 * time.Minute // retention, beside that at each new file
	chunkBytes  = 1 << 20          // of one write
	complaintIn = time.Minute      // between two log lines about a failing disk
)

// write is the writer: the one goroutine that touches files.
func (j *Journal) write(w *writer) {
	defer close(j.done)
	var batch []*Record // taken from the queue, not yet written
	sync := newAlarm()
	retry := newAlarm()
	sweep := newAlarm()
	sweep.set(sweepEvery)

	// A retry ends in a flush, which is what finds the disk well again: without
	// it a journal that is required would refuse flows for ever.
	again := func(err error) error {
		if err != nil {
			retry.set(retryEvery)
		}
		return err
	}
	flush := func() error {
		err := again(j.flush(w, &batch))
		if w.dirty {
			sync.set(syncEvery)
		}
		return err
	}
	for {
		select {
		case <-j.wake:
			j.gather()
			if !retry.armed {
				flush()
			}
		case <-retry.fired():
			retry.armed = false
			flush()
		case <-sync.fired():
			sync.armed = false
			again(j.sync(w))
		case <-sweep.fired():
			w.sweep()
			sweep.set(sweepEvery)
		case r := <-j.requests:
			err := flush()
			switch r.kind {
			case syncRequest:
				if err == nil {
					err = again(j.sync(w))
				}
			case reopenRequest:
				err = w.rotate(time.Now())
			case closeRequest:
				r.done <- j.finish(w, &batch)
				return
			}
			r.done <- err
		}
	}
}

// gather waits a moment for more records, unless many are there already.
func (j *Journal) gather() {
	t := time.NewTimer(gatherTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-j.urgent:
	}
}

// flush writes the batch and what is queued, until nothing is left.
func (j *Journal) flush(w *writer, batch *[]*Record) error {
	for {
		for len(*batch) > 0 {
			n, err := w.writeSome(*batch)
			if err != nil {
				j.failed(w, err)
				return err
			}
			j.mu.Lock()
			j.held -= n
			j.mu.Unlock()
			j.written.Add(int64(n))
			*batch = (*batch)[n:]
		}
		j.mu.Lock()
		*batch, j.queue = j.queue, nil
		j.held = len(*batch)
		j.mu.Unlock()
		if len(*batch) == 0 {
			break
		}
	}
	if err := w.writeLost(j.lost.Load()); err != nil {
		j.failed(w, err)
		return err
	}
	if j.failing.CompareAndSwap(true, false) {
		j.log.Info("audit journal writes again", "dir", w.opts.Dir, "lost", j.lost.Load())
	}
	return nil
}

func (j *Journal) sync(w *writer) error {
	err := w.sync()
	if err != nil {
		j.failed(w, err)
	}
	return err
}

func (j *Journal) failed(w *writer, err error) {
	j.errors.Add(1)
	j.failing.Store(true)
	if now := time.Now(); now.Sub(w.complained) >= complaintIn {
		w.complained = now
		s := j.Stats()
		j.log.Error("audit journal can not write", "dir", w.opts.Dir, "error", err, "waiting", s.Queued, "lost", s.Lost)
	}
}

// finish is Close: nothing more is taken, and the rest is written if it can be.
func (j *Journal) finish(w *writer, batch *[]*Record) error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()

	err := j.flush(w, batch)
	if left := j.Stats().Queued; left > 0 {
		j.lost.Add(int64(left))
		err = fmt.Errorf("close audit journal: %d records lost: %w", left, err)
	}
	if cerr := w.close(); err == nil {
		err = cerr
	}
	return err
}

// alarm is a timer that can be looked at while it is not set.
type alarm struct {
	t     *time.Timer
	armed bool
}

func newAlarm() *alarm {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &alarm{t: t}
}

// set starts the alarm, unless it runs already.
func (a *alarm) set(d time.Duration) {
	if !a.armed {
		a.armed = true
		a.t.Reset(d)
	}
}

func (a *alarm) fired() <-chan time.Time { return a.t.C }
