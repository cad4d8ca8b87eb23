package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice/gateway/audit"
)

const (
	batchSpans    = 512                    // of one export; a span is about 2 kB, and receivers take 4 MB by default
	batchTime     = 100 * time.Millisecond // a batch that is not full waits so long
	exportTimeout = 30 * time.Second
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 10 * time.Second
	complaintIn   = time.Minute // between two log lines about a receiver that is away
)

// pump carries records to an exporter as spans. Unlike the SDK's batch
// processor, which drops spans when the receiver is slow for a moment or away
// for a minute, it holds on to a batch until it is delivered, and drops only
// when its own queue is full, which it counts and says.
type pump struct {
	exporter sdktrace.SpanExporter
	res      *resource.Resource
	log      *slog.Logger

	queue   chan *audit.Record
	ctx     context.Context // ends when Shutdown's patience does
	cancel  context.CancelFunc
	stopped chan struct{}
	once    sync.Once
	workers sync.WaitGroup

	exported, dropped, failures atomic.Int64
	lastComplaint               atomic.Int64 // Unix seconds
	lastDropWord                atomic.Int64
	failing                     atomic.Bool
}

func startPump(e sdktrace.SpanExporter, workers, queue int, res *resource.Resource, log *slog.Logger) *pump {
	p := &pump{exporter: e, res: res, log: log, queue: make(chan *audit.Record, queue), stopped: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for range workers {
		p.workers.Go(p.work)
	}
	return p
}

// must queues a span that has to be exported.
func (p *pump) must(r *audit.Record) {
	select {
	case <-p.stopped:
	default:
		select {
		case p.queue <- r:
			return
		default:
		}
	}
	dropped := p.dropped.Add(1)
	if once(&p.lastDropWord) {
		p.log.Error("telemetry: span of a denied flow dropped, the queue is full: is the OTLP receiver away?",
			"id", r.ID, "dropped", dropped, "queue", cap(p.queue))
	}
}

// may queues a span that is nice to have: it leaves half of the queue to the
// spans that must be exported.
func (p *pump) may(r *audit.Record) {
	if len(p.queue) < cap(p.queue)/2 {
		p.must(r)
	}
}

// once reports true at most once a minute.
func once(last *atomic.Int64) bool {
	now, was := time.Now().Unix(), last.Load()
	return now-was >= int64(complaintIn/time.Second) && last.CompareAndSwap(was, now)
}

// work exports batches until the pump is stopped and the queue is empty. Every
// worker waits for its own batch, so one slow answer does not hold up the rest.
func (p *pump) work() {
	spans := newSpanMaker(p.res)
	for {
		batch := p.next()
		if len(batch) == 0 {
			return
		}
		p.send(spans.make(batch))
	}
}

// next waits for records, and returns none when the pump is stopped.
func (p *pump) next() []*audit.Record {
	var batch []*audit.Record
	select {
	case r := <-p.queue:
		batch = append(batch, r)
	case <-p.stopped:
	}
	full := time.NewTimer(batchTime)
	defer full.Stop()
	for len(batch) < batchSpans {
		select {
		case r := <-p.queue:
			batch = append(batch, r)
			continue
		default:
		}
		select {
		case r := <-p.queue:
			batch = append(batch, r)
		case <-full.C:
			return batch
		case <-p.stopped:
			return batch
		}
	}
	return batch
}

// send exports spans until the receiver has them or the pump's patience ends.
// Spans that a receiver calls invalid, or too many, are halved until the bad ones
// are alone.
func (p *pump) send(spans []sdktrace.ReadOnlySpan) {
	for wait := minBackoff; ; wait = min(wait*2, maxBackoff) {
		ctx, cancel := context.WithTimeout(p.ctx, exportTimeout)
		err := p.exporter.ExportSpans(ctx, spans)
		cancel()
		switch {
		case err == nil:
			p.exported.Add(int64(len(spans)))
			if p.failing.CompareAndSwap(true, false) {
				p.lastComplaint.Store(0)
				p.log.Info("telemetry: spans are exported again", "waiting", len(p.queue))
			}
			return
		case partial(err):
			// The receiver has the batch, less what it did not like.
			p.exported.Add(int64(len(spans)))
			p.complain(err)
			return
		case refused(err) && len(spans) > 1:
			p.send(spans[:len(spans)/2])
			p.send(spans[len(spans)/2:])
			return
		case refused(err):
			p.dropped.Add(1)
			p.log.Error("telemetry: receiver refuses a span", "span", spans[0].SpanContext().SpanID(), "error", err)
			return
		}
		p.failing.Store(true)
		p.complain(err)
		if !p.pause(wait) {
			p.dropped.Add(int64(len(spans)))
			return
		}
	}
}

func (p *pump) complain(err error) {
	p.failures.Add(1)
	if once(&p.lastComplaint) {
		p.log.Warn("telemetry: export of spans", "error", err, "waiting", len(p.queue), "retry", !partial(err))
	}
}

// pause waits about d, or reports false when the pump's patience has ended.
func (p *pump) pause(d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return p.ctx.Err() == nil
	case <-p.ctx.Done():
		return false
	}
}

// partial reports a success that the OTLP exporters return as an error: sending
// the batch again would only double it. Their type for it is internal.
func partial(err error) bool { return strings.Contains(err.Error(), "OTLP partial success") }

// refused reports an answer that no retry will change. Too large a message has
// no code of its own in gRPC: it shares that of an overload.
func refused(err error) bool {
	text := err.Error()
	switch status.Code(err) { // sees through wrapping
	case codes.InvalidArgument:
		return true
	case codes.ResourceExhausted:
		return strings.Contains(text, "larger than max")
	}
	return strings.Contains(text, ": 400 Bad Request") || strings.Contains(text, ": 413 Request Entity Too Large") ||
		strings.Contains(text, "request body too large")
}

// stop exports what is queued until ctx ends.
func (p *pump) stop(ctx context.Context) error {
	before := p.dropped.Load()
	p.once.Do(func() { close(p.stopped) })
	defer context.AfterFunc(ctx, p.cancel)()
	p.workers.Wait()
	p.cancel()
	for len(p.queue) > 0 { // sent while the workers left
		<-p.queue
		p.dropped.Add(1)
	}
	err := p.exporter.Shutdown(ctx)
	if left := p.dropped.Load() - before; left > 0 {
		p.log.Error("telemetry: spans dropped at shutdown", "spans", left)
		return fmt.Errorf("export spans: %d dropped at shutdown: %w", left, errors.Join(context.Cause(ctx), err))
	}
	return err
}
