package telemetry

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"sluice/gateway/audit"
)

const scope = "sluice/gateway/telemetry"

// The names of spans.
const (
	SpanDenied    = "egress denied"
	SpanWouldDeny = "egress would be denied"
	SpanAllowed   = "egress"
)

func spanName(r *audit.Record) string {
	switch {
	case r.Denied():
		return SpanDenied
	case r.WouldDeny:
		return SpanWouldDeny
	}
	return SpanAllowed
}

// spanMaker turns records into finished spans. It belongs to one goroutine.
type spanMaker struct {
	tracer trace.Tracer
	made   collector
}

// newSpanMaker samples everything: what reaches it was already chosen, and a
// denial must not be lost to a client's unsampled trace or a ratio.
func newSpanMaker(res *resource.Resource) *spanMaker {
	m := &spanMaker{}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(res), sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithIDGenerator(recordIDs{}), sdktrace.WithSpanProcessor(&m.made))
	m.tracer = provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))
	return m
}

func (m *spanMaker) make(batch []*audit.Record) []sdktrace.ReadOnlySpan {
	m.made.spans = make([]sdktrace.ReadOnlySpan, 0, len(batch))
	for _, r := range batch {
		end := r.Time
		if end.Before(r.Start) {
			end = r.Start
		}
		_, span := m.tracer.Start(spanContext(r), spanName(r), trace.WithSpanKind(trace.SpanKindServer),
			trace.WithTimestamp(r.Start), trace.WithAttributes(attributes(r)...))
		// A denied flow is an error: the client did not get what it asked for,
		// and collectors that sample by status then keep it. One that would be
		// denied went well.
		if r.Denied() || r.Error != "" {
			span.SetStatus(codes.Error, statusText(r))
		}
		span.End(trace.WithTimestamp(end))
	}
	return m.made.spans
}

func statusText(r *audit.Record) string {
	switch {
	case !r.Denied():
		return r.Error
	case r.Detail != "":
		return r.Detail
	}
	return string(r.Reason)
}

// collector is the processor that finished spans end in.
type collector struct{ spans []sdktrace.ReadOnlySpan }

func (c *collector) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (c *collector) OnEnd(s sdktrace.ReadOnlySpan)                   { c.spans = append(c.spans, s) }
func (c *collector) Shutdown(context.Context) error                  { return nil }
func (c *collector) ForceFlush(context.Context) error                { return nil }

type recordKey struct{}

// spanContext returns a context that carries the record, and the client's span
// as the parent if it sent one.
func spanContext(r *audit.Record) context.Context {
	ctx := context.WithValue(context.Background(), recordKey{}, r)
	parent, err := trace.SpanIDFromHex(r.ParentSpanID)
	if err != nil {
		return ctx
	}
	id, err := trace.TraceIDFromHex(r.TraceID)
	if err != nil {
		return ctx
	}
	c := trace.SpanContextConfig{TraceID: id, SpanID: parent, Remote: true}
	if r.Sampled {
		c.TraceFlags = trace.FlagsSampled
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(c))
}

// recordIDs takes the ids of a span from the record that spanContext carries.
type recordIDs struct{}

func (recordIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	r, _ := ctx.Value(recordKey{}).(*audit.Record)
	id, _ := trace.TraceIDFromHex(r.TraceID)
	span, _ := trace.SpanIDFromHex(r.SpanID)
	return id, span
}

func (g recordIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, span := g.NewIDs(ctx)
	return span
}

// attributes names a record's fields by the semantic conventions where they
// have a name, and sluice.* where they have none.
func attributes(r *audit.Record) []attribute.KeyValue {
	a := attrs(make([]attribute.KeyValue, 0, 48))
	if r.Client.IsValid() {
		a.text(semconv.ClientAddressKey, r.Client.String())
		a.number(semconv.ClientPortKey, int64(r.ClientPort))
	}
	a.text(semconv.UserNameKey, r.User)
	a.texts(semconv.UserRolesKey, r.Groups)
	a.text(semconv.TLSClientSubjectKey, r.Subject)
	a.text(semconv.K8SNamespaceNameKey, r.Namespace)
	a.text("k8s.serviceaccount.name", r.ServiceAccount)
	a.text(semconv.ProcessExecutablePathKey, r.Process)
	a.destination(r)
	a.request(r)
	a.decision(r)
	if r.Event == audit.EventEnd {
		a = append(a, attribute.Int64("sluice.bytes_in", r.BytesIn), attribute.Int64("sluice.bytes_out", r.BytesOut))
		a.text("sluice.client_end", string(r.ClientEnd))
		a.text("sluice.server_end", string(r.ServerEnd))
	}
	return a
}

