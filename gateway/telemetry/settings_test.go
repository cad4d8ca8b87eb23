package telemetry

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"sluice/gateway/audit"
	"sluice/policy"
)

func TestNothingConfigured(t *testing.T) {
	clearEnv(t)
	for name, env := range map[string][2]string{
		"nothing":     {},
		"none":        {"OTEL_TRACES_EXPORTER", "none"},
		"only a name": {"OTEL_SERVICE_NAME", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			if env[0] != "" {
				t.Setenv(env[0], env[1])
			}
			tel, log := setup(t, Options{})
			if tel.pump != nil {
				t.Error("an exporter was set up")
			}
			tel.Denied(denied(1))
			tel.Ended(ended(1, ""))
			shutdown(t, tel)
			if log.buf.Len() > 0 {
				t.Errorf("said %q", log.buf.String())
			}
		})
	}
}

func TestVariables(t *testing.T) {
	r := new(receiver)
	byGRPC, byHTTP := "http://"+r.serveGRPC(t, "127.0.0.1:0"), r.serveHTTP(t)
	const dead = "http://127.0.0.1:1"
	for _, c := range []struct {
		name string
		env  map[string]string
		keys Options
		sent bool
	}{
		{"endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": byHTTP}, Options{}, true},
		{"endpoint of traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": byHTTP + "/v1/traces"}, Options{}, true},
		{"endpoint and grpc", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": byGRPC, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Options{}, true},
		{"exporter otlp", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": byHTTP}, Options{}, true},
		{"exporter none wins over endpoint", map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": byHTTP}, Options{}, false},
		{"disabled", map[string]string{"OTEL_SDK_DISABLED": "true"}, Options{Endpoint: byHTTP}, false},
		{"key wins over endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": dead}, Options{Endpoint: byHTTP}, true},
		{"key wins over none", map[string]string{"OTEL_TRACES_EXPORTER": "none"}, Options{Endpoint: byHTTP}, true},
		{"key wins over protocol", map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Options{Endpoint: byHTTP, Protocol: "http/protobuf"}, true},
		{"key with a path", nil, Options{Endpoint: byHTTP + "/v1/traces"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			clearEnv(t)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			_, before := r.count()
			tel, _ := setup(t, c.keys)
			tel.Denied(denied(1))
			shutdown(t, tel)
			if _, after := r.count(); (after > before) != c.sent {
				t.Errorf("got %d spans; want sent %v", after-before, c.sent)
			}
		})
	}
}

func TestHeadersAndResource(t *testing.T) {
	for _, c := range []struct {
		name, protocol       string
		keys                 Options
		service, header, env string
	}{
		{"variables", "http/protobuf", Options{}, "by-env", "by-env", "prod"},
		{"keys", "grpc", Options{ServiceName: "by-key", ServiceVersion: "v9", Headers: map[string]string{"x-token": "by-key"}}, "by-key", "by-key", "prod"},
	} {
		clearEnv(t)
		r := new(receiver)
		t.Setenv("OTEL_SERVICE_NAME", "by-env")
		t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=by-env")
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", c.protocol)
		if c.protocol == "grpc" {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+r.serveGRPC(t, "127.0.0.1:0"))
		} else {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.serveHTTP(t))
		}
		tel, _ := setup(t, c.keys)
		tel.Denied(denied(1))
		shutdown(t, tel)
		if got := r.headers.Get("x-token"); got != c.header {
			t.Errorf("%s: got header %q; want %q", c.name, got, c.header)
		}
		if r.resources["service.name"] != c.service || r.resources["deployment.environment.name"] != c.env || r.resources["service.version"] != c.keys.ServiceVersion {
			t.Errorf("%s: got resource %v", c.name, r.resources)
		}
	}
}

func TestWrongSettings(t *testing.T) {
	for _, c := range []struct {
		name string
		env  [2]string
		keys Options
		want string
	}{
		{"unknown exporter", [2]string{"OTEL_TRACES_EXPORTER", "zipkin"}, Options{}, "set one of otlp, console, none"},
		{"two exporters", [2]string{"OTEL_TRACES_EXPORTER", "otlp,console"}, Options{}, "set one of otlp, console, none"},
		{"unknown protocol", [2]string{"OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"}, Options{Endpoint: "127.0.0.1:1"}, `protocol "carrier-pigeon": use grpc or http/protobuf`},
		{"endpoint with another scheme", [2]string{}, Options{Endpoint: "ftp://127.0.0.1:1"}, "telemetry.endpoint"},
	} {
		clearEnv(t)
		if c.env[0] != "" {
			t.Setenv(c.env[0], c.env[1])
		}
		_, err := Setup(t.Context(), c.keys, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v; want %s", c.name, err, c.want)
		}
	}
}

