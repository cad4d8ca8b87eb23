package tunnel

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/sniff"
	"sluice/policy"
)

// past is a deadline that makes a waiting Read return.
var past = time.Unix(1, 0)

// headStart is for how long a client is waited for alone. Nearly every client
// speaks first and at once, and to watch the server too costs a goroutine; a
// server that speaks first is heard so much later.
const headStart = 20 * time.Millisecond

// Why a flow may end before anything was said on it.
var (
	errSilent = errors.New("no byte either way before the idle time-out")
	errEnded  = errors.New("a side ended before either spoke")
)

// Inspect waits until one side of a connected flow speaks, and has the flow
// judged by what it sees: a ClientHello's server name, another protocol, or a
// server that speaks first. Not a byte goes out before, so a client that waits
// for its server is not held up, and a server learns nothing of a client that
// is denied. The wait ends with ctx, and at the idle time-out of the flow's
// rule or one hour; timeout bounds the rest of a ClientHello once it has begun.
// ctx is to be that of Opener.Live, as Join has it, or a flow that waits can
// neither be listed nor cut.
//
// When Inspect fails it has answered the client in its own protocol, closed
// both connections, and recorded the end. The error is a *flow.DeniedError, or
// what the client's side failed with.
func Inspect(ctx context.Context, out flow.Opener, f *flow.Flow, client, server *sniff.Conn, timeout time.Duration) error {
	return inspect(ctx, out, f, client, server, timeout, ruled(f, relay.Options{}))
}

func inspect(ctx context.Context, out flow.Opener, f *flow.Flow, client, server *sniff.Conn, timeout time.Duration, o relay.Options) error {
	stop := context.AfterFunc(ctx, func() {
		_ = client.SetReadDeadline(past)
		_ = server.SetReadDeadline(past)
	})
	defer stop()
	i := inspection{ctx: ctx, out: out, f: f, client: client, server: server, timeout: timeout}
	err := i.firstByte(idleTimeout(o))
	if err == nil {
		err = i.judge()
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		i.fail(err)
		return err
	}
	return nil // the relay clears the deadlines
}

// idleTimeout bounds the wait for the first byte as relay bounds the waits
// after it. It returns 0 for no bound.
func idleTimeout(o relay.Options) time.Duration {
	if o.IdleTimeout == 0 {
		return time.Hour
	}
	return max(o.IdleTimeout, 0)
}

// inspection is one flow whose first bytes are awaited.
type inspection struct {
	ctx            context.Context
	out            flow.Opener
	f              *flow.Flow
	client, server *sniff.Conn
	timeout        time.Duration
	tls            bool // the client is to be told by a TLS alert
	alert          sniff.Alert
}

// firstByte waits until a side has spoken, or the client's can not any more.
// The one that waits for the server is a goroutine of its own, begun when the
// client's head start is over; it is gone when firstByte returns, and what it
// read stays in i.server.
func (i *inspection) firstByte(idle time.Duration) error {
	if len(i.client.Buffered()) > 0 {
		return nil
	}
	var until time.Time
	alone := time.Now().Add(headStart)
	if idle > 0 {
		until = alone.Add(idle - headStart)
	}
	if idle == 0 || idle > headStart {
		_ = i.client.SetReadDeadline(alone)
		if _, err := i.client.Peek(1); err == nil {
			return nil
		}
	}
	if err := i.deadline(until); err != nil {
		return err
	}
	spoke := make(chan error, 1)
	go func() {
		_, err := i.server.Peek(1)
		_ = i.client.SetReadDeadline(past)
		spoke <- err
	}()
	_, err := i.client.Peek(1)
	if errors.Is(err, io.EOF) {
		// It has nothing to say, yet may want to hear what the server has.
		_ = i.server.CloseWrite()
		_ = i.server.SetReadDeadline(time.Now().Add(i.timeout))
		if i.ctx.Err() != nil { // its own deadline may have been overwritten
			_ = i.server.SetReadDeadline(past)
		}
	} else {
		_ = i.server.SetReadDeadline(past)
	}
	serverErr := <-spoke
	switch {
	case i.ctx.Err() != nil:
		return context.Cause(i.ctx)
	case len(i.client.Buffered()) > 0, len(i.server.Buffered()) > 0:
		return nil
	}
	i.f.ClientEnd, i.f.ServerEnd = ownEnd(err), ownEnd(serverErr)
	if i.f.ClientEnd == "" && i.f.ServerEnd == "" {
		return errSilent
	}
	return errEnded
}

// ownEnd says how a side ended by itself, if it did: a deadline is not its
// doing.
func ownEnd(err error) flow.End {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	return errorEnd(err)
}

// deadline sets one read deadline for both sides, and fails if the flow is cut.
func (i *inspection) deadline(t time.Time) error {
	_ = i.client.SetReadDeadline(t)
	_ = i.server.SetReadDeadline(t)
	if i.ctx.Err() != nil { // its own deadline may have been overwritten
		return context.Cause(i.ctx)
	}
	return nil
}