type attrs []attribute.KeyValue

func (a *attrs) text(k attribute.Key, v string) {
	if v != "" {
		*a = append(*a, k.String(v))
	}
}

func (a *attrs) texts(k attribute.Key, v []string) {
	if len(v) > 0 {
		*a = append(*a, k.StringSlice(v))
	}
}

func (a *attrs) number(k attribute.Key, v int64) {
	if v != 0 {
		*a = append(*a, k.Int64(v))
	}
}

func (a *attrs) flag(k attribute.Key, v bool) {
	if v {
		*a = append(*a, k.Bool(true))
	}
}

func (a *attrs) destination(r *audit.Record) {
	// A malformed name is better than none, and the record made it printable.
	host := r.Host
	if host == "" {
		host = r.HostRaw
	}
	a.text(semconv.ServerAddressKey, host)
	a.number(semconv.ServerPortKey, int64(r.Port))
	a.text(semconv.NetworkTransportKey, r.Protocol)
	peer := r.Upstream
	if !peer.IsValid() {
		peer = r.OriginalDst
	}
	if peer.IsValid() {
		a.text(semconv.NetworkPeerAddressKey, peer.Addr().String())
		a.number(semconv.NetworkPeerPortKey, int64(peer.Port()))
	}
	switch r.App {
	case "tls", "tls_no_name":
		a.text(semconv.NetworkProtocolNameKey, "tls")
	case "http", "stun":
		a.text(semconv.NetworkProtocolNameKey, r.App)
	}
	a.text(semconv.TLSNextProtocolKey, r.ALPN)
	a.flag("sluice.ech", r.ECH)
	a.text("sluice.host_raw", r.HostRaw)
	if r.OriginalDst.IsValid() {
		a.text("sluice.original_dst", r.OriginalDst.String())
	}
	resolved := make([]string, len(r.Resolved))
	for i, ip := range r.Resolved {
		resolved[i] = ip.String()
	}
	a.texts("sluice.resolved", resolved)
	a.texts("sluice.aliases", r.Aliases)
	claims := make([]string, len(r.Claims))
	for i, c := range r.Claims {
		claims[i] = string(c.From) + "=" + c.Host
	}
	a.texts("sluice.claims", claims)
}

// knownMethods are the values that http.request.method may have.
var knownMethods = []string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}

func (a *attrs) request(r *audit.Record) {
	switch {
	case r.Method == "":
	case slices.Contains(knownMethods, r.Method):
		a.text(semconv.HTTPRequestMethodKey, r.Method)
	default:
		*a = append(*a, semconv.HTTPRequestMethodOther)
		a.text(semconv.HTTPRequestMethodOriginalKey, r.Method)
	}
	a.text(semconv.URLPathKey, r.Path)
	if r.Path != "" && r.App == "http" {
		a.text(semconv.URLSchemeKey, "http")
	}
	a.number(semconv.HTTPResponseStatusCodeKey, int64(r.Status))
}

func (a *attrs) decision(r *audit.Record) {
	verdict := r.Decision
	if r.WouldDeny {
		verdict = "would_deny"
	}
	switch {
	case r.Denied():
		a.text(semconv.ErrorTypeKey, "policy_denied")
	case r.ErrorCode != "":
		a.text(semconv.ErrorTypeKey, r.ErrorCode)
	}
	a.text(semconv.SecurityRuleNameKey, r.Rule)
	a.text(semconv.SecurityRuleCategoryKey, string(r.Reason))
	a.text(semconv.SecurityRuleRulesetNameKey, r.Service)
	a.text(semconv.SecurityRuleVersionKey, r.PolicyRevision)
	a.text("sluice.decision", verdict)
	a.flag("sluice.would_deny", r.WouldDeny)
	a.text("sluice.reason", string(r.Reason))
	a.text("sluice.detail", r.Detail)
	a.text("sluice.rule", r.Rule)
	a.text("sluice.rule_pos", r.RulePos)
	a.text("sluice.owner", r.Owner)
	a.text("sluice.service", r.Service)
	a.text("sluice.pattern", r.Pattern)
	a.text("sluice.mode", r.Mode)
	a.text("sluice.door", string(r.Door))
	a.text("sluice.listener", r.Listener)
	a.text("sluice.role", r.Role)
	a.text("sluice.app", r.App)
	a.text("sluice.record.id", r.ID)
	a.text("sluice.policy.revision", r.PolicyRevision)
	a.text("sluice.error", r.Error)
	*a = append(*a, attribute.Float64("sluice.duration_ms", float64(r.Time.Sub(r.Start))/float64(time.Millisecond)))
}
