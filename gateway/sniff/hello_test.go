package sniff

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"testing/iotest"
	"time"
)

func TestParseClientHelloAgreesWithCryptoTLS(t *testing.T) {
	for _, c := range hellos(t) {
		t.Run(c.name, func(t *testing.T) {
			h, n, err := ParseClientHello(c.bytes)
			if err != nil || n != len(c.bytes) {
				t.Fatalf("ParseClientHello = %d, %v; want %d", n, err, len(c.bytes))
			}
			want := oracle(c.bytes)
			if want == nil {
				t.Fatal("crypto/tls refuses its own hello")
			}
			if what := differs(h, want); what != "" {
				t.Errorf("%s: got %+v, crypto/tls says %+v", what, h, want)
			}
		})
	}
}

func TestHelloOfAnEncryptedClientHelloIsTheOuterOne(t *testing.T) {
	cfg := &tls.Config{ServerName: "secret.example", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfig(t)}
	h, _, err := ParseClientHello(clientHelloOf(cfg))
	if err != nil || !h.ECH || string(h.ServerName) != "public.example" {
		t.Errorf("got %q, ECH %v, %v; want public.example with ECH", h.ServerName, h.ECH, err)
	}
}

// segmentations are ways to cut a hello into records.
var segmentations = map[string][]int{
	"one record":              {maxRecord},
	"two records":             {800, maxRecord},
	"header in its own":       {messageHeader, maxRecord},
	"header split":            {1, 2, 1, maxRecord},
	"records of one byte":     {1},
	"records of uneven sizes": {3, 1, 7, 100},
}

func TestEveryCutNeedsMore(t *testing.T) {
	for _, c := range hellos(t) {
		if len(c.bytes) > maxRecord {
			continue // TestLongHellos has those
		}
		for how, sizes := range segmentations {
			if sizes[0] == 1 && len(sizes) == 1 && len(c.bytes) > 600 {
				continue // each cut walks all records anew: the short hellos will do
			}
			stream := rerecord(c.bytes, sizes...)
			for i := range stream {
				_, need, err := ParseClientHello(stream[:i])
				if err != ErrNeedMore || need <= i || need > len(stream) {
					t.Fatalf("%s, %s: first %d of %d bytes: need %d, %v", c.name, how, i, len(stream), need, err)
				}
			}
		}
	}
}

func TestSameVerdictInAnyRecords(t *testing.T) {
	for _, c := range hellos(t) {
		want, _, err := ParseClientHello(c.bytes)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for how, sizes := range segmentations {
			stream := rerecord(c.bytes, sizes...)
			if len(stream) > MaxHello {
				continue
			}
			behind := append(bytes.Clone(stream), "what comes next"...)
			h, n, err := ParseClientHello(behind)
			if err != nil || n != len(stream) || !sameHello(h, want) {
				t.Errorf("%s, %s: got %+v, %d, %v; want %+v, %d", c.name, how, h, n, err, want, len(stream))
			}
		}
	}
}

func sameHello(a, b Hello) bool {
	return bytes.Equal(a.ServerName, b.ServerName) && a.HasServerName == b.HasServerName &&
		bytes.Equal(a.ALPN, b.ALPN) && a.ECH == b.ECH && a.MaxVersion == b.MaxVersion
}

// padded returns a hello whose message is n bytes long, in records as long as
// may be.
func padded(n int) []byte {
	const extPadding = 21
	m := message(0x0303, serverName("long.example"), extension{extPadding, nil})
	m = message(0x0303, serverName("long.example"), extension{extPadding, make([]byte, n-len(m))})
	return rerecord(record(m), maxRecord)
}

func TestLongHellos(t *testing.T) {
	for _, n := range []int{maxRecord, maxRecord + 1, 20_000, 60_000, MaxHello - 4*recordHeader} {
		b := padded(n)
		h, got, err := ParseClientHello(b)
		if err != nil || got != len(b) || string(h.ServerName) != "long.example" {
			t.Errorf("message of %d bytes: %q, %d, %v", n, h.ServerName, got, err)
		}
		if n < 65_000 && oracle(b) == nil {
			t.Errorf("message of %d bytes: crypto/tls refuses it", n)
		}
	}
}

// readers are ways in which a stream can arrive.
var readers = map[string]func(io.Reader) io.Reader{
	"as it is":                     func(r io.Reader) io.Reader { return r },
	"one byte at a time":           iotest.OneByteReader,
	"half of what is asked":        iotest.HalfReader,
	"end together with last bytes": iotest.DataErrReader,
}

func TestReadClientHello(t *testing.T) {
	for _, c := range hellos(t) {
		want, _, err := ParseClientHello(c.bytes)
		if err != nil {
			t.Fatal(err)
		}
		stream := append(rerecord(c.bytes, 700, 1, maxRecord), "early data"...)
		for how, arrive := range readers {
			conn := NewConn(readConn{r: arrive(bytes.NewReader(stream))})
			h, err := ReadClientHello(conn)
			if err != nil || !sameHello(h, want) {
				t.Errorf("%s, %s: %+v, %v; want %+v", c.name, how, h, err, want)
			}
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, stream) {
				t.Errorf("%s, %s: then read %d of %d bytes, %v", c.name, how, len(got), len(stream), err)
			}
		}
	}
}

