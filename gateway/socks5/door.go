// Package socks5 is the door for SOCKS version 5 (RFC 1928): CONNECT by name
// or address, with or without a user's name and password (RFC 1929).
package socks5

import (
	"bytes"
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

// Door serves SOCKS5 connections. Its fields are read only.
type Door struct {
	Out              flow.Opener
	HandshakeTimeout time.Duration // for all of greeting, login and request, and then for a ClientHello; 0: ten seconds
	Relay            relay.Options

	// Authenticate says who a user is, or fails. If nil, no one has to log in;
	// else everyone has to.
	Authenticate func(user, pass string) (*policy.Identity, error)
}

const defaultHandshakeTimeout = 10 * time.Second

// Serve carries the connection from its first byte to its last, and closes
// it. When ctx ends it is cut.
func (d *Door) Serve(ctx context.Context, c *sniff.Conn, in flow.Inbound) {
	f := in.New(flow.DoorSOCKS5)
	if err := d.handshake(ctx, c, f); err != nil {
		d.turnAway(ctx, c, f, err)
		return
	}
	server, err := tunnel.Connect(ctx, d.Out, f)
	if err != nil {
		_ = d.say(c, answer(replyFor(err))) // it may be gone
		tunnel.Farewell(c)
		return
	}
	if err := d.say(c, answer(replySucceeded)); err != nil {
		server.Close()
		tunnel.Reset(c)
		f.ClientEnd, f.Error = flow.EndReset, err.Error()
		d.Out.Done(f)
		return
	}
	tunnel.Join(ctx, d.Out, f, c, sniff.NewConn(server), d.handshakeTimeout(), d.Relay)
}

func (d *Door) handshakeTimeout() time.Duration {
	if d.HandshakeTimeout == 0 {
		return defaultHandshakeTimeout
	}
	return d.HandshakeTimeout
}

// handshake reads up to the end of the request and notes it in f. One deadline
// covers all of it. What the client sent behind it stays in c.
func (d *Door) handshake(ctx context.Context, c *sniff.Conn, f *flow.Flow) error {
	if err := c.SetReadDeadline(time.Now().Add(d.handshakeTimeout())); err != nil {
		return fmt.Errorf("set deadline for the SOCKS handshake: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := d.greet(c); err != nil {
		return err
	}
	if d.Authenticate != nil {
		who, err := d.login(c)
		if err != nil {
			return err
		}
		f.Identity = who
	}
	r, err := readRequest(c)
	if err != nil {
		return err
	}
	f.Host, f.Port = r.host, r.port
	f.Claim(flow.FromSOCKS, r.host)
	switch r.command {
	case commandConnect:
		return nil
	case commandBind:
		return &turnedAway{policy.ReasonProtocol, "The SOCKS command BIND is not served.", answer(replyCommand)}
	case commandAssociate:
		f.Proto = policy.UDP
		return &turnedAway{policy.ReasonProtocol, "The SOCKS command UDP ASSOCIATE is not served.", answer(replyCommand)}
	}
	return &turnedAway{policy.ReasonMalformedRequest, fmt.Sprintf("There is no SOCKS command %d.", r.command), answer(replyCommand)}
}

// turnedAway says that a client's handshake is refused, and with what bytes.
type turnedAway struct {
	reason policy.Reason
	detail string
	answer []byte
}

func (e *turnedAway) Error() string { return e.detail }

// greet settles the authentication method (RFC 1928 section 3).
func (d *Door) greet(c *sniff.Conn) error {
	head, err := c.Peek(2)
	if len(head) > 0 && head[0] != version {
		return &turnedAway{policy.ReasonMalformedRequest, fmt.Sprintf("Version %d in a SOCKS5 greeting.", head[0]), nil}
	}
	if err != nil {
		return err
	}
	length := 2 + int(head[1])
	greeting, err := c.Peek(length)
	if err != nil {
		return err
	}
	method := byte(methodNone)
	if d.Authenticate != nil {
		method = methodPassword
	}
	if bytes.IndexByte(greeting[2:], method) < 0 {
		none := []byte{version, methodRefused}
		if d.Authenticate != nil {
			return &turnedAway{policy.ReasonUnauthenticated, "The SOCKS client offers no user name and password.", none}
		}
		return &turnedAway{policy.ReasonMalformedRequest, "The SOCKS client insists on authentication, and none is set up.", none}
	}
	c.Discard(length)
	return d.say(c, []byte{version, method})
}

// login reads a user name and password and has them checked (RFC 1929
// section 2).
func (d *Door) login(c *sniff.Conn) (*policy.Identity, error) {
	const loginVersion, granted, denied = 1, 0, 1
	head, err := c.Peek(2)
	if len(head) > 0 && head[0] != loginVersion {
		return nil, &turnedAway{policy.ReasonMalformedRequest, fmt.Sprintf("Version %d in a SOCKS5 login.", head[0]), []byte{loginVersion, denied}}
	}
	if err != nil {
		return nil, err
	}
	userEnd := 2 + int(head[1])
	if head, err = c.Peek(userEnd + 1); err != nil {
		return nil, err
	}
	length := userEnd + 1 + int(head[userEnd])
	if head, err = c.Peek(length); err != nil {
		return nil, err
	}
	user, pass := string(head[2:userEnd]), string(head[userEnd+1:])
	c.Discard(length)
	who, err := d.Authenticate(user, pass)
	if err != nil {
		// Neither the password nor what the hook says of it goes into a record.
		return nil, &turnedAway{policy.ReasonUnauthenticated, fmt.Sprintf("The login of user %q is refused.", user), []byte{loginVersion, denied}}
	}
	return who, d.say(c, []byte{loginVersion, granted})
}

// readRequest takes the request out of c, and not a byte more.
func readRequest(c *sniff.Conn) (request, error) {
	for {
		r, n, err := parseRequest(c.Buffered())
		if err == nil {
			c.Discard(n)
			return r, nil
		}
		if bad := (*requestError)(nil); errors.As(err, &bad) {
			return request{}, &turnedAway{policy.ReasonMalformedRequest, "Malformed request: " + bad.why + ".", answer(bad.reply)}
		}
		if _, err := c.Peek(len(c.Buffered()) + 1); err != nil {
			return request{}, err
		}
	}
}

// say writes within a time-out: a client that does not read must not hold us.
func (d *Door) say(c *sniff.Conn, b []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(d.handshakeTimeout())); err != nil {
		return fmt.Errorf("set deadline for a SOCKS answer: %w", err)
	}
	if _, err := c.Write(b); err != nil {
		return fmt.Errorf("write SOCKS answer: %w", err)
	}
	return nil
}

// turnAway ends a connection whose handshake failed. One that ended before its
// first byte is no flow.
func (d *Door) turnAway(ctx context.Context, c *sniff.Conn, f *flow.Flow, err error) {
	var refused *turnedAway
	switch {
	case errors.As(err, &refused):
		_ = d.Out.Refuse(f, refused.reason, refused.detail)
		if refused.answer != nil && d.say(c, refused.answer) == nil {
			tunnel.Farewell(c)
			return
		}
	case ctx.Err() != nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = d.Out.Refuse(f, policy.ReasonMalformedRequest, fmt.Sprintf("No complete SOCKS request came within %v.", d.handshakeTimeout()))
	case errors.Is(err, io.EOF) && len(c.Buffered()) > 0:
		_ = d.Out.Refuse(f, policy.ReasonMalformedRequest, "The client closed within its SOCKS handshake.")
	}
	tunnel.Reset(c)
}

// replyFor says to a client why its flow was not connected (RFC 1928
// section 6, from the error types of RFC 9209 section 2.3).
func replyFor(err error) reply {
	if denied := (*flow.DeniedError)(nil); errors.As(err, &denied) {
		return replyDenied
	}
	unreachable := (*flow.UnreachableError)(nil)
	if !errors.As(err, &unreachable) {
		return replyGeneral
	}
	switch unreachable.Code {
	case "connection_refused":
		return replyRefused
	case "destination_ip_unroutable":
		return replyNetUnreachable
	case "dns_timeout", "dns_error", "destination_not_found", "destination_unavailable":
		return replyHostUnreachable
	case "connection_timeout":
		return replyExpired
	}
	return replyGeneral
}
