package sniff

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// pair returns the two ends of a TCP connection on loopback.
func pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// readConn is a connection of which only reading is used.
type readConn struct {
	net.Conn
	r io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func sent(t *testing.T, content []byte) *Conn {
	t.Helper()
	a, b := pair(t)
	go func() {
		a.Write(content)
		a.Close()
	}()
	return NewConn(b)
}

func numbered(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i + i>>8)
	}
	return b
}

func TestConnKeepsTheReaderContract(t *testing.T) {
	content := numbered(20_000)
	for _, n := range []int{0, 1, 5, blockSize - 1, blockSize, blockSize + 1, 15_000, 20_000} {
		c := sent(t, content)
		got, err := c.Peek(n)
		if err != nil || !bytes.Equal(got, content[:n]) {
			t.Fatalf("Peek(%d) = %d bytes, %v", n, len(got), err)
		}
		if err := iotest.TestReader(c, content); err != nil {
			t.Errorf("after Peek(%d): %v", n, err)
		}
	}
}

func TestConnKeepsTheReaderContractUnderOddReaders(t *testing.T) {
	content := numbered(1000)
	readers := map[string]func(io.Reader) io.Reader{
		"one byte at a time":    iotest.OneByteReader,
		"half of what is asked": iotest.HalfReader,
		"error with the bytes":  iotest.DataErrReader,
	}
	for name, odd := range readers {
		t.Run(name, func(t *testing.T) {
			c := NewConn(readConn{r: odd(bytes.NewReader(content))})
			if got, err := c.Peek(len(content)); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("Peek = %d bytes, %v", len(got), err)
			}
			if err := iotest.TestReader(c, content); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPeekGrowsAndConsumesNothing(t *testing.T) {
	content := numbered(MaxPeek)
	c := sent(t, content)
	for n := 1; n <= MaxPeek; n = n*3/2 + 1 {
		if got, err := c.Peek(n); err != nil || !bytes.Equal(got, content[:n]) {
			t.Fatalf("Peek(%d) = %d bytes, %v", n, len(got), err)
		}
	}
	if got, err := c.Peek(MaxPeek); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("Peek(MaxPeek) = %d bytes, %v", len(got), err)
	}
	if got, err := c.Peek(MaxPeek + 1); !errors.Is(err, ErrPeekTooLong) || len(got) != MaxPeek {
		t.Errorf("Peek(MaxPeek+1) = %d bytes, %v; want all of them and ErrPeekTooLong", len(got), err)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, content) {
		t.Errorf("then read %d bytes, %v", len(got), err)
	}
}

func TestPeekPastTheEndReturnsWhatThereIs(t *testing.T) {
	c := sent(t, []byte("abc"))
	for range 2 {
		if got, err := c.Peek(4); string(got) != "abc" || err != io.EOF {
			t.Fatalf("Peek(4) = %q, %v; want all three and EOF", got, err)
		}
	}
	if got, err := io.ReadAll(c); string(got) != "abc" || err != nil {
		t.Errorf("ReadAll = %q, %v", got, err)
	}
}

func TestDeadlineLosesNoByte(t *testing.T) {
	a, b := pair(t)
	c := NewConn(b)
	a.Write([]byte("early "))
	if _, err := c.Peek(6); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Unix(1, 0))
	if got, err := c.Peek(10); string(got) != "early " || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Peek = %q, %v; want the early bytes and a deadline error", got, err)
	}
	c.SetReadDeadline(time.Time{})
	a.Write([]byte("late"))
	a.CloseWrite()
	if got, err := c.Peek(10); string(got) != "early late" || err != nil {
		t.Errorf("Peek = %q, %v after the deadline is lifted", got, err)
	}
	if got, err := io.ReadAll(c); string(got) != "early late" || err != nil {
		t.Errorf("ReadAll = %q, %v", got, err)
	}
}

func TestResetComesAfterTheBytes(t *testing.T) {
	broken := io.MultiReader(bytes.NewReader([]byte("abc")), iotest.ErrReader(syscall.ECONNRESET))
	c := NewConn(readConn{r: broken})
	if got, err := c.Peek(9); string(got) != "abc" || !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("Peek = %q, %v", got, err)
	}
	if got, err := io.ReadAll(c); string(got) != "abc" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("ReadAll = %q, %v; want the bytes, then the reset", got, err)
	}
}

func TestDiscardAndUnread(t *testing.T) {
	c := sent(t, []byte("greeting+request"))
	if _, err := c.Peek(16); err != nil {
		t.Fatal(err)
	}
	c.Discard(9)
	if got := string(c.Buffered()); got != "request" {
		t.Fatalf("Buffered = %q after Discard", got)
	}
	c.Unread([]byte("the "))
	c.Unread(nil)
	if got, err := c.Peek(11); string(got) != "the request" || err != nil {
		t.Fatalf("Peek = %q, %v after Unread", got, err)
	}
	c.Discard(1000)
	if got := c.Buffered(); len(got) != 0 {
		t.Fatalf("Buffered = %q after all is discarded", got)
	}
	c.Unread([]byte("x"))
	if got, err := io.ReadAll(c); string(got) != "x" || err != nil {
		t.Errorf("ReadAll = %q, %v", got, err)
	}
}

func TestConnHoldsNoBufferUnlessLookedInto(t *testing.T) {
	a, b := pair(t)
	c := NewConn(b)
	p := make([]byte, 1)
	if n := testing.AllocsPerRun(10, func() {
		a.Write(p)
		if _, err := c.Read(p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations to read a byte, want 0", n)
	}
	if c.block != nil || c.buf != nil {
		t.Error("reading made a buffer")
	}
	a.Write(p)
	c.Peek(1)
	c.Read(p)
	if c.block != nil || c.buf != nil {
		t.Error("the buffer is kept after it is drained")
	}
}

func TestCloseWrite(t *testing.T) {
	a, b := pair(t)
	if err := NewConn(b).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(a); len(got) != 0 || err != nil {
		t.Errorf("the other side read %q, %v; want EOF", got, err)
	}
	if err := NewConn(readConn{}).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseWrite of a connection without halves: %v, want ErrUnsupported", err)
	}
}

func TestAlertIsWhatATLSClientReads(t *testing.T) {
	a, b := pair(t)
	if err := WriteAlert(b, AlertAccessDenied); err != nil {
		t.Fatal(err)
	}
	b.Close()
	err := handshake(a, "alert.example")
	var op *net.OpError
	if !errors.As(err, &op) || op.Err.Error() != "tls: access denied" {
		t.Errorf("the client's handshake failed with %v, want tls: access denied", err)
	}
}
