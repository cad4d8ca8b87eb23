package httpproxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/flow"
)

// streamConn is a CONNECT stream of HTTP/2 as a net.Conn (RFC 9113 section
// 8.5). A read deadline of net/http2 breaks the stream for good when it
// passes; here it only interrupts a read, as those who look for first bytes
// need it. So a goroutine of its own reads the stream.
//
// END_STREAM of the client ends the reading alone. Ours can only be sent by
// the end of the handler: when the server has closed its sending half, the
// stream ends, and bytes that the client still sends are dropped.
type streamConn struct {
	w     http.ResponseWriter
	body  io.ReadCloser
	rc    *http.ResponseController
	local net.Addr
	peer  net.Addr

	pieces chan []byte   // what was read; closed at the end
	back   chan []byte   // buffers that were read to their end
	rest   []byte        // of the last piece
	buf    []byte        // that rest lies in
	err    error         // why pieces ended; valid once it is closed
	over   chan struct{} // Close was called
	once   sync.Once
	ended  atomic.Bool // CloseWrite was called: the server's data is whole

	mu       sync.Mutex
	deadline time.Time
	changed  chan struct{} // closed when the deadline changes
}

const streamPiece = 16 << 10 // the frame size that peers may send unasked

func newStreamConn(w http.ResponseWriter, r *http.Request, in flow.Inbound) *streamConn {
	c := &streamConn{
		w: w, body: r.Body, rc: http.NewResponseController(w),
		local: net.TCPAddrFromAddrPort(in.Local), peer: net.TCPAddrFromAddrPort(in.Client),
		pieces: make(chan []byte), back: make(chan []byte, 1), over: make(chan struct{}),
		changed: make(chan struct{}),
	}
	c.back <- nil
	go c.read()
	return c
}

// read reads the stream. One buffer goes back and forth: no more is read than
// is asked for, so that flow control reaches the client.
func (c *streamConn) read() {
	defer close(c.pieces)
	for {
		var buf []byte
		select {
		case buf = <-c.back:
		case <-c.over:
			return
		}
		if buf == nil {
			buf = make([]byte, streamPiece)
		}
		n, err := c.body.Read(buf[:cap(buf)])
		if n > 0 {
			select {
			case c.pieces <- buf[:n]:
			case <-c.over:
				return
			}
		} else if err == nil {
			c.back <- buf
		}
		if err != nil {
			c.err = err
			return
		}
	}
}

// Read implements net.Conn.
func (c *streamConn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.buf != nil {
			c.back <- c.buf
			c.buf = nil
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// next waits for a piece, the end, or the deadline.
func (c *streamConn) next() error {
	for {
		c.mu.Lock()
		deadline, changed := c.deadline, c.changed
		c.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			d := time.Until(deadline)
			if d <= 0 {
				return os.ErrDeadlineExceeded
			}
			expired = time.After(d)
		}
		select {
		case piece, ok := <-c.pieces:
			if ok {
				c.rest, c.buf = piece, piece
				return nil
			}
			if c.err == nil {
				return net.ErrClosed
			}
			return c.err
		case <-changed:
		case <-expired:
			return os.ErrDeadlineExceeded
		case <-c.over:
			if c.ended.Load() {
				return io.EOF
			}
			return net.ErrClosed
		}
	}
}

// Write implements net.Conn.
func (c *streamConn) Write(p []byte) (int, error) {
	select {
	case <-c.over:
		return 0, net.ErrClosed
	default:
	}
	n, err := c.w.Write(p)
	if err == nil {
		err = c.rc.Flush()
	}
	return n, err
}

// CloseWrite says that all was sent. It ends the reading too: see streamConn.
func (c *streamConn) CloseWrite() error {
	c.ended.Store(true)
	return c.Close()
}

// Close implements net.Conn.
func (c *streamConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		close(c.over)
		err = c.body.Close() // wakes the read
		if !c.ended.Load() {
			c.rc.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // wakes a write that waits for the client, by RST_STREAM
		}
	})
	return err
}

// wait returns when nothing of the connection is at work any more.
func (c *streamConn) wait() {
	for range c.pieces { //nolint:revive // what is left is dropped
	}
}

// LocalAddr implements net.Conn.
func (c *streamConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *streamConn) RemoteAddr() net.Addr { return c.peer }

// SetReadDeadline implements net.Conn.
func (c *streamConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// SetWriteDeadline implements net.Conn. One that passes ends the stream.
func (c *streamConn) SetWriteDeadline(t time.Time) error { return c.rc.SetWriteDeadline(t) }

// SetDeadline implements net.Conn.
func (c *streamConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

var _ net.Conn = (*streamConn)(nil)
