package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if child := os.Getenv("LISTEN_TEST_CHILD"); child != "" {
		os.Exit(runChild(child))
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of these tests; none is meant to reach it.
const patience = 20 * time.Second

// echo gives back what it gets. The wrapping keeps io.Copy from taking a pipe,
// which would be two descriptors more.
func echo(_ context.Context, c net.Conn) {
	io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) //nolint:errcheck // seen at the other end
}

// serve starts a listener on loopback that ends with the test.
func serve(t *testing.T, o Options, handle func(context.Context, net.Conn)) *Listener {
	t.Helper()
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	l, err := Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.Serve(context.Background(), handle) }()
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		l.Close(now) //nolint:errcheck // it says what was open
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		l.handlers.Wait()
	})
	return l
}

func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// echoes says whether the other end of c is served.
func echoes(c net.Conn) bool {
	b := []byte{'x'}
	if _, err := c.Write(b); err != nil {
		return false
	}
	_, err := io.ReadFull(c, b)
	return err == nil
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func sockopt(t *testing.T, c net.Conn, level, opt int) int {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	if err := control(raw, func(fd int) error {
		v, err = unix.GetsockoptInt(fd, level, opt)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAcceptedSocket(t *testing.T) {
	accepted := make(chan net.Conn, 1)
	l := serve(t, Options{Name: "proxy", KeepAlive: 30 * time.Second}, func(ctx context.Context, c net.Conn) {
		accepted <- c
		echo(ctx, c)
	})
	dial(t, l)
	c := <-accepted
	if _, ok := c.(*net.TCPConn); !ok {
		t.Fatalf("handler got a %T; want *net.TCPConn, which can be spliced", c)
	}
	for name, o := range map[string]struct{ level, opt, want int }{
		"TCP_NODELAY":   {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		"SO_KEEPALIVE":  {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"TCP_KEEPIDLE":  {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
		"TCP_KEEPINTVL": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
		"TCP_KEEPCNT":   {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes},
		"SO_PROTOCOL":   {unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP}, // not MPTCP
	} {
		if got := sockopt(t, c, o.level, o.opt); got != o.want {
			t.Errorf("%s is %d; want %d", name, got, o.want)
		}
	}
	if _, err := OriginalDst(c.(*net.TCPConn)); !errors.Is(err, ErrNotRedirected) {
		t.Errorf("original destination of a direct connection: %v; want ErrNotRedirected", err)
	}
}

func TestKeepAliveOff(t *testing.T) {
	accepted := make(chan net.Conn, 1)
	l := serve(t, Options{KeepAlive: -1}, func(ctx context.Context, c net.Conn) {
		accepted <- c
		echo(ctx, c)
	})
	dial(t, l)
	if got := sockopt(t, <-accepted, unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 0 {
		t.Errorf("SO_KEEPALIVE is %d; want 0", got)
	}
}

func TestAddressErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct{ address, want string }{
		"in use":         {taken.Addr().String(), "or another listener has that address: stop it, or change"},
		"not ours":       {"192.0.2.1:0", "that address is not on this machine"},
		"not an address": {"127.0.0.1", "missing port"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Listen(t.Context(), Options{Name: "proxy", Address: c.address})
			if err == nil || !strings.HasPrefix(err.Error(), `listener "proxy": listen tcp`) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v; want the listener's name and %q", err, c.want)
			}
		})
	}
}

func TestReusePort(t *testing.T) {
	first := serve(t, Options{Name: "old", ReusePort: true}, echo)
	second := serve(t, Options{Name: "new", ReusePort: true, Address: first.Addr().String()}, echo)
	first.StopAccepting()
	if !echoes(dial(t, second)) {
		t.Error("the second listener does not serve")
	}
}

func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		want Limit
	}{
		"connections":            {Options{MaxConns: 2}, LimitConns},
		"connections per client": {Options{MaxPerClient: 2}, LimitPerClient},
	} {
		t.Run(name, func(t *testing.T) {
			refused := make(chan Limit, 1)
			c.o.Refused = func(conn net.Conn, limit Limit) {
				if conn.RemoteAddr() == nil {
					t.Error("refused connection has no address")
				}
				refused <- limit
			}
			l := serve(t, c.o, echo)
			a, b := dial(t, l), dial(t, l)
			if !echoes(a) || !echoes(b) {
				t.Fatal("connections within the limit are not served")
			}
			// The reset may be there before the connection is, as seen from here.
			if over, err := net.Dial("tcp", l.Addr().String()); err == nil {
				if echoes(over) {
					t.Error("a connection over the limit is served")
				}
				over.Close()
			}
			if got := <-refused; got != c.want {
				t.Errorf("refused by %q; want %q", got, c.want)
			}
			a.Close()
			eventually(t, "the place of a closed connection is not free", func() bool { return l.Open() == 1 })
			if !echoes(dial(t, l)) {
				t.Error("no connection in the place of a closed one")
			}
			l.SetLimits(0, 0)
			if !echoes(dial(t, l)) {
				t.Error("a limit taken away still holds")
			}
		})
	}
}

func TestClientKey(t *testing.T) {
	for name, c := range map[string]struct {
		addr net.Addr
		want netip.Prefix
	}{
		"IPv4":           {tcpAddr("192.0.2.7"), netip.MustParsePrefix("192.0.2.7/32")},
		"IPv4 in IPv6":   {tcpAddr("::ffff:192.0.2.7"), netip.MustParsePrefix("192.0.2.7/32")},
		"IPv6 by /64":    {tcpAddr("2001:db8:1:2:3:4:5:6"), netip.MustParsePrefix("2001:db8:1:2::/64")},
		"IPv6 with zone": {tcpAddr("fe80::1%eth0"), netip.MustParsePrefix("fe80::/64")},
		"Unix":           {&net.UnixAddr{Name: "@"}, netip.Prefix{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := client(c.addr); got != c.want {
				t.Errorf("got %v; want %v", got, c.want)
			}
		})
	}
}

func tcpAddr(s string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(s), 1))
}

func TestCloseWaits(t *testing.T) {
	l := serve(t, Options{Name: "proxy"}, echo)
	c := dial(t, l)
	if !echoes(c) {
		t.Fatal("not served")
	}
	done := make(chan error, 1)
	go func() { done <- l.Close(context.Background()) }()
	eventually(t, "still listening", l.closed.Load)
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("a connection is taken while it shuts down")
	}
	if !echoes(c) {
		t.Error("a connection from before is not served to its end")
	}
	c.Close()
	if err := <-done; err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestCloseBound(t *testing.T) {
	l := serve(t, Options{Name: "proxy"}, echo)
	c := dial(t, l)
	if !echoes(c) {
		t.Fatal("not served")
	}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	err := l.Close(now)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 connections") {
		t.Errorf("got %v; want one connection closed", err)
	}
	if echoes(c) {
		t.Error("a connection is served after the bound")
	}
	eventually(t, "the handler is not gone", func() bool { return l.Open() == 0 })
}

func TestServeEndsWithContext(t *testing.T) {
	l, err := Listen(t.Context(), Options{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Serve(ctx, echo); err != nil {
		t.Errorf("Serve: %v; want nil", err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l := serve(t, Options{Name: "admin", Network: "unix", Address: path}, echo)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the socket is %o; want 600", got)
	}
	if !echoes(dial(t, l)) {
		t.Error("not served")
	}
	_, err = Listen(t.Context(), Options{Name: "other", Network: "unix", Address: path})
	if err == nil || !strings.Contains(err.Error(), "another process serves that socket") {
		t.Errorf("got %v; want that the socket is taken", err)
	}
}

func TestStaleUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as if it were killed
	dead.Close()
	l := serve(t, Options{Name: "admin", Network: "unix", Address: path}, echo)
	if !echoes(dial(t, l)) {
		t.Error("not served")
	}
}
