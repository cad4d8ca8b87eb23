package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var loopback = prefixes("127.0.0.0/8", "::1/128")

func testDialer() *Dialer { return &Dialer{Guard: NewGuard(GuardOptions{})} }

func listen(t testing.TB, addr string) (net.Listener, uint16) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, netip.MustParseAddrPort(l.Addr().String()).Port()
}

// blackHole binds addr so that connecting neither works nor fails: its
// backlog is full, so the kernel drops what comes.
func blackHole(t testing.TB, addr netip.AddrPort) uint16 {
	t.Helper()
	var sa syscall.Sockaddr = &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(addr.Port())}
	family := syscall.AF_INET
	if addr.Addr().Is6() {
		sa, family = &syscall.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())}, syscall.AF_INET6
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, sa), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := addr.Port()
	if n, ok := name.(*syscall.SockaddrInet4); ok {
		port = uint16(n.Port)
	}
	for range 4 {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr.Addr(), port).String(), 300*time.Millisecond)
		if err != nil {
			return port // full
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the backlog does not fill up")
	return 0
}

func dialFails(t testing.TB, d *Dialer, code string, port uint16, to ...string) *DialError {
	t.Helper()
	c, ap, err := d.Dial(t.Context(), addrs(to...), port, loopback)
	var e *DialError
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("dial %v: got %v to %s, %v; want a *DialError of %s", to, c, ap, err, code)
	}
	if c != nil || ap.IsValid() {
		t.Fatalf("dial %v: got a connection %v to %s and an error", to, c, ap)
	}
	return e
}

func TestDialConnectsToThePermittedAddress(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, port := listen(t, net.JoinHostPort(host, "0"))
		c, ap, err := testDialer().Dial(t.Context(), addrs(host), port, loopback)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if ap != netip.MustParseAddrPort(l.Addr().String()) || c.RemoteAddr().String() != ap.String() {
			t.Errorf("got a connection to %s, said to be to %s; want %s", c.RemoteAddr(), ap, l.Addr())
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			t.Fatalf("got a %T; want a *net.TCPConn", c)
		}
		if multipath, err := tcp.MultipathTCP(); multipath || err != nil {
			t.Errorf("got multipath TCP %t, %v; want none", multipath, err)
		}
		checkKeepAlive(t, tcp)
	}
}

func checkKeepAlive(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, o := range []struct{ level, option, want int }{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 30},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 15},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 4},
		} {
			if got, err := syscall.GetsockoptInt(int(fd), o.level, o.option); got != o.want || err != nil {
				t.Errorf("socket option %d: got %d, %v; want %d", o.option, got, err, o.want)
			}
		}
	})
}

func TestDialAsksTheGuardForWhatTheKernelIsGiven(t *testing.T) {
	l, port := listen(t, "127.0.0.1:0")
	var accepted atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			c.Close()
		}
	}()
	for name, d := range map[string]*Dialer{
		"no permit":   testDialer(),
		"no guard":    {},
		"became self": {Guard: NewGuard(GuardOptions{Permit: loopback, Self: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())} }})},
	} {
		_, _, err := d.Dial(t.Context(), addrs("127.0.0.1", "::ffff:127.0.0.1"), port, nil)
		want := CodeProhibited
		if d.Guard == nil {
			want = CodeConfiguration
		}
		var e *DialError
		if !errors.As(err, &e) || e.Code != want {
			t.Errorf("%s: got %v; want a *DialError of %s", name, err, want)
		}
		var f *ForbiddenError
		if d.Guard != nil && !errors.As(err, &f) {
			t.Errorf("%s: got %v; want a *ForbiddenError inside", name, err)
		}
	}
	l.Close()
	<-done
	if n := accepted.Load(); n != 0 {
		t.Errorf("the listener got %d connections; want none", n)
	}
}

func TestDialErrors(t *testing.T) {
	closed := closedPort(t).Port()
	hole := blackHole(t, netip.MustParseAddrPort("127.0.0.1:0"))
	e := dialFails(t, testDialer(), CodeRefused, closed, "127.0.0.1")
	if want := fmt.Sprintf("connect to 127.0.0.1:%d: connect: connection refused", closed); e.Error() != want {
		t.Errorf("got %q; want %q", e, want)
	}
	if !errors.Is(e, syscall.ECONNREFUSED) {
		t.Errorf("got %#v; want ECONNREFUSED inside", e.Err)
	}
	if e := dialFails(t, testDialer(), CodeRefused, closed, "127.0.0.1", "127.0.0.2", "::1"); e.Tried != 3 {
		t.Errorf("got %d addresses tried; want 3", e.Tried)
	}
	dialFails(t, testDialer(), CodeUnavailable, closed)
	impatient := testDialer()
	impatient.Timeout = 100 * time.Millisecond
	dialFails(t, impatient, CodeTimeout, hole, "127.0.0.1")
	impatient.Timeout, impatient.AttemptDelay = time.Second, time.Millisecond
	dialFails(t, impatient, CodeRefused, hole, "127.0.0.1", "127.0.0.2") // the refusal says more than the silence

	elsewhere := testDialer()
	elsewhere.Source = netip.MustParseAddr("127.0.0.1")
	if _, err := net.Listen("tcp", "192.0.2.99:0"); err != nil { // not an address of this host
		elsewhere.Source = netip.MustParseAddr("192.0.2.99")
		dialFails(t, elsewhere, CodeUnroutable, closed, "127.0.0.1")
	}

	for err, want := range map[error]string{
		syscall.ENETUNREACH: CodeUnroutable, syscall.EHOSTUNREACH: CodeUnroutable, syscall.EACCES: CodeUnroutable, syscall.EPERM: CodeUnroutable,
		syscall.ECONNRESET: CodeTerminated, syscall.EMFILE: CodeInternal, syscall.ETIMEDOUT: CodeTimeout,
		context.DeadlineExceeded: CodeTimeout, context.Canceled: CodeTerminated, errors.ErrUnsupported: CodeUnavailable,
	} {
		if got := dialCode(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}); got != want {
			t.Errorf("%v: got %s; want %s", err, got, want)
		}
	}
}

