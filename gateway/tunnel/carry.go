// Package tunnel carries an admitted flow of bytes to its end, and records
// it: what the doors for TLS, SOCKS and CONNECT have in common.
//
// The walk of a flow through it is Connect, then Join, which is Inspect and
// Carry in one. Each of them closes what it was given and records the end when
// it fails, so that a door has nothing left to do but answer its client.
package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/sniff"
)

// Connect admits f and connects it. On a *flow.DeniedError the flow is
// recorded; on any other error, mostly a *flow.UnreachableError, it is given
// to Done with what went wrong. The caller then answers its client.
func Connect(ctx context.Context, out flow.Opener, f *flow.Flow) (net.Conn, error) {
	err := out.Admit(ctx, f)
	if err == nil {
		var server net.Conn
		if server, err = out.Dial(ctx, f); err == nil {
			return server, nil
		}
	}
	if denied := (*flow.DeniedError)(nil); errors.As(err, &denied) {
		return nil, err
	}
	f.Error, f.ServerEnd = err.Error(), flow.EndError
	if unreachable := (*flow.UnreachableError)(nil); errors.As(err, &unreachable) {
		f.ErrorCode = unreachable.Code
	}
	out.Done(f)
	return nil, err
}

// Join inspects the first bytes of a connected flow and carries it to its end.
// The flow is live all that time. timeout bounds the rest of a ClientHello (or
// of what may become one) once it has begun. Both connections are closed and
// the end is recorded when Join returns.
func Join(ctx context.Context, out flow.Opener, f *flow.Flow, client, server *sniff.Conn, timeout time.Duration, o relay.Options) {
	live, release := out.Live(ctx, f)
	defer release()
	if inspect(live, out, f, client, server, timeout, ruled(f, o)) == nil {
		carry(live, out, f, client, server, o)
	}
}

// Carry relays a connected flow whose first bytes were judged, closes both
// connections, and records the end. The idle time-out and the limit of bytes
// of the flow's rule take the place of those in o.
func Carry(ctx context.Context, out flow.Opener, f *flow.Flow, client, server net.Conn, o relay.Options) {
	live, release := out.Live(ctx, f)
	defer release()
	carry(live, out, f, client, server, o)
}

func carry(live context.Context, out flow.Opener, f *flow.Flow, client, server net.Conn, o relay.Options) {
	r := relay.Run(live, client, server, ruled(f, o))
	f.BytesIn, f.BytesOut = f.BytesIn+r.Sent, f.BytesOut+r.Received
	f.ClientEnd, f.ServerEnd = end(live, r.Client), end(live, r.Server)
	if r.Err != nil && (f.ClientEnd == flow.EndError || f.ServerEnd == flow.EndError) {
		f.Error = r.Err.Error()
	}
	out.Done(f)
}

// ruled returns o with what the flow's rule says otherwise.
func ruled(f *flow.Flow, o relay.Options) relay.Options {
	if rule := f.Decision.Grant; rule != nil {
		if rule.Idle != 0 {
			o.IdleTimeout = rule.Idle
		}
		if rule.MaxBytes != 0 {
			o.MaxBytes = rule.MaxBytes
		}
	}
	return o
}

// end returns the relay's word for the record, with who cut it in the place
// of a bare cut.
func end(live context.Context, word string) flow.End {
	if word == relay.EndCut {
		return cutEnd(live)
	}
	return flow.End(word)
}

// cutEnd says why a context that ended did. One that ended without a
// *flow.CutError is that of a gateway that stops.
func cutEnd(ctx context.Context) flow.End {
	if cut := (*flow.CutError)(nil); errors.As(context.Cause(ctx), &cut) {
		return cut.End
	}
	return flow.EndDrain
}

// errorEnd says how a side ended that failed with err.
func errorEnd(err error) flow.End {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return flow.EndEOF
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return flow.EndReset
	case errors.Is(err, os.ErrDeadlineExceeded):
		return flow.EndTimeout
	}
	return flow.EndError
}
