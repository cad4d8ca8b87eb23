package telemetry

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"

	"sluice/gateway/audit"
	"sluice/policy"
)

// Bounds on the series of one metric, far over what the closed vocabularies
// give: should a word from the wire ever reach a label, it costs this and no
// more. What is over goes to one series with every label "other".
const (
	maxFlowSeries  = 1000
	maxErrorSeries = 64
)

// metrics counts on the hot path with atomics alone; the SDK reads the counts
// when it is asked. A bound counter of the SDK costs ten times as much.
type metrics struct {
	registry *prometheus.Registry
	provider *sdkmetric.MeterProvider
	meter    metric.Meter

	flows       series[flowLabels]
	errors      series[errorLabels]
	refused     series[refusedLabels]
	active      atomic.Int64
	in, out     atomic.Int64
	panics      atomic.Int64
	duration    metric.Float64Histogram
	reloads     [2]atomic.Int64 // failed, succeeded
	reloadFails atomic.Bool     // the last one failed
	policy      atomic.Pointer[policyState]
}

type flowLabels struct {
	door, decision, mode string
	reason               policy.Reason
}

func (l flowLabels) set() attribute.Set {
	return attribute.NewSet(attribute.String("door", l.door), attribute.String("decision", l.decision),
		attribute.String("reason", string(l.reason)), attribute.String("mode", l.mode))
}

type errorLabels struct{ code string }

func (l errorLabels) set() attribute.Set { return attribute.NewSet(attribute.String("code", l.code)) }

// refusedLabels are of a connection that no door saw: both are words of the
// configuration.
type refusedLabels struct{ listener, limit string }

func (l refusedLabels) set() attribute.Set {
	return attribute.NewSet(attribute.String("listener", l.listener), attribute.String("limit", l.limit))
}

type labels interface {
	comparable
	set() attribute.Set
}

// series is a counter with labels. Reading takes no lock; a new label makes a
// new map, at most limit times.
type series[K labels] struct {
	limit    int
	overflow K

	mu     sync.Mutex
	counts atomic.Pointer[map[K]*count]
}

type count struct {
	n   atomic.Int64
	set metric.MeasurementOption
}

func newCount[K labels](k K) *count { return &count{set: metric.WithAttributeSet(k.set())} }

func (s *series[K]) add(k K) {
	if m := s.counts.Load(); m != nil {
		if c := (*m)[k]; c != nil {
			c.n.Add(1)
			return
		}
	}
	s.grow(k).n.Add(1)
}

func (s *series[K]) grow(k K) *count {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := map[K]*count{}
	if m := s.counts.Load(); m != nil {
		old = *m
	}
	if c := old[k]; c != nil {
		return c
	}
	if len(old) >= s.limit {
		k = s.overflow
		if c := old[k]; c != nil {
			return c
		}
	}
	m := maps.Clone(old)
	m[k] = newCount(k)
	s.counts.Store(&m)
	return m[k]
}

func (s *series[K]) observe(o metric.Observer, i metric.Int64Observable) {
	if m := s.counts.Load(); m != nil {
		for _, c := range *m {
			o.ObserveInt64(i, c.n.Load(), c.set)
		}
	}
}

func newMetrics(ctx context.Context, res *resource.Resource, p *pump) (*metrics, error) {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.flows.limit, m.flows.overflow = maxFlowSeries, flowLabels{"other", "other", "other", "other"}
	m.errors.limit, m.errors.overflow = maxErrorSeries, errorLabels{"other"}
	m.refused.limit, m.refused.overflow = maxFlowSeries, refusedLabels{"other", "other"}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	// Names are as written here: nothing is added to them, in this or a later
	// version of the exporter.
	page, err := otelprom.New(otelprom.WithRegisterer(m.registry), otelprom.WithoutScopeInfo(),
		otelprom.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithoutSuffixes))
	if err != nil {
		return nil, err
	}
	opts := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(page)}
	// Receivers of traces alone are common, so metrics are sent only where they
	// are asked for by their own variable.
	if firstEnv("OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") != "" && !sdkDisabled() {
		r, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, fmt.Errorf("OTEL_METRICS_EXPORTER: %w", err)
		}
		opts = append(opts, sdkmetric.WithReader(r))
	}
	m.provider = sdkmetric.NewMeterProvider(opts...)
	m.meter = m.provider.Meter(scope)
	return m, m.register(p)
}

// decision counts the answer to one question. The labels are words of closed
// vocabularies; a name never is one.
func (m *metrics) decision(r *audit.Record) {
	verdict := r.Decision
	if r.WouldDeny {
		verdict = "would_deny"
	}
	m.flows.add(flowLabels{string(r.Door), verdict, r.Mode, r.Reason})
	if r.ErrorCode != "" && r.Event == audit.EventDecision {
		m.errors.add(errorLabels{r.ErrorCode})
	}
}

func (m *metrics) ended(r *audit.Record) {
	m.in.Add(r.BytesIn)
	m.out.Add(r.BytesOut)
	if r.ErrorCode != "" {
		m.errors.add(errorLabels{r.ErrorCode})
	}
	m.duration.Record(context.Background(), r.Time.Sub(r.Start).Seconds())
}

// MetricsHandler serves all metrics in the text form of Prometheus.
func (t *Telemetry) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(t.metrics.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 8,
	})
}
