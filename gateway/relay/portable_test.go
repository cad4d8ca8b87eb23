package relay

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestPortable(t *testing.T) { testEngine(t, Portable) }

// With a clock of its own, the bounds of silence can be told to the moment.
func TestSilenceIsMeasured(t *testing.T) {
	for name, c := range map[string]struct {
		o        Options
		word     string
		min, max time.Duration
	}{
		"default":    {Options{}, EndIdle, time.Hour, time.Hour + 15*time.Minute},
		"one minute": {Options{IdleTimeout: time.Minute}, EndIdle, time.Minute, 75 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, c1 := net.Pipe()
				server, s1 := net.Pipe()
				done := make(chan Result)
				go func() { done <- Run(context.Background(), c1, s1, c.o) }()

				for range 3 { // bytes seldom, but in time, keep it
					time.Sleep(c.min - time.Nanosecond) //nolint:forbidigo // the clock is synctest's
					go client.Write([]byte("x"))        //nolint:errcheck // seen at the other end
					if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
						t.Fatal(err)
					}
				}
				last := time.Now()
				r := <-done
				if took := time.Since(last); took < c.min || took > c.max {
					t.Errorf("ended %v after the last byte; want %v to %v", took, c.min, c.max)
				}
				if r.Client != c.word || r.Server != c.word || r.Sent != 3 {
					t.Errorf("got %+v; want both sides %q and 3 bytes", r, c.word)
				}
			})
		})
	}
}

func TestNoIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, c1 := net.Pipe()
		server, s1 := net.Pipe()
		done := make(chan Result)
		go func() { done <- Run(context.Background(), c1, s1, Options{IdleTimeout: -1}) }()
		time.Sleep(365 * 24 * time.Hour) //nolint:forbidigo // the clock is synctest's
		go client.Write([]byte("x"))     //nolint:errcheck // seen at the other end
		if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		client.Close()
		server.Close()
		<-done
	})
}

func BenchmarkPingPong(b *testing.B) {
	client, near := overTCP(b)
	server, below := overTCP(b)
	done := make(chan Result)
	go func() { done <- Run(context.Background(), near, below, Options{}) }()
	go io.Copy(server, server) //nolint:errcheck // it echoes until it is closed
	buf := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
	client.Close()
	server.Close() // the echo does not: a half-open flow would end by its time-out
	<-done
}

func BenchmarkBulk(b *testing.B) {
	client, near := overTCP(b)
	server, below := overTCP(b)
	done := make(chan Result)
	go func() { done <- Run(context.Background(), near, below, Options{}) }()
	go io.Copy(io.Discard, server) //nolint:errcheck // it reads until it is closed
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	client.Close()
	server.Close()
	<-done
}
