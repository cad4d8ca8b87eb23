// Package sniff says what the first bytes of a connection are, without taking
// them away: TLS, HTTP, SOCKS or STUN.
package sniff

import "net"

// Conn is a net.Conn that can be looked into before it is read. Until the
// looking is done it belongs to one goroutine.
type Conn struct {
	net.Conn
	buf []byte // read from Conn, not yet given out
}

// NewConn wraps c.
func NewConn(c net.Conn) *Conn { return &Conn{Conn: c} }

// Buffered returns the bytes that were read from the connection below and not
// yet given out. The slice is valid until the next call.
func (c *Conn) Buffered() []byte { return c.buf }

// NetConn returns the connection below, as tls.Conn does.
func (c *Conn) NetConn() net.Conn { return c.Conn }
