package dial

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const (
	defaultTimeout      = 10 * time.Second
	defaultAttemptDelay = 250 * time.Millisecond // RFC 8305 section 5
)

// defaultKeepAlive finds a dead peer in a minute and a half, and keeps the
// state of firewalls on the way, whose shortest idle limits are some minutes.
var defaultKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 4}

// noResolver makes sure that a net.Dialer asks no DNS server behind our back.
var noResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("names are not resolved here")
}}

// Dialer connects to addresses that passed its guard. It must not be changed
// once it is in use.
type Dialer struct {
	Guard        *Guard              // required: without one every dial fails
	Timeout      time.Duration       // of the whole connect; 0: 10 s
	AttemptDelay time.Duration       // head start of an address over the next, RFC 8305; 0: 250 ms
	KeepAlive    net.KeepAliveConfig // zero: after 30 s idle, every 15 s, 4 times
	Source       netip.Addr          // local address for connections of its family; zero: the kernel's choice
}

// Dial connects to one of addrs at port, and returns the connection, a
// *net.TCPConn, with the address it is to. The families take turns, IPv6
// first; the next address starts when the one before failed or did not connect
// within AttemptDelay, and the first to connect wins (RFC 8305). At most 8
// addresses are tried. The guard is asked once more, with permit, for the
// address that the kernel is given. It fails with a *DialError.
func (d *Dialer) Dial(ctx context.Context, addrs []netip.Addr, port uint16, permit []netip.Prefix) (net.Conn, netip.AddrPort, error) {
	if d.Guard == nil {
		return nil, netip.AddrPort{}, &DialError{Code: CodeConfiguration, Err: errors.New("no guard")}
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(d.Timeout, defaultTimeout))
	defer cancel()
	nd := d.netDialer(permit)
	c, ap, tried, err := race(ctx, order(addrs, port), cmp.Or(d.AttemptDelay, defaultAttemptDelay),
		func(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
			if d.Source.IsValid() && d.Source.Is4() == ap.Addr().Is4() {
				from := nd
				from.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.Source, 0))
				return from.DialContext(ctx, "tcp", ap.String())
			}
			return nd.DialContext(ctx, "tcp", ap.String())
		})
	if err != nil {
		code := dialCode(err)
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err // the address is in DialError already
		}
		return nil, netip.AddrPort{}, &DialError{Code: code, Addr: ap, Tried: tried, Err: err}
	}
	return c, ap, nil
}

func (d *Dialer) netDialer(permit []netip.Prefix) net.Dialer {
	nd := net.Dialer{Resolver: noResolver, KeepAliveConfig: d.KeepAlive}
	switch {
	case d.KeepAlive == net.KeepAliveConfig{}:
		nd.KeepAliveConfig = defaultKeepAlive
	case !d.KeepAlive.Enable:
		nd.KeepAlive = -1
	}
	nd.SetMultipathTCP(false) // the relay splices between plain TCP sockets
	nd.ControlContext = func(_ context.Context, _, address string, raw syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if err := d.Guard.Check(ap, permit); err != nil {
			return err
		}
		if d.Source.IsValid() {
			return bindNoPort(raw)
		}
		return nil
	}
	return nd
}

// bindNoPort makes the kernel pick the local port at connect and not at bind:
// otherwise a port serves one destination only, and 28,000 connections are all
// there can be.
func bindNoPort(raw syscall.RawConn) error {
	const ipBindAddressNoPort = 24 // linux/in.h
	var err error
	if cerr := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// dialCode returns the RFC 9209 error type of a failed connect.
func dialCode(err error) string {
	var forbidden *ForbiddenError
	var timeout net.Error
	switch {
	case errors.As(err, &forbidden):
		return CodeProhibited
	case errors.Is(err, syscall.ECONNREFUSED):
		return CodeRefused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, context.Canceled):
		return CodeTerminated
	case isOneOf(err, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL,
		syscall.EACCES, syscall.EPERM, syscall.EAFNOSUPPORT, syscall.EINVAL):
		return CodeUnroutable // EACCES, EPERM: a route or a firewall of this host prohibits it
	case isOneOf(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM):
		return CodeInternal
	case errors.As(err, &timeout) && timeout.Timeout():
		return CodeTimeout
	}
	return CodeUnavailable
}

func isOneOf(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// telling ranks the errors of several addresses: one that a server sent says
// more than silence, and silence more than a family this host has no route for.
func telling(err error) int {
	switch dialCode(err) {
	case CodeInternal:
		return 5
	case CodeRefused:
		return 4
	case CodeTerminated:
		return 3
	case CodeTimeout:
		return 2
	case CodeUnroutable:
		return 1
	}
	return 0
}
