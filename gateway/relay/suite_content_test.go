package relay

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/iotest"
)

// testContent sends megabytes both ways at once, in pieces of every size, to
// readers of every size.
func testContent(t *testing.T, e Engine) {
	for name, links := range map[string][2]link{
		"TCP to TCP":  {overTCP, overTCP},
		"TLS to TCP":  {overTLS, overTCP},
		"TCP to TLS":  {overTCP, overTLS},
		"pipe to TCP": {overPipe, overTCP},
	} {
		t.Run(name, func(t *testing.T) {
			const size = 3<<20 + 17
			w := begin(t, e, Options{}, links[0], links[1])
			sums := make(chan [sha256.Size]byte, 2)
			go func() { sums <- take(t, w.client, size) }()
			go func() { sums <- take(t, w.server, size) }()
			wrote := make(chan [sha256.Size]byte, 2)
			go func() { wrote <- give(t, w.client, size, 1) }()
			go func() { wrote <- give(t, w.server, size, 1) }()
			if a, b, c, d := <-wrote, <-wrote, <-sums, <-sums; a != b || c != d || a != c {
				t.Errorf("what was received is not what was sent")
			}
			w.cut()
			if r := w.result(); r.Sent != size || r.Received != size {
				t.Errorf("sent %d, received %d; want %d both", r.Sent, r.Received, size)
			}
		})
	}
}

// give writes size bytes made from seed in random pieces.
func give(t *testing.T, c net.Conn, size int, seed uint64) [sha256.Size]byte {
	bytes, pieces := rand.NewChaCha8([32]byte{byte(seed)}), rand.New(rand.NewPCG(seed, rand.Uint64())) //nolint:gosec // test data
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for size > 0 {
		b := buf[:min(size, 1+pieces.IntN(1<<pieces.IntN(19)))]
		bytes.Read(b) //nolint:errcheck // it never fails
		h.Write(b)
		if _, err := c.Write(b); err != nil {
			t.Errorf("write with %d bytes to go: %v", size, err)
			break
		}
		size -= len(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// take reads size bytes in random pieces.
func take(t *testing.T, c net.Conn, size int) [sha256.Size]byte {
	pieces := rand.New(rand.NewPCG(2, rand.Uint64())) //nolint:gosec // test data
	h := sha256.New()
	buf := make([]byte, 256<<10)
	half := iotest.HalfReader(c)
	for size > 0 {
		r := io.Reader(c)
		if pieces.IntN(2) == 0 {
			r = half
		}
		n, err := r.Read(buf[:min(size, 1+pieces.IntN(1<<pieces.IntN(19)))])
		h.Write(buf[:n])
		size -= n
		if err != nil {
			t.Errorf("read with %d bytes to come: %v", size, err)
			break
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}
