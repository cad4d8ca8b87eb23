package tunnel

import (
	"io"
	"net"
	"time"

	"sluice/gateway/sniff"
)

// A client gets farewellTime, and may send farewellBytes more, to read the
// answer it was refused with.
const (
	farewellTime  = time.Second
	farewellBytes = sniff.MaxPeek + 64<<10 // what was peeked, and what was on its way
)

// Alert answers a client's handshake with a fatal TLS alert and closes c.
func Alert(c net.Conn, alert sniff.Alert) {
	if sniff.WriteAlert(c, alert) != nil {
		Reset(c)
		return
	}
	Farewell(c)
}

// Farewell closes c so that the client can read what was written to it: a
// socket closed with unread bytes resets the connection, and a reset throws
// the answer away. It takes a second at most.
func Farewell(c net.Conn) {
	defer c.Close()
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(farewellTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c, farewellBytes) // over either way
}

// Reset closes c with a TCP reset where it can, so that the client does not
// take it for the end of an answer.
func Reset(c net.Conn) {
	below := c
	if peeked, ok := c.(*sniff.Conn); ok {
		below = peeked.NetConn()
	}
	if tcp, ok := below.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // closing is what counts
	}
	c.Close()
}
