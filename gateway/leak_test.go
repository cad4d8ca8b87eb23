package gateway

import (
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
)

// descriptors returns how many files and sockets the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestThousandTunnelsLeaveNothing(t *testing.T) {
	const tunnels, atOnce = 1000, 20
	up := newEcho(t, "127.0.0.1", 0)
	hello := string(clientHello(t, "a.example.net"))
	for name, open := range map[string]func(*world) *conn{
		"connect": func(w *world) *conn { return w.tunnel("a.example.net") },
		"socks5": func(w *world) *conn {
			c, reply := w.socks("a.example.net", w.up.port)
			if reply != 0 {
				t.Errorf("SOCKS5 reply %d; want 0", reply)
			}
			c.echo("ping\n")
			return c
		},
		"tls": func(w *world) *conn {
			c := dialTCP(t, w.router)
			c.echo(hello)
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, up, rules(up.rule("a.example.net")))
			open(w).Close() // what is made once and kept
			w.live(0)
			settle(w)
			goroutines, files := runtime.NumGoroutine(), descriptors(t)
			work := make(chan int, tunnels)
			for i := range tunnels {
				work <- i
			}
			close(work)
			var all sync.WaitGroup
			for range atOnce {
				all.Go(func() {
					for i := range work {
						c := open(w)
						if i%2 == 0 { // the client ends its half first, or all at once
							c.CloseWrite()
							io.Copy(io.Discard, c.r)
						}
						c.Close()
					}
				})
			}
			all.Wait()
			w.live(0)
			settle(w)
			eventually(t, "goroutines and descriptors are as before", func() bool {
				return runtime.NumGoroutine() <= goroutines && descriptors(t) <= files
			})
			w.mu.Lock()
			defer w.mu.Unlock()
			ends := 0
			for i := range w.records {
				if w.records[i].Event == "end" {
					ends++
				}
			}
			if ends != tunnels+1 {
				t.Errorf("%d ends recorded; want %d", ends, tunnels+1)
			}
		})
	}
}

// settle waits until no handler is left.
func settle(w *world) {
	w.t.Helper()
	eventually(w.t, "no connection is being served", func() bool {
		return w.g.open[0].Open() == 0 && w.g.open[1].Open() == 0
	})
}
