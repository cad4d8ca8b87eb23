// Package transparent is the door for TLS connections that were brought here
// without asking, by DNS, a port mapping or the kernel: the server name of the
// ClientHello says where they want to go.
//
// The connection goes to an address that the gateway resolves for that name,
// never to the one the client dialled, so a client cannot borrow an allowed
// name for another address. Without a server name the address the client
// dialled is asked for as such, which only an address rule allows.
//
// A refusal is a fatal TLS alert, so that a client fails at once and with a
// word: access_denied for what policy denies, missing_extension where there is
// neither a server name nor an address to decide on, internal_error where the
// server can not be reached, and for a malformed ClientHello the alert that
// RFC 8446 has for the fault. unrecognized_name is left to real servers: for a
// person who looks for the cause it would blame the wrong machine.
package transparent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/sniff"
	"sluice/gateway/tunnel"
	"sluice/policy"
)

// Door serves TLS connections by their server name. Its fields are read only.
type Door struct {
	Out              flow.Opener
	HandshakeTimeout time.Duration // for the whole ClientHello; 0: ten seconds
	Relay            relay.Options
}

const defaultHandshakeTimeout = 10 * time.Second

// Serve carries the connection from its first byte to its last, and closes
// it. When ctx ends it is cut.
func (d *Door) Serve(ctx context.Context, c *sniff.Conn, in flow.Inbound) {
	f := in.New(flow.DoorTLS)
	f.Port = in.Port
	if in.OriginalDst.IsValid() {
		f.Port = in.OriginalDst.Port()
	}
	hello, err := d.readHello(ctx, c)
	if err != nil {
		d.turnAway(ctx, c, f, err)
		return
	}
	if !d.describe(f, hello) {
		_ = d.Out.Refuse(f, policy.ReasonNoName, "The ClientHello has no server name, and there is no original destination to decide on.")
		tunnel.Alert(c, sniff.AlertMissingExtension)
		return
	}
	server, err := tunnel.Connect(ctx, d.Out, f)
	if err != nil {
		tunnel.Alert(c, alertFor(err))
		return
	}
	tunnel.Carry(ctx, d.Out, f, c, server, d.Relay)
}

func (d *Door) handshakeTimeout() time.Duration {
	if d.HandshakeTimeout == 0 {
		return defaultHandshakeTimeout
	}
	return d.HandshakeTimeout
}

// readHello has one deadline for all of the hello, so that a client that
// drips it does not gain time with every byte. Most hellos are there as a
// whole already.
func (d *Door) readHello(ctx context.Context, c *sniff.Conn) (sniff.Hello, error) {
	if hello, _, err := sniff.ParseClientHello(c.Buffered()); err == nil {
		return hello, nil
	}
	if err := c.SetReadDeadline(time.Now().Add(d.handshakeTimeout())); err != nil {
		return sniff.Hello{}, fmt.Errorf("set deadline for the ClientHello: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	return sniff.ReadClientHello(c)
}

// describe notes in f what the hello says. It reports false if that names no
// destination.
func (d *Door) describe(f *flow.Flow, hello sniff.Hello) bool {
	f.ALPN, f.ECH = string(hello.ALPN), hello.ECH
	if hello.HasServerName {
		f.Seen, f.Host = policy.SeenTLS, string(hello.ServerName)
		f.Claim(flow.FromSNI, f.Host)
		return true
	}
	f.Seen = policy.SeenTLSNoName
	if f.OriginalDst.IsValid() {
		f.Host = f.OriginalDst.Addr().Unmap().String()
		return true
	}
	return false
}

// turnAway ends a connection that brought no ClientHello. One that brought
// nothing at all before it ended is no flow: a probe, or a socket a browser
// opened too many of.
func (d *Door) turnAway(ctx context.Context, c *sniff.Conn, f *flow.Flow, err error) {
	bad := (*sniff.HelloError)(nil)
	switch {
	case errors.As(err, &bad):
		reason := policy.ReasonMalformedRequest
		if bad.BadName() {
			reason = policy.ReasonMalformedName
		}
		_ = d.Out.Refuse(f, reason, "The ClientHello is malformed: "+string(bad.Why)+".")
		if sniff.Classify(c.Buffered()) == sniff.KindTLS {
			tunnel.Alert(c, bad.Alert)
			return
		}
	case ctx.Err() != nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = d.Out.Refuse(f, policy.ReasonMalformedRequest, fmt.Sprintf("No complete ClientHello came within %v.", d.handshakeTimeout()))
	case errors.Is(err, io.ErrUnexpectedEOF):
		_ = d.Out.Refuse(f, policy.ReasonMalformedRequest, "The client closed within its ClientHello.")
	}
	tunnel.Reset(c)
}

// alertFor says to a client why its flow was not connected.
func alertFor(err error) sniff.Alert {
	if denied := (*flow.DeniedError)(nil); errors.As(err, &denied) {
		return sniff.AlertAccessDenied
	}
	return sniff.AlertInternalError
}
