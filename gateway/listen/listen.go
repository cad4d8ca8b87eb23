// Package listen opens the sockets of the gateway's listeners and accepts
// connections from them, within limits.
//
// It outlives bad times: when descriptors run out it waits, then turns
// clients away, and goes on when there are some again.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// defaultKeepAlive finds dead peers of silent tunnels, and keeps the state of
// NATs on the way, which RFC 5382 section 5 lets go after two hours only but
// many devices drop after minutes.
const defaultKeepAlive = 45 * time.Second

// keepAliveProbes unanswered probes end a connection.
const keepAliveProbes = 4

// Options of one listener.
type Options struct {
	// Name is what configuration, records and systemd call the listener.
	Name string

	// Network is "tcp", "tcp4", "tcp6" or "unix". If empty, "tcp".
	Network string

	// Address is HOST:PORT, or the path of a Unix socket. It is not used if
	// systemd (or a process that hands over) passed a socket of this Name.
	Address string

	// Mode is the permission of a Unix socket's file. If zero, 0600.
	Mode os.FileMode

	// ReusePort lets another process listen on the same address at the same
	// time (SO_REUSEPORT).
	ReusePort bool

	// Transparent lets the socket take connections to addresses that are not
	// this machine's, for TPROXY. It needs CAP_NET_ADMIN or CAP_NET_RAW.
	Transparent bool

	// KeepAlive is the silence before TCP probes the client, and a third of it
	// the time between probes. If zero, 45 s. If negative, there are none.
	KeepAlive time.Duration

	// MaxConns bounds the connections open at a time, and MaxPerClient those
	// of one client address; IPv6 clients are counted by /64. If zero or
	// negative, there is no bound.
	MaxConns, MaxPerClient int

	// Refused, if not nil, is told of each connection over a limit before it
	// is closed. It must not block: it is called by the accept loop.
	Refused func(c net.Conn, limit Limit)

	// Logger gets the troubles of accepting. If nil, they are not logged.
	Logger *slog.Logger
}

// Limit says why a connection was turned away.
type Limit string

// The limits.
const (
	LimitConns       Limit = "connections"
	LimitPerClient   Limit = "connections_per_client"
	LimitDescriptors Limit = "descriptors" // of the process or the machine
)

// Listener accepts connections. Make it with Listen.
type Listener struct {
	o       Options
	net     net.Listener
	log     *slog.Logger
	reserve *os.File // given up to accept, and turn away, when descriptors run out

	maxConns, maxPerClient atomic.Int64
	open                   atomic.Int64
	shards                 [shardCount]shard

	closed   atomic.Bool
	mu       sync.Mutex // guards handlers.Add against handlers.Wait
	handlers sync.WaitGroup
}

// Listen opens the socket of a listener, or takes over the one that systemd
// passed under its name. The caller runs Serve, and Close at the end.
func Listen(ctx context.Context, o Options) (*Listener, error) {
	if o.Network == "" {
		o.Network = "tcp"
	}
	l := &Listener{o: o, log: o.Logger}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.SetLimits(o.MaxConns, o.MaxPerClient)

	var err error
	if f := inherited.take(o.Name); f != nil {
		l.net, err = adopt(f, &o)
	} else {
		l.net, err = open(ctx, &o)
	}
	if err != nil {
		return nil, fmt.Errorf("listener %q: %w", o.Name, explain(err, &o))
	}
	if l.reserve, err = os.Open(os.DevNull); err != nil {
		l.net.Close()
		return nil, fmt.Errorf("listener %q: reserve a descriptor: %w", o.Name, err)
	}
	return l, nil
}

func open(ctx context.Context, o *Options) (net.Listener, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // set on the listening socket, in configure
		Control: func(_, _ string, raw syscall.RawConn) error {
			return control(raw, func(fd int) error { return configure(fd, o) })
		},
	}
	// An MPTCP socket does not answer SO_ORIGINAL_DST, and can not be spliced.
	lc.SetMultipathTCP(false)

	l, err := lc.Listen(ctx, o.Network, o.Address)
	if o.Network == "unix" && errors.Is(err, unix.EADDRINUSE) && removeStale(o.Address) {
		l, err = lc.Listen(ctx, o.Network, o.Address)
	}
	return l, err
}

// removeStale removes the file of a Unix socket that nobody listens on, as a
// killed process leaves it.
func removeStale(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return false
	}
	return errors.Is(err, unix.ECONNREFUSED) && os.Remove(path) == nil
}

func control(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// configure sets what accepted connections are to inherit, which saves the
// system calls for each of them.
func configure(fd int, o *Options) error {
	if o.Network == "unix" {
		mode := o.Mode.Perm()
		if mode == 0 {
			mode = 0o600
		}
		// Before bind: there is no moment at which others may connect.
		return os.NewSyscallError("fchmod", unix.Fchmod(fd, uint32(mode)))
	}
	type option struct {
		name              string
		level, opt, value int
	}
	var set []option
	if o.ReusePort {
		set = append(set, option{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
	}
	if o.Transparent {
		set = append(set, option{"IP_TRANSPARENT", unix.SOL_IP, unix.IP_TRANSPARENT, 1})
		if d, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && d == unix.AF_INET6 {
			set = append(set, option{"IPV6_TRANSPARENT", unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1})
		}
	}
	keep := o.KeepAlive
	if keep == 0 {
		keep = defaultKeepAlive
	}
	if keep > 0 {
		set = append(set,
			option{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			option{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(keep)},
			option{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(keep / 3)},
			option{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes})
	}
	for _, s := range set {
		if err := unix.SetsockoptInt(fd, s.level, s.opt, s.value); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return nil
}

// seconds rounds up: the kernel refuses zero.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// explain adds the next step to an error of listening.
func explain(err error, o *Options) error {
	var step string
	switch {
	case errors.Is(err, unix.EADDRINUSE) && o.Network == "unix":
		step = "another process serves that socket: stop it, or change the listener's address"
	case errors.Is(err, unix.EADDRINUSE):
		step = "another program (see `ss -ltnp`) or another listener has that address: stop it, or change the listener's address"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		step = "that address is not on this machine (see `ip address`): use one that is, or leave the host part empty"
	case errors.Is(err, unix.EPERM) && o.Transparent:
		step = "capture: tproxy needs CAP_NET_ADMIN or CAP_NET_RAW"
	case errors.Is(err, unix.EACCES) && o.Network != "unix":
		step = "ports below 1024 need CAP_NET_BIND_SERVICE: grant it, have systemd pass the socket, or use a higher port"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, step)
}

// Name returns the listener's name.
func (l *Listener) Name() string { return l.o.Name }

// Addr returns the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.net.Addr() }

// Open returns how many connections are being handled.
func (l *Listener) Open() int { return int(l.open.Load()) }

// File returns a copy of the listening socket, to hand to another process. The
// caller closes it.
func (l *Listener) File() (*os.File, error) {
	f, ok := l.net.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("listener %q: a %T has no file", l.o.Name, l.net)
	}
	return f.File()
}
