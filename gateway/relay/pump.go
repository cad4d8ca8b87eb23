package relay

import (
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// bufferSize holds two TLS records, and most of what a chatty flow sends.
	bufferSize = 32 << 10

	// A read that fills a buffer shows a stream worth a pipe; a splice that
	// finds less than this shows that it no longer is.
	spliceMin = 8 << 10

	// turn is how many bytes a stream moves before others get the processor.
	turn = 1 << 20
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// errLimit ends a pump whose flow has used up its MaxBytes.
var errLimit = errors.New("byte limit reached")

// pump moves the bytes of one direction.
type pump struct {
	t        *tunnel
	from, to *side
	live     *atomic.Int64 // of the caller, or nil
	moved    atomic.Int64
	writing  atomic.Bool // bytes are held that the reader has not taken

	// What the last read got: err, or n bytes in either buf or pipe.
	n    int
	err  error
	buf  *[bufferSize]byte
	pipe *pipe

	bulk     bool // the next read goes to a pipe
	noSplice bool // the kernel will not for this connection
	turned   int  // bytes since others last got the processor
}

// run moves bytes until the reading or the writing side ends.
func (p *pump) run() {
	rerr, werr := p.loop()
	p.drop()
	switch {
	case errors.Is(werr, errLimit):
		p.t.finish(EndLimit)
	case werr != nil:
		p.t.refused(p.to, werr)
	case rerr == io.EOF:
		p.t.eof(p.from, p.to)
	default:
		p.t.broken(p.from, p.to, rerr)
	}
}

func (p *pump) loop() (rerr, werr error) {
	for _, held := range p.from.first {
		// Nobody else has the wrapper: its buffer is good until Discard.
		if err := p.write(held.Buffered()); err != nil {
			return nil, err
		}
		held.Discard(len(held.Buffered()))
	}
	p.from.first = nil
	if p.from.tcp == nil {
		return p.loopAny()
	}
	try := p.tryRead // made once: a method value is an allocation
	drain := p.tryWrite
	for {
		if err := p.from.raw.Read(try); err != nil {
			return err, nil
		}
		if p.err != nil {
			return p.err, nil
		}
		var err error
		if p.pipe != nil {
			err = p.splice(drain)
		} else {
			err = p.write(p.buf[:p.n])
			p.bulk = p.n == bufferSize && !p.noSplice && p.to.tcp != nil
		}
		if err != nil {
			return nil, err
		}
		p.drop()
		p.yield()
	}
}

// loopAny reads from a connection that cannot be waited for without a buffer.
func (p *pump) loopAny() (rerr, werr error) {
	p.buf = buffers.Get().(*[bufferSize]byte)
	for {
		n, rerr := p.from.conn.Read(p.buf[:])
		if err := p.write(p.buf[:n]); err != nil {
			return nil, err
		}
		if rerr != nil {
			return rerr, nil
		}
	}
}

// tryRead takes what is there, or gives back what it holds and asks to be
// called again when there is something.
func (p *pump) tryRead(fd uintptr) bool {
	for {
		if p.bulk && p.pipe == nil {
			if p.pipe = p.t.pipes.get(); p.pipe == nil {
				p.bulk = false // no descriptor to spare: copy this time
			}
		}
		if p.bulk {
			p.n, p.err = p.pipe.fill(int(fd))
		} else {
			if p.buf == nil {
				p.buf = buffers.Get().(*[bufferSize]byte)
			}
			p.n, p.err = syscall.Read(int(fd), p.buf[:])
		}
		switch {
		case p.err == syscall.EINTR:
			continue
		case p.err == syscall.EAGAIN:
			p.drop()
			return false
		case p.err == syscall.EINVAL && p.bulk:
			p.bulk, p.noSplice = false, true
			p.drop()
			continue
		case p.err == nil && p.n == 0:
			p.err = io.EOF
		}
		return true
	}
}

// splice empties the pipe into the writing side, as far as MaxBytes allows.
func (p *pump) splice(drain func(uintptr) bool) error {
	got := p.n
	p.n = p.t.allow(got)
	short := p.n < got
	p.bulk = got >= spliceMin
	p.writing.Store(true)
	defer p.writing.Store(false)
	for p.n > 0 {
		if err := p.to.raw.Write(drain); err != nil {
			return err
		}
		if p.err != nil {
			return p.err
		}
	}
	if short {
		return errLimit
	}
	return nil
}

// tryWrite moves bytes from the pipe until it is empty or the reader is full.
func (p *pump) tryWrite(fd uintptr) bool {
	for p.n > 0 {
		n, err := p.pipe.drain(int(fd), p.n)
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EAGAIN {
			return false
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if p.err = err; err != nil {
			return true
		}
		p.n -= n
		p.count(n)
	}
	return true
}

func (p *pump) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n := p.t.allow(len(b))
	p.writing.Store(true)
	wrote, err := p.to.conn.Write(b[:n])
	p.writing.Store(false)
	p.count(wrote)
	if err == nil && n < len(b) {
		return errLimit
	}
	return err
}

func (p *pump) count(n int) {
	p.moved.Add(int64(n))
	p.turned += n
	if p.live != nil {
		p.live.Add(int64(n))
	}
}

// drop gives back what the last read was in.
func (p *pump) drop() {
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf = nil
	}
	if p.pipe != nil {
		p.t.pipes.put(p.pipe)
		p.pipe = nil
	}
}

// yield lets others run: the netpoller is asked seldom while a goroutine that
// never waits holds the processor, and small flows would be late by that.
func (p *pump) yield() {
	if p.turned >= turn {
		p.turned = 0
		runtime.Gosched()
	}
}