func TestDialFallsBackFromABlackHole(t *testing.T) {
	l, port := listen(t, "127.0.0.1:0")
	blackHole(t, netip.AddrPortFrom(netip.IPv6Loopback(), port))
	c, ap, err := testDialer().Dial(t.Context(), addrs("::1", "127.0.0.1"), port, loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if ap.String() != l.Addr().String() {
		t.Errorf("got a connection to %s; want %s", ap, l.Addr())
	}
}

func TestDialGoesOnAtOnceAfterAFailure(t *testing.T) {
	l, port := listen(t, "127.0.0.1:0")
	d := testDialer()
	d.AttemptDelay = time.Hour
	d.Timeout = time.Minute
	c, ap, err := d.Dial(t.Context(), addrs("127.0.0.9", "127.0.0.8", "127.0.0.1", "::1"), port, loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if ap.String() != l.Addr().String() {
		t.Errorf("got a connection to %s; want %s", ap, l.Addr())
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	hole := blackHole(t, netip.MustParseAddrPort("127.0.0.1:0"))
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	_, _, err := testDialer().Dial(ctx, addrs("127.0.0.1", "127.0.0.1"), hole, loopback)
	var e *DialError
	if !errors.As(err, &e) || e.Code != CodeTerminated || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want a *DialError of %s with context.Canceled", err, CodeTerminated)
	}
}

func TestDialFromASource(t *testing.T) {
	d := testDialer()
	for _, tt := range []struct{ source, host, want string }{
		{"127.0.0.3", "127.0.0.1", "127.0.0.3"}, {"127.0.0.3", "::1", "::1"}, {"::1", "::1", "::1"}, {"::1", "127.0.0.9", "127.0.0.1"},
	} {
		host, want := tt.host, tt.want
		d.Source = netip.MustParseAddr(tt.source)
		_, port := listen(t, net.JoinHostPort(host, "0"))
		c, _, err := d.Dial(t.Context(), addrs(host), port, loopback)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := netip.MustParseAddrPort(c.LocalAddr().String()).Addr().String(); got != want {
			t.Errorf("to %s: got the local address %s; want %s", host, got, want)
		}
	}
}

func TestOrderTakesTheFamiliesInTurn(t *testing.T) {
	got := order(addrs("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.3", "::2", "::3", "::4", "::5", "::6", "::7"), 53)
	var want []netip.AddrPort
	for _, s := range []string{"::1", "127.0.0.1", "::2", "127.0.0.2", "::3", "127.0.0.3", "::4", "::5"} {
		want = append(want, netip.AddrPortFrom(netip.MustParseAddr(s), 53))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	if got := order(addrs("127.0.0.1"), 53); len(got) != 1 {
		t.Errorf("got %v; want one address", got)
	}
}

// closeCounter counts its closing.
type closeCounter struct {
	net.Conn
	closed *atomic.Int32
}

func (c closeCounter) Close() error { c.closed.Add(1); return nil }

func TestRaceClosesTheLosers(t *testing.T) {
	var started, closed, cancelled atomic.Int32
	release := make(chan struct{})
	list := order(addrs("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"), 53)
	c, ap, tried, err := race(t.Context(), list, time.Millisecond, func(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
		if started.Add(1) == 4 {
			close(release)
		}
		switch ap {
		case list[0]: // does not connect, until it is called off
			<-ctx.Done()
			cancelled.Add(1)
			return nil, ctx.Err()
		case list[1]: // connects when it is too late
			<-ctx.Done()
		case list[2]:
			<-release
		case list[3]:
			return nil, errors.New("no")
		}
		return closeCounter{closed: &closed}, nil
	})
	if err != nil || c == nil || ap != list[2] || tried != 4 {
		t.Fatalf("got %v to %s after %d, %v; want the third of four", c, ap, tried, err)
	}
	if closed.Load() != 1 || cancelled.Load() != 1 {
		t.Errorf("got %d connections closed and %d attempts called off; want 1 and 1", closed.Load(), cancelled.Load())
	}
}
