package httpproxy

import (
	"errors"
	"io"
	"os"
	"time"
)

// Two parties set the guard's read deadline: net/http, which also uses a
// deadline in the past to interrupt a read, and the guard, which gives a head
// one total time. The earlier one counts.

// SetReadDeadline implements net.Conn.
func (g *guard) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = t
	g.wake()
	return g.arm()
}

// SetWriteDeadline implements net.Conn.
func (g *guard) SetWriteDeadline(t time.Time) error { return g.c.SetWriteDeadline(t) }

// SetDeadline implements net.Conn.
func (g *guard) SetDeadline(t time.Time) error {
	return errors.Join(g.SetReadDeadline(t), g.SetWriteDeadline(t))
}

// arm puts the deadline in force. The caller holds mu.
func (g *guard) arm() error {
	t := g.asked
	if !g.own.IsZero() && (t.IsZero() || g.own.Before(t)) {
		t = g.own
	}
	return g.c.SetReadDeadline(t)
}

// startHead begins the time of a head at its first byte. The first head of a
// connection has it from the start.
func (g *guard) startHead() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.own.IsZero() {
		g.own = time.Now().Add(g.limits.head)
		g.arm()
	}
}

// startBody gives the next bytes of a body their time.
func (g *guard) startBody() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.own = time.Now().Add(g.limits.stall)
	if !g.message.IsZero() && g.message.Before(g.own) {
		g.own = g.message
	}
	g.arm()
}

// hurry gives what is left of a body, which nobody waits for any more, no more
// time than a head.
func (g *guard) hurry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.message = time.Now().Add(g.limits.head)
	if !g.own.IsZero() && g.message.Before(g.own) {
		g.own = g.message
		g.arm()
	}
}

// endBody makes ready for the next head. Until that begins only net/http's
// deadline counts: the connection may be idle.
func (g *guard) endBody() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state, g.own = atHead, time.Time{}
	g.arm()
}

// late reports whether err means that the guard's own deadline has passed.
func (g *guard) late(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.own.IsZero() && !time.Now().Before(g.own) && (g.asked.IsZero() || g.own.Before(g.asked))
}

// awaitUpgrade waits for the handler's answer to an upgrade, as a read of a
// quiet connection would: the bytes that come meanwhile may be frames.
func (g *guard) awaitUpgrade() error {
	if _, err := g.c.Peek(1); err != nil {
		return err
	}
	if err := g.await(func() bool { return !g.held }); err != nil {
		return err
	}
	g.state = atHead
	return nil
}

// await waits until ready, which is called with mu held, or until net/http
// interrupts the read.
func (g *guard) await(ready func() bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !ready() {
		select {
		case <-g.closed:
			return io.EOF
		default:
		}
		if !g.asked.IsZero() && !time.Now().Before(g.asked) {
			return os.ErrDeadlineExceeded
		}
		g.waitChange()
	}
	return nil
}

// waitChange gives mu up until something changes. A deadline in the future
// needs no timer here: net/http sets none while a handler is at work.
func (g *guard) waitChange() {
	changed := make(chan struct{})
	g.changed = changed
	g.mu.Unlock()
	<-changed
	g.mu.Lock()
}

// wake ends the waits. The caller holds mu.
func (g *guard) wake() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}
