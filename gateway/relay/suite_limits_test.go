package relay

import (
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func testLimitSmall(t *testing.T, e Engine) {
	w := begin(t, e, Options{MaxBytes: 10}, overTCP, overTCP)
	send(t, w.client, "123456")
	receive(t, w.server, "123456")
	send(t, w.server, "abcdefg")
	if got := wantReset(t, w.client); string(got) != "abcd" && len(got) != 0 {
		t.Errorf("client got %q; want at most the four bytes that were left", got)
	}
	wantReset(t, w.server)
	if r := w.wantEnds(EndLimit, EndLimit); r.Sent != 6 || r.Received != 4 {
		t.Errorf("sent %d, received %d; want 6 and 4", r.Sent, r.Received)
	}
}

func testLimitBulk(t *testing.T, e Engine) {
	const limit = 3<<20 + 7
	w := begin(t, e, Options{MaxBytes: limit}, overTCP, overTCP)
	go io.Copy(w.server, zeros{}) //nolint:errcheck // it writes until it is cut
	n, err := io.Copy(io.Discard, w.client)
	if err == nil || n > limit {
		t.Errorf("client got %d bytes, %v; want at most %d and a reset", n, err, limit)
	}
	if r := w.wantEnds(EndLimit, EndLimit); r.Received != limit {
		t.Errorf("received %d; want %d", r.Received, limit)
	}
}

func testLimitExact(t *testing.T, e Engine) {
	w := begin(t, e, Options{MaxBytes: 6}, overTCP, overTCP)
	send(t, w.client, "123456")
	receive(t, w.server, "123456")
	w.client.Close()
	w.server.Close()
	w.wantEnds(EndEOF, EndEOF)
}

func testCutSilent(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP)
	send(t, w.client, "hello")
	receive(t, w.server, "hello")
	w.cut()
	wantReset(t, w.client)
	wantReset(t, w.server)
	w.wantEnds(EndCut, EndCut)
}

func testCutStalled(t *testing.T, e Engine)    { cutStalled(t, e, overTCP, overTCP) }
func testCutStalledTLS(t *testing.T, e Engine) { cutStalled(t, e, overTCP, overTLS) }

// cutStalled cuts a flow whose server reads nothing any more.
func cutStalled(t *testing.T, e Engine, client, server link) {
	w := begin(t, e, Options{}, client, server)
	if c, ok := w.server.(interface{ Handshake() error }); ok {
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
	}
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		io.Copy(w.client, zeros{}) //nolint:errcheck // it writes until it is cut
	}()
	raw := &side{raw: rawOf(t, w.client)}
	last, same := -1, 0
	eventually(t, func() string { return "the client can write on and on" }, func() bool {
		if n := raw.unsent(); n > 0 && n == last {
			same++
		} else {
			last, same = n, 0
		}
		return same > 50
	})
	w.cut()
	w.wantEnds(EndCut, EndCut)
	<-filled
}

func testCutBefore(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP, nil, func(c net.Conn) net.Conn { return c })
	w.cut()
	w.wantEnds(EndCut, EndCut)
}

func testPeeked(t *testing.T, e Engine) {
	twice := func(c net.Conn) net.Conn { return withPrefix("one, ")(withPrefix("two, ")(c)) }
	for name, l := range map[string]link{"TCP": overTCP, "TLS": overTLS} {
		t.Run(name, func(t *testing.T) {
			w := begin(t, e, Options{}, l, overTCP, twice, withPrefix("220 "))
			send(t, w.client, "three")
			receive(t, w.server, "one, two, three")
			send(t, w.server, "ready")
			receive(t, w.client, "220 ready")
			w.client.Close()
			w.server.Close()
			if r := w.result(); r.Sent != 15 || r.Received != 9 {
				t.Errorf("sent %d, received %d; want 15 and 9, with what was peeked", r.Sent, r.Received)
			}
		})
	}
}

// testNothingLeft opens and ends tunnels in every way, many at a time.
func testNothingLeft(t *testing.T, e Engine) {
	const rounds, width = 50, 20
	round := func() {
		var all sync.WaitGroup
		for i := range width {
			w := begin(t, e, Options{}, overTCP, overTCP)
			all.Add(1)
			go func() {
				defer all.Done()
				io.WriteString(w.client, strings.Repeat("x", 1<<(i%8*2))) //nolint:errcheck // only the end counts
				switch i % 4 {
				case 0:
					w.client.Close()
					w.server.Close()
				case 1:
					w.client.(*net.TCPConn).SetLinger(0) //nolint:errcheck // as above
					w.client.Close()
				case 2:
					w.cut()
				case 3:
					w.server.Close()
					w.client.Close()
				}
				<-w.done
				w.client.Close()
				w.server.Close()
			}()
		}
		all.Wait()
	}
	round()
	release(e)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	for range rounds {
		round()
	}
	release(e)
	eventually(t, func() string {
		buf := make([]byte, 1<<20)
		return string(buf[:runtime.Stack(buf, true)])
	}, func() bool { return runtime.NumGoroutine() <= goroutines && descriptors(t) <= files })
}

// release gives back what an engine keeps for the next flow.
func release(e Engine) {
	if p, ok := e.(*portable); ok {
		p.pipes.drainIdle()
	}
}

func testIdleDescriptors(t *testing.T, e Engine) {
	const tunnels, size = 20, 1 << 20
	release(e)
	before := descriptors(t)
	for range tunnels {
		w := begin(t, e, Options{}, overTCP, overTCP)
		go io.Copy(w.server, io.LimitReader(zeros{}, size)) //nolint:errcheck // counted at the other end
		if n, err := io.CopyN(io.Discard, w.client, size); err != nil {
			t.Fatalf("received %d bytes: %v", n, err)
		}
	}
	const want = tunnels * 4 // two of the relay, two of this test
	eventually(t, func() string { return "idle tunnels hold descriptors" }, func() bool {
		release(e)
		return descriptors(t)-before <= want
	})
}

// At the limit of descriptors a flow goes on without a pipe.
func testNoDescriptorToSpare(t *testing.T, e Engine) {
	const size = 4 << 20
	w := begin(t, e, Options{}, overTCP, overTCP)
	send(t, w.client, "hello")
	receive(t, w.server, "hello")
	release(e)

	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
	}()
	go io.Copy(w.server, io.LimitReader(zeros{}, size)) //nolint:errcheck // counted at the other end
	if n, err := io.CopyN(io.Discard, w.client, size); err != nil {
		t.Fatalf("received %d bytes: %v", n, err)
	}
}
