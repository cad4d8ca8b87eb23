package relay

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// peeked is a connection that was looked into: it holds bytes that were read
// from the connection below and not yet given out.
type peeked interface {
	Buffered() []byte
	Discard(n int)
	NetConn() net.Conn
}

type closeWriter interface{ CloseWrite() error }

// side is one of the two connections of a flow.
type side struct {
	outer net.Conn     // as given: this one is closed
	conn  net.Conn     // the connection below all that was peeked
	tcp   *net.TCPConn // conn, or nil if it is something else
	raw   syscall.RawConn
	first []peeked // wrappers that hold bytes to be sent to the other side before all else

	end string // an End word; guarded by tunnel.mu
}

// newSide unwraps c. The bytes held by an outer wrapper were read before those
// of an inner one.
func newSide(c net.Conn) *side {
	s := &side{outer: c, conn: c}
	for {
		p, ok := s.conn.(peeked)
		if !ok {
			break
		}
		if len(p.Buffered()) > 0 {
			s.first = append(s.first, p)
		}
		s.conn = p.NetConn()
	}
	if tcp, ok := s.conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			s.tcp, s.raw = tcp, raw
		}
	}
	_ = s.conn.SetDeadline(time.Time{}) // an old deadline of the handshake
	return s
}

// closeWrite passes on the end of the other side, and says whether it could.
func (s *side) closeWrite() bool {
	cw, ok := s.conn.(closeWriter)
	return ok && cw.CloseWrite() == nil
}

// unsent returns how many bytes s has taken that its peer has not confirmed.
func (s *side) unsent() int {
	if s.raw == nil {
		return 0
	}
	n := 0
	_ = s.raw.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	return n
}

// abort closes s at once, by a reset if it is TCP, or TLS over TCP.
func (s *side) abort() {
	below := s.conn
	if t, ok := below.(*tls.Conn); ok {
		below = t.NetConn()
	}
	if tcp, ok := below.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	// Before the outer one: tls.Conn.Close would first wait, for up to 5 s, to
	// write an alert to a peer that may not read.
	below.Close()
	s.outer.Close()
}

func (s *side) close() {
	s.outer.Close()
	s.conn.Close() // a wrapper may leave it open
}
