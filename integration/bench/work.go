package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The command byte that a client sends behind its ClientHello.
const (
	cmdClose = 'c' // answer 512 bytes and close
	cmdEcho  = 'e' // echo until the end
	cmdFlood = 'f' // send until the end
)

const (
	host       = "a.bench.test"
	denied     = "a.denied.test"
	answerSize = 512
	tripSize   = 256

	churnWorkers = 16
	tunnels      = 64 // of ping-pong
	streams      = 8  // of bulk

	// maxConns bounds one window of churn: well under the local ports there
	// are, since closed connections keep theirs for a minute.
	maxConns = 12_000
)

// startUpstream serves port 443 of this namespace.
func startUpstream() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:443")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	return l, nil
}

func answer(c net.Conn) {
	defer c.Close()
	var head [5]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	// The record of the ClientHello, which is skipped, and the command byte.
	rest := make([]byte, int(head[3])<<8+int(head[4])+1)
	if _, err := io.ReadFull(c, rest); err != nil {
		return
	}
	switch rest[len(rest)-1] {
	case cmdClose:
		c.Write(make([]byte, answerSize)) //nolint:errcheck // the client checks
	case cmdEcho:
		buf := make([]byte, 4<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	case cmdFlood:
		buf := make([]byte, 1<<20)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}
}

// hello and deniedHello are real ClientHellos, as crypto/tls makes them.
var (
	hello       = sync.OnceValues(func() ([]byte, error) { return makeHello(host) })
	deniedHello = sync.OnceValues(func() ([]byte, error) { return makeHello(denied) })
)

func makeHello(name string) ([]byte, error) {
	client, server := net.Pipe()
	defer server.Close()
	go tls.Client(client, &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}).Handshake() //nolint:errcheck // it is cut
	buf := make([]byte, 16<<10)
	n, err := server.Read(buf)
	return buf[:n], err
}

// open makes a tunnel through a front and sends cmd in it.
func open(ctx context.Context, kind, addr string, cmd byte) (net.Conn, error) {
	var d net.Dialer
	d.Timeout = 10 * time.Second
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	if err := enterTunnel(c, kind, cmd); err != nil {
		c.Close()
		return nil, fmt.Errorf("%s through %s: %w", kind, addr, err)
	}
	return c, nil
}

// enterTunnel begins as a TLS client does, behind a CONNECT too: the gateway
// looks into its tunnels. What follows is in clear, and so costs this program
// nothing that would be measured.
func enterTunnel(c net.Conn, kind string, cmd byte) error {
	h, err := hello()
	if err != nil {
		return err
	}
	if kind == "connect" {
		if err := connect(c); err != nil {
			return err
		}
	}
	_, err = c.Write(append(h[:len(h):len(h)], cmd))
	return err
}

func connect(c net.Conn) error {
	if _, err := fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", host); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c, 1<<10)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || r.Buffered() > 0 {
		return fmt.Errorf("answer %s, %d bytes behind it", resp.Status, r.Buffered())
	}
	return nil
}

// workload drives one front for a window and returns units of work done.
type workload struct {
	name, unit string
	per        float64 // units that the processor time is given for
	run        func(ctx context.Context, kind, addr string, window time.Duration) (int64, error)
}

var workloads = []workload{
	{"churn", "µs/conn", 1, churn},
	{"deny", "µs/conn", 1, deny},
	{"pingpong", "µs/trip", 1, pingPong},
	{"bulk", "µs/MB", 1e6, bulk},
}

// each runs n clients until the window has passed, each with its own
// connection work, and adds up what they did.
func each(ctx context.Context, n int, window time.Duration, f func(until time.Time, done *atomic.Int64) error) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, window+30*time.Second)
	defer cancel()
	var done atomic.Int64
	errs := make([]error, n)
	var all sync.WaitGroup
	until := time.Now().Add(window)
	for i := range n {
		all.Go(func() {
			if ctx.Err() == nil {
				errs[i] = f(until, &done)
			}
		})
	}
	all.Wait()
	return done.Load(), errors.Join(append(errs, context.Cause(ctx))...)
}

func churn(ctx context.Context, kind, addr string, window time.Duration) (int64, error) {
	return each(ctx, churnWorkers, window, func(until time.Time, done *atomic.Int64) error {
		buf := make([]byte, answerSize+1)
		for time.Now().Before(until) && done.Load() < maxConns {
			c, err := open(ctx, kind, addr, cmdClose)
			if err != nil {
				return err
			}
			n, err := io.ReadFull(c, buf)
			c.Close()
			if n != answerSize || !errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("answer of %d bytes, %w; want %d and the end", n, err, answerSize)
			}
			done.Add(1)
		}
		return nil
	})
}

// deny asks for a name that is not allowed, and reads the refusal to its end.
func deny(ctx context.Context, kind, addr string, window time.Duration) (int64, error) {
	return each(ctx, churnWorkers, window, func(until time.Time, done *atomic.Int64) error {
		buf := make([]byte, 4<<10)
		for time.Now().Before(until) && done.Load() < maxConns {
			if err := askDenied(ctx, kind, addr, buf); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
}

func askDenied(ctx context.Context, kind, addr string, buf []byte) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	request, err := deniedHello()
	if kind == "connect" {
		request = fmt.Appendf(buf[:0], "CONNECT %s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", denied)
	}
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(request); err != nil {
		return err
	}
	if kind == "connect" {
		return readRefusal(c)
	}
	n, err := io.ReadFull(c, buf)
	if errors.Is(err, os.ErrDeadlineExceeded) || n > 7 { // an alert has 7 bytes
		return fmt.Errorf("%s through %s: answer of %d bytes, %w; want an alert or nothing, and the end", kind, addr, n, err)
	}
	return nil
}

// readRefusal reads the answer to a refused CONNECT, whose connection may
// stay open.
func readRefusal(c net.Conn) error {
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 4<<10), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusForbidden {
		return fmt.Errorf("answer %s; want a refusal", resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func pingPong(ctx context.Context, kind, addr string, window time.Duration) (int64, error) {
	return each(ctx, tunnels, window, func(until time.Time, done *atomic.Int64) error {
		c, err := open(ctx, kind, addr, cmdEcho)
		if err != nil {
			return err
		}
		defer c.Close()
		buf := make([]byte, tripSize)
		for time.Now().Before(until) {
			if _, err := c.Write(buf); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
}

func bulk(ctx context.Context, kind, addr string, window time.Duration) (int64, error) {
	return each(ctx, streams, window, func(until time.Time, done *atomic.Int64) error {
		c, err := open(ctx, kind, addr, cmdFlood)
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		for time.Now().Before(until) {
			n, err := drop(raw)
			if err != nil {
				return err
			}
			done.Add(int64(n))
		}
		return nil
	})
}

// sink is never read, and so may be shared: see drop.
var sink = make([]byte, 4<<20)

// drop takes what is there and lets the kernel throw it away (MSG_TRUNC, see
// tcp(7)), so that the client is not what is measured.
func drop(raw syscall.RawConn) (n int, err error) {
	rerr := raw.Read(func(fd uintptr) bool {
		n, _, err = syscall.Recvfrom(int(fd), sink, syscall.MSG_TRUNC)
		return err != syscall.EAGAIN
	})
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, errors.Join(rerr, err)
}
