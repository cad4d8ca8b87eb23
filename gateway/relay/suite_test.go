package relay

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// testEngine is what every engine must pass.
func testEngine(t *testing.T, e Engine) {
	for name, f := range map[string]func(*testing.T, Engine){
		"a half-closed upload gets its answer":     testHalfClosedUpload,
		"a server may end first":                   testServerEndsFirst,
		"half-close reaches TLS and comes from it": testHalfCloseTLS,
		"no half-close to be had":                  testNoCloseWrite,
		"half-closed and silent":                   testHalfClosedSilent,
		"half-closed and streaming":                testHalfClosedStreaming,
		"the client resets":                        testClientResets,
		"the server resets behind its answer":      testServerResetsBehindAnswer,
		"the server resets behind a long answer":   testServerResetsBehindLongAnswer,
		"the client leaves during the answer":      testClientLeaves,
		"idle":                                     testIdle,
		"idle after bulk":                          testIdleAfterBulk,
		"busy one way is not idle":                 testBusyOneWay,
		"a reader that stopped is idle":            testStalledReader,
		"byte limit, small writes":                 testLimitSmall,
		"byte limit, bulk":                         testLimitBulk,
		"exactly the byte limit":                   testLimitExact,
		"cut while silent":                         testCutSilent,
		"cut while the reader is stalled":          testCutStalled,
		"cut while a TLS reader is stalled":        testCutStalledTLS,
		"cut before it began":                      testCutBefore,
		"peeked bytes first":                       testPeeked,
		"an old deadline does not matter":          testOldDeadline,
		"counters grow while bytes pass":           testLiveCounters,
		"content arrives whole":                    testContent,
		"a thousand tunnels leave nothing behind":  testNothingLeft,
		"an idle tunnel holds its two descriptors": testIdleDescriptors,
		"no descriptor to spare":                   testNoDescriptorToSpare,
	} {
		t.Run(name, func(t *testing.T) { f(t, e) })
	}
}

func testHalfClosedUpload(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP)
	send(t, w.client, "question")
	closeWriteOf(t, w.client)
	receive(t, w.server, "question")
	wantEOF(t, w.server)
	send(t, w.server, "answer")
	w.server.Close()
	receive(t, w.client, "answer")
	wantEOF(t, w.client)
	if r := w.wantEnds(EndEOF, EndEOF); r.Sent != 8 || r.Received != 6 || r.Err != nil {
		t.Errorf("got %+v; want 8 bytes sent, 6 received, no error", r)
	}
}

func testServerEndsFirst(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP)
	send(t, w.server, "greeting")
	closeWriteOf(t, w.server)
	receive(t, w.client, "greeting")
	wantEOF(t, w.client)
	send(t, w.client, "late")
	receive(t, w.server, "late")
	w.client.Close()
	wantEOF(t, w.server)
	w.wantEnds(EndEOF, EndEOF)
}

func testHalfCloseTLS(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTLS, overTCP)
	send(t, w.client, "question")
	closeWriteOf(t, w.client)
	receive(t, w.server, "question")
	wantEOF(t, w.server)
	send(t, w.server, "answer")
	closeWriteOf(t, w.server)
	receive(t, w.client, "answer")
	wantEOF(t, w.client)
	w.wantEnds(EndEOF, EndEOF)
}

// A side that can not be told of the end of the other gets a moment to say
// what it has to say, and is closed.
func testNoCloseWrite(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overPipe, overTCP)
	send(t, w.client, "question")
	receive(t, w.server, "question")
	send(t, w.server, "answer")
	w.server.Close()
	receive(t, w.client, "answer")
	wantEOF(t, w.client)
	w.wantEnds(EndTimeout, EndEOF)
}

func testHalfClosedSilent(t *testing.T, e Engine) {
	w := begin(t, e, Options{HalfCloseTimeout: 40 * time.Millisecond}, overTCP, overTCP)
	closeWriteOf(t, w.client)
	wantEOF(t, w.server)
	wantEOF(t, w.client)
	w.wantEnds(EndEOF, EndTimeout)
}

func testHalfClosedStreaming(t *testing.T, e Engine) {
	const gap = 200 * time.Millisecond
	w := begin(t, e, Options{HalfCloseTimeout: 4 * gap}, overTCP, overTCP)
	closeWriteOf(t, w.client)
	wantEOF(t, w.server)
	for range 8 {
		send(t, w.server, "x")
		receive(t, w.client, "x")
		<-time.After(gap)
	}
	w.server.Close()
	w.wantEnds(EndEOF, EndEOF)
}

func testClientResets(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP)
	send(t, w.client, "hello")
	receive(t, w.server, "hello")
	resetOf(t, w.client)
	wantReset(t, w.server)
	if r := w.wantEnds(EndReset, ""); !errors.Is(r.Err, syscall.ECONNRESET) {
		t.Errorf("error %v; want a reset", r.Err)
	}
}

