package telemetry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"sluice/gateway/audit"
)

// durationBounds are of a flow's whole life, in seconds: from one request to a
// WebSocket that lasts a day.
var durationBounds = []float64{.01, .05, .1, .5, 1, 5, 15, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600}

type policyState struct {
	revision string
	rules    int64
	since    time.Time
}

// register makes the instruments. Each reads a count when it is asked for.
func (m *metrics) register(p *pump) error {
	var errs []error
	counter := func(name, help string) metric.Int64ObservableCounter {
		i, err := m.meter.Int64ObservableCounter(name, metric.WithDescription(help))
		errs = append(errs, err)
		return i
	}
	gauge := func(name, help string) metric.Int64ObservableGauge {
		i, err := m.meter.Int64ObservableGauge(name, metric.WithDescription(help))
		errs = append(errs, err)
		return i
	}
	flows := counter("sluice_flows_total", "Decisions on flows; decision is allow, deny or would_deny.")
	active := gauge("sluice_flows_active", "Flows that are being carried now.")
	bytes := counter("sluice_bytes_total", "Bytes of ended flows: in from clients, out to clients.")
	failed := counter("sluice_flow_errors_total", "Allowed flows that failed, by error type of RFC 9209.")
	refused := counter("sluice_connections_refused_total", "Client connections closed unheard, by the limit that was reached: connections, connections_per_client or descriptors.")
	panics := counter("sluice_panics_total", "Connections that were closed by a fault of the gateway itself; each has a stack in the log.")
	reloads := counter("sluice_policy_reloads_total", "Policies that were put in force (success) or refused (failure).")
	healthy := gauge("sluice_policy_last_reload_successful", "1 if the newest policy is in force, 0 if it was refused and an older one stays.")
	since := gauge("sluice_policy_last_reload_success_timestamp_seconds", "When the policy in force was loaded, Unix time.")
	info := gauge("sluice_policy_info", "Always 1; the label is the revision of the policy in force.")
	rules := gauge("sluice_policy_rules", "Rules of the policy in force.")

	in, out := one("direction", "in"), one("direction", "out")
	results := [2]metric.MeasurementOption{one("result", "failure"), one("result", "success")}
	_, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		m.flows.observe(o, flows)
		m.errors.observe(o, failed)
		m.refused.observe(o, refused)
		o.ObserveInt64(active, m.active.Load())
		o.ObserveInt64(panics, m.panics.Load())
		o.ObserveInt64(bytes, m.in.Load(), in)
		o.ObserveInt64(bytes, m.out.Load(), out)
		for i, result := range results {
			o.ObserveInt64(reloads, m.reloads[i].Load(), result)
		}
		if s := m.policy.Load(); s != nil {
			var ok int64 = 1
			if m.reloadFails.Load() {
				ok = 0
			}
			o.ObserveInt64(healthy, ok)
			o.ObserveInt64(since, s.since.Unix())
			o.ObserveInt64(info, 1, one("revision", s.revision))
			o.ObserveInt64(rules, s.rules)
		}
		return nil
	}, flows, failed, active, panics, bytes, refused, reloads, healthy, since, info, rules)
	errs = append(errs, err)

	m.duration, err = m.meter.Float64Histogram("sluice_flow_duration_seconds",
		metric.WithDescription("Time from the first byte of an allowed flow to its end."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(durationBounds...))
	errs = append(errs, err, m.registerPump(p))
	return errors.Join(errs...)
}

func one(key, value string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String(key, value)))
}

// registerPump shows the export of spans. Without an exporter the counts stay
// at zero, so that an alert on them can be written before it is needed.
func (m *metrics) registerPump(p *pump) error {
	if p == nil {
		p = &pump{}
	}
	return errors.Join(
		m.gauge("sluice_spans_queued", "Spans waiting for the receiver.", func() float64 { return float64(len(p.queue)) }),
		m.counter("sluice_spans_exported_total", "Spans that the receiver took.", func() float64 { return float64(p.exported.Load()) }),
		m.counter("sluice_spans_dropped_total", "Spans lost: the queue was full, the receiver called them invalid, or the gateway stopped.", func() float64 { return float64(p.dropped.Load()) }),
		m.counter("sluice_span_export_failures_total", "Exports that failed and were tried again.", func() float64 { return float64(p.failures.Load()) }))
}

func (m *metrics) gauge(name, help string, value func() float64) error {
	_, err := m.meter.Float64ObservableGauge(name, metric.WithDescription(help),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(value())
			return nil
		}))
	return err
}

func (m *metrics) counter(name, help string, value func() float64) error {
	if !strings.HasSuffix(name, "_total") {
		return fmt.Errorf("metric %s: the name of a counter ends in _total", name)
	}
	_, err := m.meter.Float64ObservableCounter(name, metric.WithDescription(help),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(value())
			return nil
		}))
	return err
}

// RegisterGauge adds a metric that is read from value, from any goroutine, each
// time the metrics are asked for.
func (t *Telemetry) RegisterGauge(name, help string, value func() float64) error {
	return t.metrics.gauge(name, help, value)
}

// RegisterCounter is RegisterGauge for a value that never falls. The name ends
// in _total.
func (t *Telemetry) RegisterCounter(name, help string, value func() float64) error {
	return t.metrics.counter(name, help, value)
}

// RegisterJournal shows the state of the audit journal.
func (t *Telemetry) RegisterJournal(stats func() audit.Stats) error {
	return errors.Join(
		t.RegisterCounter("sluice_journal_written_total", "Records in the audit journal.", func() float64 { return float64(stats().Written) }),
		t.RegisterCounter("sluice_journal_lost_total", "Records that the audit journal could not take.", func() float64 { return float64(stats().Lost) }),
		t.RegisterCounter("sluice_journal_errors_total", "Failed writes and syncs of the audit journal.", func() float64 { return float64(stats().Errors) }),
		t.RegisterGauge("sluice_journal_queued", "Records waiting for the disk.", func() float64 { return float64(stats().Queued) }))
}

// Active counts flows that begin (+1) and stop (-1) being carried.
func (t *Telemetry) Active(delta int64) { t.metrics.active.Add(delta) }

// ConnectionRefused counts a connection that was closed at a limit before any
// door saw it.
func (t *Telemetry) ConnectionRefused(listener, limit string) {
	t.metrics.refused.add(refusedLabels{listener, limit})
}

// Panicked counts a connection that was closed by a fault of the gateway.
func (t *Telemetry) Panicked() { t.metrics.panics.Add(1) }

// PolicyLoaded notes the policy that is in force from now on.
func (t *Telemetry) PolicyLoaded(revision string, rules int) {
	t.metrics.reloads[1].Add(1)
	t.metrics.reloadFails.Store(false)
	t.metrics.policy.Store(&policyState{revision, int64(rules), time.Now()})
}

// PolicyRefused notes that a new policy was refused and the old one stays.
func (t *Telemetry) PolicyRefused() {
	t.metrics.reloads[0].Add(1)
	t.metrics.reloadFails.Store(true)
}
