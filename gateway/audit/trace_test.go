package audit

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// FuzzTraceparent holds the parser to that of OpenTelemetry: what we take, it
// takes with the same ids. Any client of the proxy can send the header.
func FuzzTraceparent(f *testing.F) {
	for _, s := range []string{
		"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
		"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, span, sampled, ok := parseTraceparent(s)
		if !ok {
			return
		}
		ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": s})
		sc := trace.SpanContextFromContext(ctx)
		if !sc.IsValid() {
			return // OpenTelemetry is stricter about flags to come
		}
		if sc.TraceID().String() != id || sc.SpanID().String() != span || sc.IsSampled() != sampled {
			t.Errorf("%q: got %s %s %v; OpenTelemetry has %s %s %v", s, id, span, sampled, sc.TraceID(), sc.SpanID(), sc.IsSampled())
		}
	})
}
