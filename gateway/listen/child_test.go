package listen

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runChild is this test program run again, to spend descriptors or inherit
// sockets of its own. It serves until its standard input ends.
func runChild(what string) int {
	o := Options{Name: "proxy", Address: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	switch what {
	case "short of descriptors":
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: 200}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "socket activated":
		// systemd sets it between fork and exec, which os/exec can not.
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		o.Address = "192.0.2.1:1" // would fail
	}
	l, err := Listen(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if left := os.Getenv("LISTEN_FDS"); left != "" {
		fmt.Fprintln(os.Stderr, "LISTEN_FDS is left for children:", left)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		bufio.NewReader(os.Stdin).ReadByte() //nolint:errcheck // its end is what counts
		cancel()
	}()
	fmt.Println(l.Addr())
	if err := l.Serve(ctx, echo); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// startChild returns the address that the child listens on, and how to end it.
func startChild(t *testing.T, what string, files ...*os.File) (addr string, stop func() string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), "LISTEN_TEST_CHILD="+what)
	if len(files) > 0 {
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES=dns:proxy")
	}
	cmd.ExtraFiles = files
	var logged bytes.Buffer
	cmd.Stderr = &logged
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceValue(func() string {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("child: %v\n%s", err, logged.String())
		}
		cancel()
		return logged.String()
	})
	t.Cleanup(func() { stop() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("child does not listen: %v\n%s", err, logged.String())
	}
	return strings.TrimSpace(line), stop
}

// With 200 descriptors and 2,000 clients that stay, those who find none left
// are turned away, and all is well when the others have gone.
func TestDescriptorsRunOut(t *testing.T) {
	const clients = 2000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < clients+100 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("needs %d descriptors, the limit is %d", clients+100, limit.Cur)
		}
		t.Skipf("needs %d descriptors, the limit is %d", clients+100, limit.Cur)
	}
	addr, stop := startChild(t, "short of descriptors")

	var mu sync.Mutex
	var served []net.Conn
	turnedAway := 0
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			c, err := net.DialTimeout("tcp", addr, patience)
			if err != nil { // the reset was there before the connection
				mu.Lock()
				defer mu.Unlock()
				turnedAway++
				return
			}
			c.SetDeadline(time.Now().Add(2 * patience)) //nolint:errcheck // a TCP connection has deadlines
			ok := echoes(c)
			mu.Lock()
			defer mu.Unlock()
			if ok {
				served = append(served, c)
			} else {
				turnedAway++
				c.Close()
			}
		})
	}
	all.Wait()
	if len(served) < 100 || len(served) > 200 || len(served)+turnedAway != clients {
		t.Errorf("%d clients served, %d turned away; want most of 200 descriptors used, and %d in all", len(served), turnedAway, clients)
	}
	for _, c := range served {
		c.Close()
	}
	eventually(t, "it does not recover", func() bool {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // as above
		return echoes(c)
	})
	logged := stop()
	for _, want := range []string{"accept: waiting", "too many open files", "accept: going on", "turned_away="} {
		if !strings.Contains(logged, want) {
			t.Errorf("log lacks %q:\n%.2000s", want, logged)
		}
	}
	if lines := strings.Count(logged, "\n"); lines > 50 {
		t.Errorf("%d lines logged for one trouble", lines)
	}
}

func TestSocketActivation(t *testing.T) {
	passed := make([]*os.File, 2)
	var address string
	for i := range passed {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address = l.Addr().String() // of the second, which is named proxy
		if passed[i], err = l.(*net.TCPListener).File(); err != nil {
			t.Fatal(err)
		}
		l.Close()
		defer passed[i].Close()
	}
	addr, _ := startChild(t, "socket activated", passed...)
	if addr != address {
		t.Errorf("child listens on %s; want the socket passed to it, %s", addr, address)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a TCP connection has deadlines
	if !echoes(c) {
		t.Error("not served")
	}
}
