package testbed

import (
	"context"
	"net"
	"sync"
	"testing"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
)

// Span is one received span, flat.
type Span struct {
	Name    string
	TraceID string
	SpanID  string
	Parent  string
	Attr    map[string]string
}

// Collector is a real OTLP gRPC receiver.
type Collector struct {
	ptraceotlp.UnimplementedGRPCServer
	Endpoint string // http://host:port
	mu       sync.Mutex
	spans    []Span
}

// NewCollector starts an OTLP receiver on loopback.
func NewCollector(t testing.TB) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{Endpoint: "http://" + l.Addr().String()}
	srv := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(srv, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() { srv.Stop(); <-done })
	return c
}

// Export implements the OTLP service.
func (c *Collector) Export(_ context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range req.Traces().ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				c.spans = append(c.spans, flatten(s))
			}
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}

func flatten(s ptrace.Span) Span {
	sp := Span{Name: s.Name(), TraceID: s.TraceID().String(), SpanID: s.SpanID().String(), Parent: s.ParentSpanID().String(), Attr: map[string]string{}}
	for k, v := range s.Attributes().All() {
		sp.Attr[k] = v.AsString()
	}
	return sp
}

// Spans returns the spans received so far that have all the given attributes
// (name, value, …).
func (c *Collector) Spans(attrs ...string) []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []Span
next:
	for _, s := range c.spans {
		for i := 0; i+1 < len(attrs); i += 2 {
			if s.Attr[attrs[i]] != attrs[i+1] {
				continue next
			}
		}
		found = append(found, s)
	}
	return found
}
