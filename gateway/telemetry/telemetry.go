package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"sluice/gateway/audit"
)

// Options are the keys that override the OTEL_* variables of the environment.
// With neither a key nor a variable nothing is exported and nothing connected.
type Options struct {
	Endpoint       string            // OTLP receiver: a URL, or host:port. A URL without a path gets /v1/traces over HTTP
	Protocol       string            // grpc | http/protobuf; default http/protobuf, as the OTLP specification says
	Headers        map[string]string // sent with each export; they replace OTEL_EXPORTER_OTLP_HEADERS
	Insecure       bool              // no TLS to an Endpoint that is not a URL
	ServiceName    string            // service.name; default "sluice"
	ServiceVersion string            // service.version
	Queue          int               // spans waiting for the receiver; 0: 100,000, about 100 MB when full
}

// Telemetry counts flows and exports their spans.
type Telemetry struct {
	log     *slog.Logger
	metrics *metrics
	pump    *pump // nil: spans are not exported
	sampler *sampler
}

// Setup reads the OTEL_* variables and starts what they and o ask for. It does
// not connect: a receiver that is away is waited for. The error of a wrong
// setting names it.
func Setup(ctx context.Context, o Options, log *slog.Logger) (*Telemetry, error) {
	// The SDK reports its own troubles through this one global.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("telemetry", "error", err) }))

	res, err := newResource(ctx, o)
	if err != nil {
		log.Warn("telemetry: part of the resource is missing: check OTEL_RESOURCE_ATTRIBUTES", "error", err)
	}
	exporter, workers, err := newExporter(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("set up export of spans: %w", err)
	}
	t := &Telemetry{log: log}
	if exporter != nil {
		if o.Queue == 0 {
			o.Queue = 100_000
		}
		t.pump = startPump(exporter, workers, o.Queue, res, log)
		t.sampler = newSampler()
	}
	if t.metrics, err = newMetrics(ctx, res, t.pump); err != nil {
		return nil, errors.Join(fmt.Errorf("set up metrics: %w", err), t.Shutdown(ctx))
	}
	return t, nil
}

// newResource describes this process. Keys win over variables, and these over
// the defaults.
func newResource(ctx context.Context, o Options) (*resource.Resource, error) {
	var keys []attribute.KeyValue
	if o.ServiceName != "" {
		keys = append(keys, semconv.ServiceName(o.ServiceName))
	}
	if o.ServiceVersion != "" {
		keys = append(keys, semconv.ServiceVersion(o.ServiceVersion))
	}
	return resource.New(ctx,
		resource.WithSchemaURL(semconv.SchemaURL),
		resource.WithAttributes(semconv.ServiceName("sluice")),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv(),
		resource.WithAttributes(keys...))
}

// Denied counts a decision to refuse, and queues its span whatever the sampler
// or the client's trace says. It never waits. r must be complete, and not
// change any more.
func (t *Telemetry) Denied(r *audit.Record) {
	t.metrics.decision(r)
	if t.pump != nil {
		t.pump.must(r)
	}
}

// Allowed counts a decision to let a flow out. A flow that would be denied
// under enforcement gets its span here, as if it were denied.
func (t *Telemetry) Allowed(r *audit.Record) {
	t.metrics.decision(r)
	if t.pump != nil && r.WouldDeny {
		t.pump.must(r)
	}
}

// Ended counts the end of an allowed flow, and queues its span if the sampler
// of OTEL_TRACES_SAMPLER takes it (default: the client's trace decides, and
// without one every flow is taken) and the queue is less than half full.
func (t *Telemetry) Ended(r *audit.Record) {
	t.metrics.ended(r)
	if t.pump != nil && !r.WouldDeny && t.sampler.takes(r) {
		t.pump.may(r)
	}
}

// Shutdown exports what is queued until ctx ends, and stops. It fails if spans
// were left over, and says how many.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var err error
	if t.pump != nil {
		err = t.pump.stop(ctx)
	}
	if t.metrics != nil {
		err = errors.Join(err, t.metrics.provider.Shutdown(ctx))
	}
	return err
}

// sampler asks the SDK's own sampler, set from the environment.
type sampler struct{ tracer *sdktrace.TracerProvider }

func newSampler() *sampler {
	// The provider has no processor: its spans go nowhere, and are only asked
	// whether they were sampled.
	return &sampler{sdktrace.NewTracerProvider(sdktrace.WithIDGenerator(recordIDs{}))}
}

func (s *sampler) takes(r *audit.Record) bool {
	_, span := s.tracer.Tracer(scope).Start(spanContext(r), spanName(r))
	return span.SpanContext().IsSampled()
}
