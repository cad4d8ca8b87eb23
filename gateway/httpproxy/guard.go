package httpproxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"sluice/gateway/sniff"
)

// A guard stands between one client's connection and net/http. Its Read gives
// out only bytes of messages whose heads and framing passed our own parser, so
// that no second parser can see another message in them. For a message that
// did not pass it gives out a request of its own making, which keeps its place
// in the order of answers, and the handler learns from take what it stands for.
//
// A CONNECT request is not given out at all: when all requests before it are
// answered, net/http sees the end of the connection, and Door.Serve goes on
// with the guard's connect.
type guard struct {
	reading sync.Mutex // held by Read: net/http reads in a goroutine of its own too

	c      *sniff.Conn
	limits limits
	taken  bool // of the handler: the connection is not net/http's any more

	// Of the reading goroutine.
	state  state
	out    string // checked bytes, not yet given out
	left   int64  // of the body or the chunk
	budget int    // of trailer bytes
	scan   headScan
	blank  bool // an empty line before this request was skipped

	mu      sync.Mutex
	asked   time.Time // read deadline that net/http wants
	own     time.Time // read deadline of the message that is being read
	message time.Time // deadline for the rest of a body that nobody waits for
	changed chan struct{}
	heads   []verdict // given out, not yet taken by the handler
	busy    int       // given out, not yet answered
	held    bool      // an upgrade is not yet answered
	broken  error     // why a body was cut short
	connect *Head
	closed  chan struct{}
}

// verdict is what the parser made of one request.
type verdict struct {
	head *Head
	err  *HeadError // head is nil
}

type limits struct {
	head  time.Duration // for a whole request head
	stall time.Duration // for the next byte of a body
	bytes int           // of a head
}

type state uint8

const (
	atHead state = iota
	inBody
	atChunk
	inChunk
	afterChunk
	inTrailer
	atUpgrade // nothing is read until the handler has answered
	atConnect
	atEnd
)

// standIn takes the place of a request that is not fit to be given out.
const standIn = "GET http://-/ HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n"

func newGuard(c *sniff.Conn, l limits) *guard {
	g := &guard{c: c, limits: l, closed: make(chan struct{})}
	g.own = time.Now().Add(l.head)
	g.c.SetReadDeadline(g.own)
	return g
}

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	g.reading.Lock()
	defer g.reading.Unlock()
	for {
		if g.out != "" {
			n := copy(p, g.out)
			g.out = g.out[n:]
			return n, nil
		}
		var err error
		switch g.state {
		case atHead:
			err = g.readHead()
		case inBody, inChunk:
			if g.left > 0 {
				return g.readBody(p)
			}
			if g.state == inChunk {
				g.state = afterChunk
			} else {
				g.endBody()
			}
		case atChunk, afterChunk, inTrailer:
			err = g.readChunkFrame()
		case atUpgrade:
			err = g.awaitUpgrade()
		case atConnect:
			err = g.await(func() bool { return g.busy == 0 })
			if err == nil {
				err = io.EOF
			}
		case atEnd:
			// Also behind a fault that fail has told: to anything but an end
			// net/http would write an answer of its own.
			err = io.EOF
		}
		if err != nil {
			return 0, err
		}
	}
}

// takeBack ends the read that net/http may have left behind, so that the
// connection can be read without the guard.
func (g *guard) takeBack() {
	g.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // then the connection is closed, and no read waits
	g.reading.Lock()
	g.reading.Unlock() //nolint:staticcheck // SA2001: to wait is all that is wanted
}

