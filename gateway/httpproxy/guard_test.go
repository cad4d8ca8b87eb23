package httpproxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"sluice/gateway/sniff"
)

// bytesConn is a connection that the client has said all on.
type bytesConn struct {
	net.Conn
	r io.Reader
}

func (c bytesConn) Read(p []byte) (int, error)      { return c.r.Read(p) }
func (c bytesConn) SetReadDeadline(time.Time) error { return nil }

// FuzzBodyGuard puts a head of a chunked request before in. What the guard
// gives out must be a message for net/http if and only if the guard took it
// for a whole one, and must end where the guard says it ends.
func FuzzBodyGuard(f *testing.F) {
	const head = "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, body := range []string{
		"5\r\nhello\r\n0\r\n\r\n", "5;a=b;c\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\nGET ", "0\r\n\r\n", "00\r\n\r\n", "a\r\n0123456789\r\n0\r\n\r\n",
		"5\nhello\n0\n\n", "0x5\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5;a=\"b\"\r\nhello\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFF\r\n",
		"5\r\nhello0\r\n\r\n", "0\r\nHost: x\r\n\r\n", "0\r\nX\r\n\r\n", "0\r\nX: y\r\n z\r\n\r\n",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		in := append([]byte(head), body...)
		g := newGuard(sniff.NewConn(bytesConn{r: bytes.NewReader(in)}), limits{head: time.Hour, stall: time.Hour, bytes: 64 << 10})
		if err := g.readHead(); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		buf := make([]byte, 7) // small, to cut lines
		whole := false
		for !whole {
			n, err := g.Read(buf)
			out.Write(buf[:n])
			if err != nil {
				break
			}
			whole = g.state == atHead && g.out == ""
		}
		r := bufio.NewReader(&out)
		req, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		_, err = io.Copy(io.Discard, req.Body)
		if (err == nil) != whole {
			t.Fatalf("%q: whole %v, but net/http says %v", body, whole, err)
		}
		if whole && r.Buffered() > 0 {
			t.Fatalf("%q: net/http leaves %d bytes for a next request", body, r.Buffered())
		}
	})
}
