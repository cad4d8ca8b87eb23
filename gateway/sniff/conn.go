// Package sniff says what the first bytes of a connection are, without taking
// them away: TLS, HTTP, SOCKS or STUN.
package sniff

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

// MaxPeek is the most that Peek looks ahead: a ClientHello of the greatest
// size accepted (MaxHello), and some bytes that came right behind it.
const MaxPeek = MaxHello + blockSize

// ErrPeekTooLong says that Peek was asked for more than MaxPeek bytes.
var ErrPeekTooLong = errors.New("peek: more bytes than may be held back")

// blockSize is the size of a first buffer. The largest ClientHello of a
// browser seen in practice had 2,331 bytes; a hello and its early data fit.
const blockSize = 4 << 10

var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// Conn is a net.Conn that can be looked into before it is read. Until the
// looking is done it belongs to one goroutine; then Read, Write and Close may
// be called from several, as of any net.Conn. A Conn that is never looked into
// holds no buffer.
type Conn struct {
	net.Conn
	buf   []byte           // read from Conn, not yet given out: a window into block or into a larger slice
	block *[blockSize]byte // from the pool; nil if buf lies elsewhere
	err   error            // what the connection below ended with, due when buf is empty
}

// NewConn wraps c.
func NewConn(c net.Conn) *Conn { return &Conn{Conn: c} }

// Peek returns the next n bytes without taking them, waiting until they are
// there. If it can not get n bytes it returns what there is, with the error. A
// deadline that passes loses nothing: the bytes are there for the next call.
// The slice is valid until the next call.
func (c *Conn) Peek(n int) ([]byte, error) {
	if n > MaxPeek {
		return c.buf, ErrPeekTooLong
	}
	for stalled := 0; len(c.buf) < n; {
		if c.err != nil {
			return c.buf, c.err
		}
		c.grow(n)
		had := len(c.buf)
		got, err := c.Conn.Read(c.buf[had:cap(c.buf)])
		c.buf = c.buf[:had+got]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			c.err = err
		}
		if len(c.buf) >= n {
			break
		}
		if err != nil {
			c.release()
			return c.buf, err
		}
		if stalled++; got > 0 {
			stalled = 0
		} else if stalled == 100 {
			return c.buf, io.ErrNoProgress
		}
	}
	return c.buf[:n], nil
}

// grow makes the window wide enough for n bytes, with at least one free.
func (c *Conn) grow(n int) {
	switch {
	case cap(c.buf) >= n && cap(c.buf) > len(c.buf):
	case c.block == nil && len(c.buf) == 0 && n <= blockSize:
		c.block = blocks.Get().(*[blockSize]byte)
		c.buf = c.block[:0]
	case c.block != nil && n <= blockSize:
		c.buf = c.block[:copy(c.block[:], c.buf)]
	default:
		// Doubling keeps what is copied linear in what is read.
		c.move(make([]byte, len(c.buf), max(n, min(2*cap(c.buf), MaxPeek))))
	}
}

// move makes to, which has the length of the window, the new window.
func (c *Conn) move(to []byte) {
	copy(to[len(to)-len(c.buf):], c.buf)
	c.putBlock()
	c.buf = to
}

// release gives the buffer back if nothing is left in it.
func (c *Conn) release() {
	if len(c.buf) == 0 {
		c.putBlock()
		c.buf = nil
	}
}

func (c *Conn) putBlock() {
	if c.block != nil {
		blocks.Put(c.block)
		c.block = nil
	}
}

// Buffered returns the bytes that were read from the connection below and not
// yet given out. The slice is valid until the next call.
func (c *Conn) Buffered() []byte { return c.buf }

// Discard drops the next n buffered bytes, or all of them if there are fewer.
func (c *Conn) Discard(n int) {
	c.buf = c.buf[min(n, len(c.buf)):]
	c.release()
}

// Unread puts a copy of b before everything that is still to be read.
func (c *Conn) Unread(b []byte) {
	if len(b) == 0 {
		return
	}
	to := make([]byte, len(b)+len(c.buf))
	copy(to, b)
	c.move(to)
}

// Read gives out the buffered bytes first, and then reads from the connection
// below.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.buf) > 0 {
		n := copy(p, c.buf)
		c.Discard(n)
		return n, nil
	}
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

// CloseWrite ends the sending half of the connection below. The error is
// errors.ErrUnsupported if it has no halves.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return fmt.Errorf("close the sending half of %T: %w", c.Conn, errors.ErrUnsupported)
}

// NetConn returns the connection below, as tls.Conn does. Bytes that are
// buffered are not to be had from it.
func (c *Conn) NetConn() net.Conn { return c.Conn }
