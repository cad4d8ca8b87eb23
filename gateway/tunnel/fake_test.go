package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"sluice/gateway/flow"
	"sluice/policy"
)

// opener lets flows out to one address, and remembers what it was asked.
type opener struct {
	to   string
	deny func(f *flow.Flow, sni string) policy.Reason // nil: nothing

	mu      sync.Mutex
	looks   []look
	refused []policy.Reason
	done    []flow.Flow
	live    int
	cut     context.CancelCauseFunc // of the flow that is live
}

type look struct {
	seen policy.Seen
	sni  string
}

func (o *opener) Admit(context.Context, *flow.Flow) error { return nil }

func (o *opener) Dial(ctx context.Context, f *flow.Flow) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", o.to)
	if err != nil {
		return nil, &flow.UnreachableError{ID: f.ID, Host: f.Host, Code: "connection_refused", Err: err}
	}
	return c, nil
}

func (o *opener) Look(_ context.Context, f *flow.Flow, sni string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.looks = append(o.looks, look{f.Seen, sni})
	if o.deny != nil {
		if reason := o.deny(f, sni); reason != "" {
			return denied(f, reason)
		}
	}
	return nil
}

func (o *opener) Live(ctx context.Context, _ *flow.Flow) (context.Context, func()) {
	live, cut := context.WithCancelCause(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.live++
	o.cut = cut
	return live, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.live--
		cut(nil)
	}
}

func (o *opener) Refuse(f *flow.Flow, reason policy.Reason, _ string) *flow.DeniedError {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused = append(o.refused, reason)
	return denied(f, reason)
}

func (o *opener) Done(f *flow.Flow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done = append(o.done, *f)
}

func denied(f *flow.Flow, reason policy.Reason) *flow.DeniedError {
	f.Decision = policy.Decision{Reason: reason}
	return &flow.DeniedError{ID: f.ID, Decision: f.Decision}
}

// world is one flow through the gateway: a client, the gateway's two
// connections, and a server.
type world struct {
	t              *testing.T
	out            *opener
	f              *flow.Flow
	client, server *net.TCPConn // the far ends
	ended          chan struct{}
}

// pair returns the two ends of a TCP connection on loopback.
func pair(t *testing.T) (a, b *net.TCPConn) {
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

// wait returns when the flow has ended, and what Done was given, if it was.
func (w *world) wait() *flow.Flow {
	w.t.Helper()
	select {
	case <-w.ended:
	case <-time.After(20 * time.Second):
		w.t.Fatal("the flow does not end")
	}
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	if w.out.live != 0 {
		w.t.Errorf("%d flows are live after the end", w.out.live)
	}
	switch len(w.out.done) {
	case 0:
		return nil
	case 1:
		return &w.out.done[0]
	}
	w.t.Fatalf("Done was called %d times", len(w.out.done))
	return nil
}

func (w *world) write(c net.Conn, b []byte) {
	w.t.Helper()
	if _, err := c.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// expect reads want from c.
func (w *world) expect(c net.Conn, want string) {
	w.t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		w.t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// expectNothing checks that c ends without a byte.
func (w *world) expectNothing(c net.Conn) {
	w.t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var timeout net.Error
	if got, err := io.ReadAll(c); len(got) != 0 || errors.As(err, &timeout) && timeout.Timeout() {
		w.t.Fatalf("read %q, %v; want the end", got, err)
	}
}

// helloOf returns the ClientHello of a crypto/tls client for name.
func helloOf(t *testing.T, name string) []byte {
	t.Helper()
	a, b := pair(t)
	go tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: name == "", NextProtos: []string{"h2"}}).Handshake()
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}
