package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Portable is the engine that works with any net.Conn: two goroutines a flow.
// Between TCP connections an idle flow holds its two descriptors only: buffers
// and pipes are taken when bytes are there, and given back before the next wait.
var Portable Engine = &portable{pipes: newPipePool()}

type portable struct{ pipes *pipePool }

// oneWay bounds the wait for a side that cannot be told, for want of
// CloseWrite, that the other has ended: it may well wait for that very end.
const oneWay = time.Second

// flushTimeout bounds, roughly, the wait for bytes that a reset would discard.
const flushTimeout = time.Second

// ticks is how often the silence of a flow is looked at in one time-out.
const ticks = 4

// tunnel is one flow being relayed.
type tunnel struct {
	pipes          *pipePool
	o              Options
	client, server *side
	up, down       pump
	taken          atomic.Int64 // bytes read, against MaxBytes
	uploading      sync.WaitGroup
	cutting        sync.WaitGroup
	closing        sync.WaitGroup

	mu    sync.Mutex
	over  bool // finish was called: errors from here on are our own doing
	err   error
	limit time.Duration // of silence; 0: none
	word  string        // how a silent flow ends
	timer *time.Timer
	seen  int64 // bytes moved at the last tick
	quiet int   // ticks without a byte
}

func (e *portable) Run(ctx context.Context, client, server net.Conn, o Options) Result {
	t := &tunnel{pipes: e.pipes, o: o, client: newSide(client), server: newSide(server)}
	t.up = pump{t: t, from: t.client, to: t.server, live: o.Sent}
	t.down = pump{t: t, from: t.server, to: t.client, live: o.Received}
	t.limit, t.word = o.idleTimeout(), EndIdle

	t.cutting.Add(1)
	release := context.AfterFunc(ctx, func() {
		defer t.cutting.Done()
		t.finish(EndCut)
	})
	t.startTimer()

	t.uploading.Go(t.up.run)
	t.down.run()
	t.uploading.Wait()

	if !release() {
		t.cutting.Wait()
	}
	return t.result()
}

// result closes what is open still and sums up.
func (t *tunnel) result() Result {
	t.mu.Lock()
	if t.timer != nil {
		t.timer.Stop()
	}
	if !t.over {
		t.over = true
		closeAfter(t.client, t.server)
		closeAfter(t.server, t.client)
	}
	t.mu.Unlock()
	t.closing.Wait()
	return Result{
		Sent: t.up.moved.Load(), Received: t.down.moved.Load(),
		Client: t.client.end, Server: t.server.end,
		Err: t.err,
	}
}

// closeAfter closes s the way the other side ended.
func closeAfter(s, other *side) {
	if other.end == EndReset || other.end == EndError {
		s.abort()
	} else {
		s.close()
	}
}

// finish ends the whole flow: sides that have not ended yet end by word.
func (t *tunnel) finish(word string) {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	t.over = true
	t.closing.Add(1)
	defer t.closing.Done()
	for _, s := range []*side{t.client, t.server} {
		if s.end == "" {
			s.end = word
		}
	}
	t.mu.Unlock()

	// Bytes on their way to a reader that has stopped would keep a closed
	// connection in the kernel for many minutes.
	hard := word == EndCut || word == EndLimit
	for _, p := range []*pump{&t.up, &t.down} {
		if hard || p.writing.Load() {
			p.to.abort()
		} else {
			p.to.close()
		}
	}
}

// broken notes that s is gone by err, and ends the flow: what the other side
// still sends could reach nobody. Bytes from s that are on their way to the
// other side get a moment, since a reset would throw them away.
func (t *tunnel) broken(s, other *side, err error) {
	t.mu.Lock()
	t.note(s, err)
	t.mu.Unlock()
	for wait := time.Millisecond; wait < flushTimeout && other.unsent() > 0 && !t.isOver(); wait *= 2 {
		time.Sleep(wait) //nolint:forbidigo // the kernel tells nobody when a peer has confirmed
	}

	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	t.over = true
	t.closing.Add(1)
	defer t.closing.Done()
	t.mu.Unlock()
	t.client.abort()
	t.server.abort()
}

func (t *tunnel) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}

// refused notes that s takes no more bytes. What it said before it went may
// be there to be read, so the other direction goes on to its end.
func (t *tunnel) refused(s *side, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.note(s, err)
	t.shorten(oneWay)
}

// note keeps how s ended by err. Call it with t.mu held.
func (t *tunnel) note(s *side, err error) {
	if t.over {
		return
	}
	if t.err == nil {
		t.err = err
	}
	if s.end == "" || s.end == EndEOF {
		s.end = endOf(err)
	}
}

// eof notes that from has closed its sending half and tells the other side.
func (t *tunnel) eof(from, to *side) {
	t.mu.Lock()
	if !t.over && from.end == "" {
		from.end = EndEOF
	}
	last := to.end == EndEOF && to.tcp != nil
	t.mu.Unlock()
	if last {
		return // result closes both, which tells a TCP peer the same; other kinds tell an end from a break
	}
	told := to.closeWrite()

	t.mu.Lock()
	defer t.mu.Unlock()
	if half := t.o.halfCloseTimeout(); half > 0 {
		t.shorten(half)
	}
	if !told {
		t.shorten(oneWay)
	}
}

// shorten lowers the limit of silence to d. Call it with t.mu held.
func (t *tunnel) shorten(d time.Duration) {
	if t.over || t.limit > 0 && t.limit <= d {
		return
	}
	t.limit, t.word = d, EndTimeout
	t.seen, t.quiet = t.up.moved.Load()+t.down.moved.Load(), 0
	if t.timer == nil {
		t.timer = time.AfterFunc(d/ticks, t.tick)
	} else {
		t.timer.Reset(d / ticks)
	}
}

func (t *tunnel) startTimer() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit > 0 && !t.over {
		t.timer = time.AfterFunc(t.limit/ticks, t.tick)
	}
}

// tick looks for silence. A counter looked at now and then costs the flow
// nothing; a deadline moved at every read would.
func (t *tunnel) tick() {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	if n := t.up.moved.Load() + t.down.moved.Load(); n != t.seen {
		t.seen, t.quiet = n, 0
	} else {
		t.quiet++
	}
	word, silent := t.word, t.quiet >= ticks
	if !silent {
		t.timer.Reset(t.limit / ticks)
	}
	t.mu.Unlock()
	if silent {
		t.finish(word)
	}
}

// allow says how many of n bytes may still pass under MaxBytes.
func (t *tunnel) allow(n int) int {
	if t.o.MaxBytes <= 0 {
		return n
	}
	over := t.taken.Add(int64(n)) - t.o.MaxBytes
	return n - int(min(max(over, 0), int64(n)))
}

func endOf(err error) string {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		return EndReset
	}
	return EndError
}