func TestReadClientHelloAnswersAtTheFirstWrongByte(t *testing.T) {
	a, b := pair(t)
	a.Write([]byte("\x16\x03\x01\x00\x02\x01\x00\x17")) // another record type inside the message; no more comes
	_, err := ReadClientHello(NewConn(b))
	if bad := (*HelloError)(nil); !errors.As(err, &bad) || bad.Why != WhyNotHandshake {
		t.Errorf("got %v, want %s", err, WhyNotHandshake)
	}
}

func TestReadClientHelloSaysHowItEnded(t *testing.T) {
	hello := hellos(t)[0].bytes
	for _, c := range []struct {
		name string
		sent []byte
		want error
	}{
		{"closed at once", nil, io.EOF},
		{"closed within the header", hello[:3], io.ErrUnexpectedEOF},
		{"closed within the message", hello[:100], io.ErrUnexpectedEOF},
	} {
		if _, err := ReadClientHello(sent(t, c.sent)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	_, b := pair(t)
	b.SetReadDeadline(time.Unix(1, 0))
	if _, err := ReadClientHello(NewConn(b)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
}

// A client may make us work before it is known: what that costs is bounded by
// what it sends.
func TestReadingCostsLittleMoreThanWhatIsSent(t *testing.T) {
	for how, stream := range map[string][]byte{
		"60 KB in long records":      padded(60_000),
		"10 KB in records of a byte": rerecord(padded(10_000), 1),
	} {
		conn := NewConn(readConn{r: iotest.OneByteReader(bytes.NewReader(stream))})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ReadClientHello(conn)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if cost := after.TotalAlloc - before.TotalAlloc; cost > uint64(4*len(stream)+64<<10) {
			t.Errorf("%s: %d bytes allocated for %d", how, cost, len(stream))
		}
	}
}

func TestParseClientHelloAllocatesNothing(t *testing.T) {
	for _, c := range hellos(t) {
		if recordHeader+int(c.bytes[3])<<8+int(c.bytes[4]) != len(c.bytes) {
			continue
		}
		if n := testing.AllocsPerRun(100, func() { ParseClientHello(c.bytes) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", c.name, n)
		}
	}
}

// verdict is what a caller acts on.
func verdict(b []byte) string {
	h, _, err := ParseClientHello(b)
	if err != nil {
		return err.Error()
	}
	return string(h.ServerName)
}

// FuzzParseClientHello is the gate for every name that is decided on, exposed
// to every client. crypto/tls is the oracle: what it accepts we read the same
// way, or refuse.
func FuzzParseClientHello(f *testing.F) {
	for i, c := range hellos(f) {
		if len(c.bytes) > maxRecord {
			continue
		}
		f.Add(c.bytes, uint64(i))
		f.Add(rerecord(c.bytes, 1, 500), uint64(i))
	}
	for _, c := range refusals {
		f.Add(c.bytes, uint64(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		h, n, err := ParseClientHello(b)
		want := oracle(b)
		switch {
		case err == ErrNeedMore:
			if n <= len(b) {
				t.Fatalf("needs %d bytes, and has %d", n, len(b))
			}
			if want != nil {
				t.Fatalf("needs more than crypto/tls, which read %q", want.ServerName)
			}
		case err == nil && want != nil:
			if what := differs(h, want); what != "" {
				t.Fatalf("%s: %+v, crypto/tls says %+v", what, h, want)
			}
		}
		whole := verdict(b)
		for i := range min(len(b), 600) {
			if got := verdict(b[:i]); got != ErrNeedMore.Error() && got != whole {
				t.Fatalf("verdict %q, but %q of the first %d bytes", whole, got, i)
			}
		}
		random := rand.New(rand.NewPCG(seed, 1))
		if conn := NewConn(readConn{r: &randomReader{random, bytes.NewReader(b)}}); err != ErrNeedMore {
			got, readErr := ReadClientHello(conn)
			if (readErr == nil) != (err == nil) || err != nil && readErr.Error() != err.Error() || !sameHello(got, h) {
				t.Fatalf("in pieces: %+v, %v; whole: %+v, %v", got, readErr, h, err)
			}
			if all, _ := io.ReadAll(conn); !bytes.Equal(all, b) {
				t.Fatalf("the pieces are %d bytes, not the %d that came", len(all), len(b))
			}
		}
		if err == nil {
			again := rerecord(b[:n], 1+random.IntN(64), 1+random.IntN(maxRecord))
			if got := verdict(again); len(again) <= MaxHello && got != whole {
				t.Fatalf("verdict %q, but %q in other records", whole, got)
			}
		}
	})
}

// randomReader gives out pieces of random sizes.
type randomReader struct {
	random *rand.Rand
	r      io.Reader
}

func (r *randomReader) Read(p []byte) (int, error) {
	return r.r.Read(p[:min(len(p), 1+r.random.IntN(100))])
}

func BenchmarkParseClientHello(b *testing.B) {
	cfg := &tls.Config{ServerName: "www.example.com", NextProtos: []string{"h2", "http/1.1"}}
	hello := clientHelloOf(cfg)
	for _, c := range []helloCase{{"one record", hello}, {"two records", rerecord(hello, 800, maxRecord)}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := ParseClientHello(c.bytes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