func TestSamplingOfAllowedFlows(t *testing.T) {
	const flows = 2000
	for _, c := range []struct {
		name, sampler, arg, traceparent string
		least, most                     int
	}{
		{"default, no parent", "", "", "", flows, flows},
		{"default, sampled parent", "", "", parent + "01", flows, flows},
		{"default, unsampled parent", "", "", parent + "00", 0, 0},
		{"always off", "always_off", "", "", 0, 0},
		{"always on, unsampled parent", "always_on", "", parent + "00", flows, flows},
		// The ids come from UUIDs; taken as they are, a quarter would be nothing.
		{"a quarter", "traceidratio", "0.25", "", flows / 6, flows / 3},
		{"a quarter, sampled parent", "parentbased_traceidratio", "0.25", parent + "01", flows, flows},
	} {
		clearEnv(t)
		t.Setenv("OTEL_TRACES_SAMPLER", c.sampler)
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", c.arg)
		r := new(receiver)
		tel, _ := setup(t, Options{Endpoint: r.serveHTTP(t)})
		for n := range flows {
			tel.Ended(ended(n, c.traceparent))
		}
		shutdown(t, tel)
		if got, _ := r.count(); got < c.least || got > c.most {
			t.Errorf("%s: got %d spans; want %d to %d", c.name, got, c.least, c.most)
		}
	}
}

func TestSpan(t *testing.T) {
	clearEnv(t)
	r := new(receiver)
	tel, _ := setup(t, Options{Endpoint: r.serveHTTP(t)})

	f := newFlow(1)
	f.Host, f.Decision.Host, f.Method, f.Path, f.Traceparent = "N1.test", "n1.test", "BREW", "/tea", parent+"00"
	f.Identity = &policy.Identity{User: "alice", Groups: []string{"staff"}, Subject: "CN=alice"}
	f.ALPN = "h2"
	f.Decision.Reason, f.Decision.Detail = policy.ReasonNoRule, "no rule names n1.test"
	d := *audit.FromFlow(f, audit.EventDecision, f.Start.Add(1500*time.Microsecond))
	tel.Denied(&d)
	f.ID[15]++
	f.Decision.Allow, f.Decision.WouldDeny, f.Decision.Mode = true, true, policy.Report
	w := *audit.FromFlow(f, audit.EventDecision, f.Start)
	tel.Allowed(&w)
	e := *audit.FromFlow(f, audit.EventEnd, f.Start)
	tel.Ended(&e) // has its span already
	shutdown(t, tel)

	if n, all := r.count(); n != 2 || all != 2 {
		t.Fatalf("got %d spans, %d different; want 2", all, n)
	}
	s := r.spans[d.SpanID]
	for key, want := range map[string]string{
		"client.address": "10.0.0.1", "client.port": "40000", "server.address": "n1.test", "server.port": "443",
		"network.transport": "tcp", "network.protocol.name": "tls", "tls.next_protocol": "h2", "tls.client.subject": "CN=alice",
		"http.request.method": "_OTHER", "http.request.method_original": "BREW", "url.path": "/tea",
		"user.name": "alice", "user.roles": `["staff"]`, "error.type": "policy_denied",
		"security_rule.category": "no_rule", "security_rule.version": "r1",
		"sluice.decision": "deny", "sluice.reason": "no_rule", "sluice.mode": "enforce", "sluice.door": "connect",
		"sluice.host_raw": "N1.test", "sluice.claims": `["connect=n1.test"]`, "sluice.record.id": d.ID, "sluice.policy.revision": "r1",
	} {
		if got := attr(s, key); got != want {
			t.Errorf("%s: got %q; want %q", key, got, want)
		}
	}
	if s.Kind() != ptrace.SpanKindServer || s.Status().Code() != ptrace.StatusCodeError || s.Status().Message() != "no rule names n1.test" {
		t.Errorf("got kind %v, status %v %q", s.Kind(), s.Status().Code(), s.Status().Message())
	}
	if s.TraceID().String() != parent[3:35] || s.ParentSpanID().String() != parent[36:52] {
		t.Errorf("got trace %s, parent %s; want the client's", s.TraceID(), s.ParentSpanID())
	}
	if took := s.EndTimestamp().AsTime().Sub(s.StartTimestamp().AsTime()); took != 1500*time.Microsecond {
		t.Errorf("got a span of %v; want 1.5ms", took)
	}
	s = r.spans[w.SpanID]
	if s.Name() != SpanWouldDeny || attr(s, "sluice.decision") != "would_deny" || attr(s, "error.type") != "" || s.Status().Code() != ptrace.StatusCodeUnset {
		t.Errorf("would deny: got %s %v %v", s.Name(), s.Status().Code(), s.Attributes().AsRaw())
	}
}

func TestConsole(t *testing.T) {
	clearEnv(t)
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	e, workers, err := newExporter(t.Context(), Options{})
	if kind := fmt.Sprintf("%T", e); err != nil || kind != "*stdouttrace.Exporter" || workers != 1 {
		t.Errorf("got %s, %d workers, %v; want the console, by one worker", kind, workers, err)
	}
}

// TestMetricsAreSentOnlyWhenAskedFor: many receivers take traces alone.
func TestMetricsAreSentOnlyWhenAskedFor(t *testing.T) {
	for _, c := range []struct{ exporter, want string }{{"", ""}, {"none", ""}, {"otlp", "/v1/metrics"}} {
		clearEnv(t)
		var mu sync.Mutex
		var path string
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			path = q.URL.Path
		}))
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
		t.Setenv("OTEL_METRICS_EXPORTER", c.exporter)
		tel, _ := setup(t, Options{})
		tel.Ended(ended(1, parent+"00"))
		shutdown(t, tel)
		s.Close()
		if path != c.want {
			t.Errorf("OTEL_METRICS_EXPORTER=%q: got a request to %q; want %q", c.exporter, path, c.want)
		}
	}
}
