package gateway

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/sniff"
)

// faulty is a door with a fault.
type faulty struct{}

func (faulty) Serve(context.Context, *sniff.Conn, flow.Inbound) {
	var none []byte
	_ = none[len(none)]
}

// TestFaultOfADoorEndsItsConnectionAlone: a panic closes the connection, is
// counted, and is logged with its stack; the process goes on.
func TestFaultOfADoorEndsItsConnectionAlone(t *testing.T) {
	var log bytes.Buffer
	panics := 0
	f := &front{
		opt: Listener{Name: "proxy"}, hello: time.Minute, doors: doors{socks: faulty{}},
		log: slog.New(slog.NewTextHandler(&log, nil)), panicked: func() { panics++ },
	}
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.serve(t.Context(), server)
	}()
	if _, err := client.Write([]byte{5}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v; want the end of the connection", err)
	}
	<-done
	if panics != 1 {
		t.Errorf("%d faults counted; want 1", panics)
	}
	for _, want := range []string{"index out of range", "serve_test.go", "listener=proxy"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log: %s", want, &log)
		}
	}
}