// readHead reads one head, and makes it, or what stands in for it, ready to be
// given out.
func (g *guard) readHead() error {
	for {
		b := g.c.Buffered()
		if !g.blank && len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
			g.blank = true // RFC 9112 section 2.2
			g.c.Discard(2)
			g.scan = headScan{}
			continue
		}
		end, fault := g.scan.next(b[:min(len(b), g.limits.bytes)])
		switch {
		case fault != nil:
			return g.refuse(fault)
		case end > 0:
			return g.accept(end)
		case len(b) >= g.limits.bytes && g.scan.line == 0:
			return g.refuse(&HeadError{http.StatusRequestURITooLong, "a request line without an end"})
		case len(b) >= g.limits.bytes:
			return g.refuse(&HeadError{http.StatusRequestHeaderFieldsTooLarge, "a request head that is too large"})
		}
		if len(b) > 0 {
			g.startHead()
		}
		if _, err := g.c.Peek(len(b) + 1); err != nil {
			if g.late(err) {
				return g.refuse(&HeadError{http.StatusRequestTimeout, "the request did not come in time"})
			}
			if len(b) > 0 && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// accept parses the head in the first n buffered bytes.
func (g *guard) accept(n int) error {
	raw := string(g.c.Buffered()[:n])
	head, err := ParseHead(raw)
	if fault := (*HeadError)(nil); errors.As(err, &fault) {
		return g.refuse(fault)
	}
	g.c.Discard(n)
	g.scan, g.blank = headScan{}, false
	g.left, g.budget = head.Length, maxTrailer

	g.mu.Lock()
	defer g.mu.Unlock()
	g.own, g.message = time.Time{}, time.Time{}
	g.arm()
	if head.Method == http.MethodConnect {
		g.connect, g.state = head, atConnect
		return nil
	}
	switch {
	case head.WebSocket:
		g.state, g.held = atUpgrade, true
	case head.Length < 0:
		g.state = atChunk
	case head.Length > 0:
		g.state = inBody
	}
	g.out = raw
	g.heads = append(g.heads, verdict{head: head})
	g.busy++
	return nil
}

// refuse gives out the stand-in, the last message of the connection.
func (g *guard) refuse(fault *HeadError) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.own = time.Time{}
	g.heads = append(g.heads, verdict{err: fault})
	g.busy++
	g.out, g.state = standIn, atEnd
	return nil
}

func (g *guard) readBody(p []byte) (int, error) {
	g.startBody()
	n, err := g.c.Read(p[:min(int64(len(p)), g.left)])
	g.left -= int64(n)
	if err != nil && g.late(err) {
		err = g.fail(&HeadError{http.StatusRequestTimeout, "the request body stopped coming"})
	}
	return n, err
}

// readChunkFrame reads one line between the data of chunks.
func (g *guard) readChunkFrame() error {
	limit := maxChunkLine
	if g.state == inTrailer {
		limit = g.budget
	}
	line, err := g.readLine(limit)
	if err != nil {
		return err
	}
	switch g.state {
	case atChunk:
		if g.left, err = parseChunkLine(line); err == nil && g.left == 0 {
			g.state = inTrailer
		} else {
			g.state = inChunk
		}
	case afterChunk:
		if line != "" {
			err = bad("more data than the chunk size said")
		}
		g.state = atChunk
	case inTrailer:
		if g.budget -= len(line) + 2; line == "" {
			g.endBody()
		} else {
			err = parseTrailer(line)
		}
	}
	if err != nil {
		return g.fail(err)
	}
	g.out = line + "\r\n"
	return nil
}

// readLine takes one line, of at most limit bytes with its end, off the
// connection.
func (g *guard) readLine(limit int) (string, error) {
	g.startBody()
	for at := 0; ; {
		b := g.c.Buffered()
		for ; at < len(b) && at < limit; at++ {
			switch {
			case b[at] == '\n' && (at == 0 || b[at-1] != '\r'):
				return "", g.fail(bad("a line that ends in a bare LF in a chunked body"))
			case b[at] == '\n':
				line := string(b[:at-1])
				g.c.Discard(at + 1)
				return line, nil
			case at > 0 && b[at-1] == '\r':
				return "", g.fail(bad("a bare CR in a chunked body"))
			}
		}
		if at >= limit {
			return "", g.fail(bad("a line that is too long in a chunked body"))
		}
		if _, err := g.c.Peek(len(b) + 1); err != nil {
			if g.late(err) {
				err = g.fail(&HeadError{http.StatusRequestTimeout, "the request body stopped coming"})
			}
			return "", err
		}
	}
}

// fail ends the connection's reading: what follows can not be told apart.
func (g *guard) fail(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.broken, g.state = err, atEnd
	return err
}

// fault returns why a body was cut short, or nil.
func (g *guard) fault() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.broken
}

// take returns the verdict on the oldest request that was given out. net/http
// calls its handler once for each, in order.
func (g *guard) take() (verdict, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.heads) == 0 {
		return verdict{}, false
	}
	v := g.heads[0]
	g.heads = g.heads[1:]
	return v, true
}

// done says that a request was answered.
func (g *guard) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy--
	g.held = false
	g.wake()
}

// Write implements net.Conn.
func (g *guard) Write(p []byte) (int, error) { return g.c.Write(p) }

// CloseWrite ends the sending half.
func (g *guard) CloseWrite() error { return g.c.CloseWrite() }

// Close implements net.Conn. It leaves the connection open: that belongs to
// Door.Serve.
func (g *guard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.closed:
		return net.ErrClosed
	default:
		close(g.closed)
		g.wake()
		return nil
	}
}

// LocalAddr implements net.Conn.
func (g *guard) LocalAddr() net.Addr { return g.c.LocalAddr() }

// RemoteAddr implements net.Conn.
func (g *guard) RemoteAddr() net.Addr { return g.c.RemoteAddr() }

var _ net.Conn = (*guard)(nil)
