package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second

	// shedAfter is how long descriptors may be short before clients are turned
	// away: a short wait in the kernel's queue is better than a refusal, a long
	// one is worse.
	shedAfter = time.Second
)

// Serve accepts connections until ctx ends or the listener is closed, and
// calls handle with ctx for each, in a goroutine of its own. A connection is
// closed when handle returns. Serve does not wait for the handlers: Close does.
// It fails only if the socket itself is broken.
func (l *Listener) Serve(ctx context.Context, handle func(context.Context, net.Conn)) error {
	defer context.AfterFunc(ctx, l.StopAccepting)()
	a := acceptor{l: l}
	for {
		c, err := a.accept(ctx)
		switch {
		case l.closed.Load():
			if c != nil {
				c.Close()
			}
			return nil
		case err != nil:
			return fmt.Errorf("listener %q: %w", l.o.Name, err)
		case c != nil:
			l.start(ctx, c, handle)
		}
	}
}

// start hands c to its handler, or turns it away.
func (l *Listener) start(ctx context.Context, c net.Conn, handle func(context.Context, net.Conn)) {
	s, key := l.shardOf(c.RemoteAddr())
	if limit := l.admit(s, key, c); limit != "" {
		l.refuse(c, limit)
		return
	}
	l.mu.Lock()
	if l.closed.Load() {
		l.mu.Unlock()
		l.forget(s, key, c)
		c.Close()
		return
	}
	l.handlers.Add(1)
	l.mu.Unlock()
	go func() {
		defer l.handlers.Done()
		defer l.forget(s, key, c)
		defer c.Close()
		handle(ctx, c)
	}()
}

func (l *Listener) refuse(c net.Conn, limit Limit) {
	if l.o.Refused != nil {
		l.o.Refused(c, limit)
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // leaves nothing in the kernel either
	}
	c.Close()
}

// StopAccepting closes the socket. Connections being handled go on.
func (l *Listener) StopAccepting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Swap(true) {
		return
	}
	l.net.Close() //nolint:errcheck // nothing is lost with it
	if l.reserve != nil {
		l.reserve.Close()
	}
}

// Close stops accepting and waits for the handlers. When ctx ends before
// they do, it closes their connections, and returns the context's error
// without waiting longer.
func (l *Listener) Close(ctx context.Context) error {
	l.StopAccepting()
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		l.handlers.Wait()
	}()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	n := l.closeAll()
	return fmt.Errorf("listener %q: %d connections closed: %w", l.o.Name, n, ctx.Err())
}

// acceptor accepts, with what it must remember between troubles.
type acceptor struct {
	l       *Listener
	backoff time.Duration
	since   time.Time // the trouble's begin; zero: none
	refused int       // clients turned away in it
}

// accept returns a connection, or nothing if it is to be called again, or the
// error that ends the listener.
func (a *acceptor) accept(ctx context.Context) (net.Conn, error) {
	c, err := a.l.net.Accept()
	if err == nil {
		return a.accepted(ctx, c), nil
	}
	if a.l.closed.Load() {
		return nil, nil
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EBADF) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSOCK) {
		return nil, err
	}
	if a.since.IsZero() {
		a.since = time.Now()
		a.l.log.WarnContext(ctx, "accept: waiting", "listener", a.l.o.Name, "error", err)
	}
	// With the reserve given up the next accept succeeds, or waits for a client.
	if outOfFiles(err) && time.Since(a.since) >= shedAfter && a.l.giveReserve() {
		return nil, nil
	}
	a.wait(ctx)
	return nil, nil
}

// accepted returns c if it can be handled. If the reserve can not be had back
// there was no other descriptor for c than that one: c is turned away.
func (a *acceptor) accepted(ctx context.Context, c net.Conn) net.Conn {
	if !a.l.takeReserve() {
		a.refused++
		a.l.refuse(c, LimitDescriptors)
		a.l.takeReserve()
		return nil
	}
	if !a.since.IsZero() {
		a.l.log.InfoContext(ctx, "accept: going on", "listener", a.l.o.Name,
			"after", time.Since(a.since).Round(time.Millisecond), "turned_away", a.refused)
		*a = acceptor{l: a.l}
	}
	return c
}

func (a *acceptor) wait(ctx context.Context) {
	a.backoff = min(max(2*a.backoff, minBackoff), maxBackoff)
	t := time.NewTimer(a.backoff)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// outOfFiles says that no descriptor is left, to the process or the machine.
func outOfFiles(err error) bool { return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) }

// giveReserve frees the reserved descriptor, if it is held.
func (l *Listener) giveReserve() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reserve == nil {
		return false
	}
	l.reserve.Close()
	l.reserve = nil
	return true
}

// takeReserve holds a descriptor in reserve again, if it can.
func (l *Listener) takeReserve() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reserve != nil || l.closed.Load() {
		return true
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		return false
	}
	l.reserve = f
	return true
}