func testServerResetsBehindAnswer(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP)
	send(t, w.client, "hello")
	receive(t, w.server, "hello")
	send(t, w.server, "go away")
	receive(t, w.client, "go away")
	resetOf(t, w.server)
	wantReset(t, w.client)
	w.wantEnds("", EndReset)
}

// A server that closes with unread bytes resets; its answer is behind that in
// the buffers between, and must not be thrown away.
func testServerResetsBehindLongAnswer(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP)
	send(t, w.client, strings.Repeat("u", 1000)) // never read
	const size = 1 << 20
	send(t, w.server, strings.Repeat("d", size/2))
	got := make(chan int)
	go func() {
		n, _ := io.Copy(io.Discard, w.client)
		got <- int(n)
	}()
	send(t, w.server, strings.Repeat("d", size/2))
	eventually(t, func() string { return "the answer was not taken from the server" }, func() bool {
		return (&side{raw: rawOf(t, w.server)}).unsent() == 0
	})
	w.server.Close()
	// The kernel of the relay may drop what it had not yet handed over when the
	// reset came; what the relay took is what the client must have.
	r := w.result()
	if n := <-got; int64(n) != r.Received || r.Server != EndReset {
		t.Errorf("client got %d of the %d bytes relayed, server ended by %q; want all, by a reset", n, r.Received, r.Server)
	}
}

func testClientLeaves(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP)
	send(t, w.client, "get")
	receive(t, w.server, "get")
	w.client.Close()
	block := make([]byte, 64<<10)
	for {
		if _, err := w.server.Write(block); err != nil {
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				t.Fatal("the server was not told that the client left")
			}
			break
		}
	}
	w.wantEnds(EndReset, "")
}

func testIdle(t *testing.T, e Engine) {
	w := begin(t, e, Options{IdleTimeout: 40 * time.Millisecond}, overTCP, overTCP)
	wantEOF(t, w.client)
	wantEOF(t, w.server)
	w.wantEnds(EndIdle, EndIdle)
}

func testIdleAfterBulk(t *testing.T, e Engine) {
	w := begin(t, e, Options{IdleTimeout: 400 * time.Millisecond}, overTCP, overTCP)
	const size = 4 << 20
	go io.Copy(w.server, io.LimitReader(zeros{}, size)) //nolint:errcheck // counted at the other end
	if n, err := io.CopyN(io.Discard, w.client, size); err != nil {
		t.Fatalf("received %d bytes: %v", n, err)
	}
	wantEOF(t, w.client)
	if r := w.wantEnds(EndIdle, EndIdle); r.Received != size {
		t.Errorf("received %d; want %d", r.Received, size)
	}
}

func testBusyOneWay(t *testing.T, e Engine) {
	const gap = 100 * time.Millisecond
	w := begin(t, e, Options{IdleTimeout: 8 * gap}, overTCP, overTCP)
	for range 16 {
		send(t, w.client, "x")
		receive(t, w.server, "x")
		<-time.After(gap)
	}
	w.client.Close()
	w.server.Close()
	w.wantEnds(EndEOF, EndEOF)
}

func testStalledReader(t *testing.T, e Engine) {
	for name, l := range map[string]link{"TCP": overTCP, "TLS": overTLS, "pipe": overPipe} {
		t.Run(name, func(t *testing.T) {
			w := begin(t, e, Options{IdleTimeout: 200 * time.Millisecond}, overTCP, l)
			if c, ok := w.server.(interface{ Handshake() error }); ok {
				if err := c.Handshake(); err != nil {
					t.Fatal(err)
				}
			}
			io.Copy(w.client, zeros{}) //nolint:errcheck // it writes until the relay gives up
			w.wantEnds(EndIdle, EndIdle)
		})
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func testOldDeadline(t *testing.T, e Engine) {
	w := begin(t, e, Options{}, overTCP, overTCP, func(c net.Conn) net.Conn {
		if err := c.SetDeadline(time.Now().Add(-time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	})
	send(t, w.client, "late")
	receive(t, w.server, "late")
	w.client.Close()
	w.server.Close()
	w.wantEnds(EndEOF, EndEOF)
}

func testLiveCounters(t *testing.T, e Engine) {
	var sent, received atomic.Int64
	w := begin(t, e, Options{Sent: &sent, Received: &received}, overTCP, overTCP)
	send(t, w.client, "12345")
	receive(t, w.server, "12345")
	send(t, w.server, "123")
	receive(t, w.client, "123")
	eventually(t, func() string { return "counters do not grow" }, func() bool {
		return sent.Load() == 5 && received.Load() == 3
	})
	w.cut()
	w.wantEnds(EndCut, EndCut)
}

func rawOf(t *testing.T, c net.Conn) syscall.RawConn {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
