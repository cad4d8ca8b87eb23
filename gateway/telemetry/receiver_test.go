package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"sluice/gateway/audit"
	"sluice/gateway/flow"
	"sluice/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is an OTLP receiver, by gRPC and HTTP, that keeps what it gets.
type receiver struct {
	ptraceotlp.UnimplementedGRPCServer

	// answer decides on an export before it is kept; nil keeps all.
	answer func(ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error)

	mu        sync.Mutex
	spans     map[string]ptrace.Span // by span id
	times     int                    // spans received, doubles too
	resources map[string]string
	headers   http.Header
}

func (r *receiver) Export(ctx context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	h := http.Header{}
	for k, v := range md {
		for _, v := range v {
			h.Add(k, v)
		}
	}
	return r.take(req, h)
}

func (r *receiver) take(req ptraceotlp.ExportRequest, h http.Header) (ptraceotlp.ExportResponse, error) {
	response := ptraceotlp.NewExportResponse()
	if r.answer != nil {
		var err error
		if response, err = r.answer(req); err != nil {
			return response, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers = h
	if r.spans == nil {
		r.spans, r.resources = map[string]ptrace.Span{}, map[string]string{}
	}
	for _, rs := range req.Traces().ResourceSpans().All() {
		for k, v := range rs.Resource().Attributes().All() {
			r.resources[k] = v.AsString()
		}
	}
	for _, s := range spansOf(req) {
		r.spans[s.SpanID().String()] = s
		r.times++
	}
	return response, nil
}

func spansOf(req ptraceotlp.ExportRequest) []ptrace.Span {
	var out []ptrace.Span
	for _, rs := range req.Traces().ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				out = append(out, s)
			}
		}
	}
	return out
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	req := ptraceotlp.NewExportRequest()
	if err != nil || req.UnmarshalProto(body) != nil || q.URL.Path != "/v1/traces" {
		http.Error(w, "not OTLP", http.StatusNotFound)
		return
	}
	response, err := r.take(req, q.Header)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out, err := response.MarshalProto()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(out)
}

func (r *receiver) count() (different, all int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.spans), r.times
}

// serveGRPC serves the receiver at an address until the test ends.
func (r *receiver) serveGRPC(t *testing.T, address string, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	ptraceotlp.RegisterGRPCServer(s, r)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func (r *receiver) serveHTTP(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return s.URL
}

// clearEnv makes the test independent of the caller's OTEL_* variables.
func clearEnv(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
		"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
		"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_INSECURE",
	} {
		t.Setenv(name, "")
	}
}

type testLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *testLog) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

// setup starts telemetry; the test calls Shutdown, or it is done at the end.
func setup(t *testing.T, o Options) (*Telemetry, *testLog) {
	t.Helper()
	log := new(testLog)
	tel, err := Setup(t.Context(), o, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		tel.Shutdown(ctx)
	})
	return tel, log
}

func shutdown(t *testing.T, tel *Telemetry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := tel.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"

func newFlow(n int) *flow.Flow {
	f := flow.New(flow.DoorConnect, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 40000), netip.AddrPort{})
	f.Host, f.Port, f.Seen = fmt.Sprintf("n%d.test", n), 443, policy.SeenTLS
	f.Claim(flow.FromConnect, f.Host)
	f.Decision = policy.Decision{Host: f.Host, Mode: policy.Enforce, Revision: "r1"}
	return f
}

func denied(n int) *audit.Record {
	f := newFlow(n)
	f.Decision.Reason, f.Decision.Rule = policy.ReasonDenyRule, &policy.Rule{Name: "no-evil", Owner: "sec"}
	r := *audit.FromFlow(f, audit.EventDecision, f.Start.Add(time.Millisecond))
	return &r
}

func ended(n int, traceparent string) *audit.Record {
	f := newFlow(n)
	f.Decision.Allow, f.Traceparent = true, traceparent
	f.BytesIn, f.BytesOut = 3, 5
	r := *audit.FromFlow(f, audit.EventEnd, f.Start.Add(time.Second))
	return &r
}
