package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// newExporter returns the exporter that keys and variables ask for, nil for
// none, and how many batches may be with it at a time.
func newExporter(ctx context.Context, o Options) (sdktrace.SpanExporter, int, error) {
	name := os.Getenv("OTEL_TRACES_EXPORTER")
	byKey := o.Endpoint != ""
	byEndpoint := firstEnv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") != ""
	switch {
	case sdkDisabled():
		return nil, 0, nil
	case byKey, name == "otlp", name == "" && byEndpoint:
		e, err := newOTLP(ctx, o)
		return e, 2, err
	case name == "":
		// autoexport would dial localhost:4318.
		return nil, 0, nil
	}
	e, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("OTEL_TRACES_EXPORTER=%q: %w; set one of otlp, console, none", name, err)
	}
	if autoexport.IsNoneSpanExporter(e) {
		return nil, 0, nil
	}
	return e, 1, nil // the specification promises an exporter one call at a time
}

func sdkDisabled() bool { return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") }

func firstEnv(names ...string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return ""
}

// newOTLP makes an OTLP exporter that fails at once: the pump does the retries,
// without a limit, where the exporter would drop the batch after a minute.
// Neither form goes through a proxy of the environment: in a pod that is us.
func newOTLP(ctx context.Context, o Options) (sdktrace.SpanExporter, error) {
	protocol := o.Protocol
	if protocol == "" {
		protocol = firstEnv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "grpc":
		return newGRPC(ctx, o)
	case "", "http/protobuf":
		return newHTTP(ctx, o)
	}
	return nil, fmt.Errorf("protocol %q: use grpc or http/protobuf (telemetry.protocol, OTEL_EXPORTER_OTLP_PROTOCOL)", protocol)
}

func newGRPC(ctx context.Context, o Options) (sdktrace.SpanExporter, error) {
	opts := []otlptracegrpc.Option{
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false}),
		otlptracegrpc.WithDialOption(grpc.WithNoProxy(), grpc.WithConnectParams(grpc.ConnectParams{
			// grpc's own back-off goes to two minutes: too long to be blind after a restart of the receiver.
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: 5 * time.Second,
		})),
	}
	if o.Endpoint != "" {
		host, _, insecure, err := o.endpoint()
		if err != nil {
			return nil, err
		}
		opts = append(opts, otlptracegrpc.WithEndpoint(host))
		if insecure {
			opts = append(opts, otlptracegrpc.WithInsecure())
		}
	}
	if len(o.Headers) > 0 {
		opts = append(opts, otlptracegrpc.WithHeaders(o.Headers))
	}
	return otlptracegrpc.New(ctx, opts...)
}

func newHTTP(ctx context.Context, o Options) (sdktrace.SpanExporter, error) {
	opts := []otlptracehttp.Option{
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}),
		otlptracehttp.WithProxy(func(*http.Request) (*url.URL, error) { return nil, nil }),
	}
	if o.Endpoint != "" {
		host, path, insecure, err := o.endpoint()
		if err != nil {
			return nil, err
		}
		opts = append(opts, otlptracehttp.WithEndpoint(host), otlptracehttp.WithURLPath(path))
		if insecure {
			opts = append(opts, otlptracehttp.WithInsecure())
		}
	}
	if len(o.Headers) > 0 {
		opts = append(opts, otlptracehttp.WithHeaders(o.Headers))
	}
	return otlptracehttp.New(ctx, opts...)
}

// endpoint takes the key apart.
func (o Options) endpoint() (host, path string, insecure bool, err error) {
	const traces = "/v1/traces"
	if !strings.Contains(o.Endpoint, "://") {
		return o.Endpoint, traces, o.Insecure, nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil {
		return "", "", false, fmt.Errorf("telemetry.endpoint: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", "", false, fmt.Errorf("telemetry.endpoint %q: want http://host:port, https://host:port or host:port", o.Endpoint)
	}
	path = u.Path
	if path == "" || path == "/" {
		path = traces
	}
	return u.Host, path, u.Scheme == "http", nil
}