// judge has the flow judged by the bytes that are there.
func (i *inspection) judge() error {
	if len(i.client.Buffered()) == 0 {
		return i.look(policy.SeenSilent, "")
	}
	_ = i.client.SetReadDeadline(time.Now().Add(i.timeout))
	if i.ctx.Err() != nil { // its own deadline may have been overwritten
		return context.Cause(i.ctx)
	}
	kind := i.classify()
	if i.ctx.Err() != nil {
		return context.Cause(i.ctx)
	}
	switch kind {
	case sniff.KindNeedMore:
		return i.judgeStalled()
	case sniff.KindTLS:
		return i.judgeTLS()
	case sniff.KindHTTP:
		return i.look(policy.SeenHTTP, "")
	case sniff.KindSTUN:
		return i.look(policy.SeenSTUN, "")
	}
	return i.look(policy.SeenOpaque, "")
}

// classify waits until the client's bytes say what they are. A client that ends
// before that is opaque; one that only stops is KindNeedMore.
func (i *inspection) classify() sniff.Kind {
	for {
		kind := sniff.Classify(i.client.Buffered())
		if kind != sniff.KindNeedMore {
			return kind
		}
		_, err := i.client.Peek(len(i.client.Buffered()) + 1)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return sniff.KindNeedMore
		case err != nil:
			return sniff.KindOpaque
		}
	}
}

// judgeStalled judges a client that stopped within its first bytes. It may go
// on as what they begin like or as something else, so both must be allowed; a
// ClientHello must be whole.
func (i *inspection) judgeStalled() error {
	like := policy.SeenHTTP
	switch first := i.client.Buffered()[0]; {
	case first == tlsFirst && (i.f.Decision.Grant == nil || !i.f.Decision.Grant.Opaque):
		i.tls, i.alert = true, sniff.AlertDecodeError
		return i.refuse(policy.ReasonMalformedRequest, "The ClientHello was not complete in time.")
	case first == tlsFirst:
		like = policy.SeenTLS
	case first <= 3:
		like = policy.SeenSTUN
	}
	if err := i.look(like, ""); err != nil {
		return err
	}
	return i.look(policy.SeenOpaque, "")
}

// tlsFirst is the first byte of a TLS handshake record.
const tlsFirst = 22

func (i *inspection) judgeTLS() error {
	hello, err := sniff.ReadClientHello(i.client)
	if i.ctx.Err() != nil {
		return context.Cause(i.ctx)
	}
	if bad := (*sniff.HelloError)(nil); errors.As(err, &bad) {
		return i.judgeBadHello(bad)
	}
	i.tls, i.alert = true, sniff.AlertDecodeError
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) {
		return i.refuse(policy.ReasonMalformedRequest, "The ClientHello was not complete in time.")
	}
	if err != nil {
		return err
	}
	i.alert = sniff.AlertAccessDenied
	i.f.ALPN, i.f.ECH = string(hello.ALPN), hello.ECH
	if !hello.HasServerName {
		return i.look(policy.SeenTLSNoName, "")
	}
	sni := string(hello.ServerName)
	i.f.Claim(flow.FromSNI, sni)
	return i.look(policy.SeenTLS, sni)
}

// judgeBadHello turns away a malformed ClientHello: a server that reads it less
// strictly may find another name in it. Where any protocol is allowed by the
// rule's own word, or nothing is enforced, it may be one that begins with the
// same two bytes by chance.
func (i *inspection) judgeBadHello(bad *sniff.HelloError) error {
	if d := &i.f.Decision; i.f.Port != 443 && (d.Grant == nil || d.Grant.Opaque) {
		return i.look(policy.SeenOpaque, "")
	}
	i.tls, i.alert = true, bad.Alert
	reason := policy.ReasonMalformedRequest
	if bad.BadName() {
		reason = policy.ReasonMalformedName
	}
	return i.refuse(reason, "The ClientHello is malformed: "+string(bad.Why)+".")
}

func (i *inspection) look(seen policy.Seen, sni string) error {
	i.f.Seen = seen
	return i.out.Look(i.ctx, i.f, sni)
}

// refuse turns an admitted flow away by the door's own judgement. Such a flow
// has an end to record, unlike one that Look denied.
func (i *inspection) refuse(reason policy.Reason, detail string) error {
	err := i.out.Refuse(i.f, reason, detail)
	i.out.Done(i.f)
	return err
}

// fail answers the client, closes both sides, and records the end of a flow
// that was not denied.
func (i *inspection) fail(err error) {
	i.server.Close()
	if denied := (*flow.DeniedError)(nil); errors.As(err, &denied) {
		if i.tls {
			Alert(i.client, i.alert)
		} else {
			Reset(i.client)
		}
		return
	}
	switch {
	case i.ctx.Err() != nil:
		Reset(i.client) // as relay does: what it got is not the whole
		i.f.ClientEnd, i.f.ServerEnd = cutEnd(i.ctx), cutEnd(i.ctx)
	case err == errEnded && i.f.ServerEnd == flow.EndReset:
		Reset(i.client)
	case err == errEnded:
		i.client.Close()
	case err == errSilent:
		i.client.Close()
		i.f.ClientEnd, i.f.ServerEnd = flow.EndIdle, flow.EndIdle
	default:
		i.client.Close()
		if i.f.ClientEnd = errorEnd(err); i.f.ClientEnd == flow.EndError {
			i.f.Error = err.Error()
		}
	}
	i.out.Done(i.f)
}
