// Package relay moves the bytes of an allowed flow, both ways, to the end of
// both sides.
//
// It decides nothing and dials nothing: it takes two connections that belong
// to it from then on, and gives back how many bytes went each way and how
// each side ended. A half-close is passed on as a half-close and a reset as a
// reset, a silent flow ends after a bounded time, and both connections are
// closed when Run returns.
package relay

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// The ways a side ends, in the words of a flow's record.
const (
	EndEOF     = "eof"     // it closed its sending half
	EndReset   = "reset"   // it reset the connection, or took no more bytes
	EndIdle    = "idle"    // no byte either way for the idle time-out
	EndTimeout = "timeout" // half-closed, and no byte for the half-close time-out
	EndError   = "error"   // any other error: see Result.Err
	EndLimit   = "limit"   // MaxBytes is used up
	EndCut     = "cut"     // the context ended; context.Cause says why
)

const (
	defaultIdleTimeout = time.Hour // gRPC and notification channels are silent for long
	defaultHalfClose   = 5 * time.Minute
)

// Options of one relayed flow. The zero value is usable.
type Options struct {
	// IdleTimeout ends a flow that moved no byte either way for so long; a
	// reader that takes no bytes counts as silence. It is kept coarsely: the
	// end comes at most a quarter of it late. If zero, one hour. If negative,
	// there is none.
	IdleTimeout time.Duration

	// HalfCloseTimeout takes the place of IdleTimeout, if it is shorter, once
	// one side has closed its sending half. If zero, five minutes. If
	// negative, IdleTimeout stays in force.
	HalfCloseTimeout time.Duration

	// MaxBytes is how many bytes may pass, both ways together. At the first
	// byte more the flow is cut. If zero or negative, there is no limit.
	MaxBytes int64

	// Sent and Received, if not nil, grow while bytes pass: from the client to
	// the server, and from the server to the client.
	Sent, Received *atomic.Int64

	// Engine does the work. If nil, Portable.
	Engine Engine
}

func (o *Options) idleTimeout() time.Duration {
	if o.IdleTimeout == 0 {
		return defaultIdleTimeout
	}
	return max(o.IdleTimeout, 0)
}

// halfCloseTimeout returns 0 if IdleTimeout is to stay in force.
func (o *Options) halfCloseTimeout() time.Duration {
	if o.HalfCloseTimeout == 0 {
		return defaultHalfClose
	}
	return max(o.HalfCloseTimeout, 0)
}

// Result is what there is to say about a flow at its end.
type Result struct {
	Sent     int64 // bytes from the client that the server's connection took
	Received int64 // bytes from the server that the client's connection took

	// Client and Server say how each side ended, in one of the End words. A
	// side that did not end by itself, but was closed because the other was
	// reset or broken, has none: it is the empty string.
	Client, Server string

	// Err is the error behind the first EndError or EndReset, else nil.
	Err error
}

// Engine is a way to relay. Run has the meaning of the function Run; an engine
// may be used for many flows at once.
type Engine interface {
	Run(ctx context.Context, client, server net.Conn, o Options) Result
}

// Run relays between client and server until both sides have ended, then
// closes both. When ctx ends, both are cut at once.
//
// A connection that was looked into, with the methods Buffered, Discard and
// NetConn (as sniff.Conn has them), gives its buffered bytes first; then the
// connection below it is used, so that two TCP connections are joined by
// splice(2). Nothing else is unwrapped. Deadlines set before are cleared.
//
// A flow that ends by EndCut or EndLimit is reset on both sides, so that
// neither takes the bytes it has for the whole.
func Run(ctx context.Context, client, server net.Conn, o Options) Result {
	if o.Engine == nil {
		return Portable.Run(ctx, client, server, o)
	}
	return o.Engine.Run(ctx, client, server, o)
}
