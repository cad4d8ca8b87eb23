package telemetry

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice/gateway/audit"
	"sluice/policy"
)

func attr(s ptrace.Span, key string) string {
	v, ok := s.Attributes().Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

// TestEveryDenialIsASpan holds with a sampler that takes nothing, and for
// clients whose own trace is not sampled.
func TestEveryDenialIsASpan(t *testing.T) {
	const flows = 10_000
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			clearEnv(t)
			t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
			r := new(receiver)
			o := Options{Protocol: protocol, Insecure: true}
			if protocol == "grpc" {
				o.Endpoint = r.serveGRPC(t, "127.0.0.1:0")
			} else {
				o.Endpoint = r.serveHTTP(t)
			}
			tel, _ := setup(t, o)
			for n := range flows {
				d := denied(n)
				if n%2 == 1 {
					d.TraceID, d.ParentSpanID, d.Sampled = parent[3:35], parent[36:52], false
				}
				tel.Denied(d)
			}
			shutdown(t, tel)

			different, all := r.count()
			if different != flows || all != flows {
				t.Fatalf("got %d spans, %d of them different; want %d", all, different, flows)
			}
			hosts, clients := map[string]bool{}, map[string]bool{}
			for _, s := range r.spans {
				hosts[attr(s, "server.address")], clients[attr(s, "client.address")] = true, true
				if s.Name() != SpanDenied || attr(s, "sluice.reason") != "deny_rule" || attr(s, "sluice.rule") != "no-evil" || attr(s, "security_rule.name") != "no-evil" {
					t.Fatalf("got span %s %v", s.Name(), s.Attributes().AsRaw())
				}
			}
			if len(hosts) != flows || len(clients) != flows {
				t.Errorf("got %d names and %d clients; want %d", len(hosts), len(clients), flows)
			}
		})
	}
}

func TestReceiverAwayForAWhile(t *testing.T) {
	const flows = 2000
	clearEnv(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()

	tel, log := setup(t, Options{Endpoint: "http://" + address, Protocol: "grpc"})
	for n := range flows {
		tel.Denied(denied(n))
	}
	waitFor(t, "failed exports", func() bool { return tel.pump.failures.Load() >= 3 })

	var busy atomic.Int64 // the receiver comes back, and is overloaded at first
	r := &receiver{answer: func(ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
		if busy.Add(1) <= 3 {
			return ptraceotlp.NewExportResponse(), status.Error(codes.ResourceExhausted, "busy")
		}
		return ptraceotlp.NewExportResponse(), nil
	}}
	r.serveGRPC(t, address)
	waitFor(t, "all spans", func() bool { n, _ := r.count(); return n == flows })
	shutdown(t, tel)
	if _, all := r.count(); all != flows || tel.pump.dropped.Load() != 0 {
		t.Errorf("got %d spans, %d dropped; want %d, 0", all, tel.pump.dropped.Load(), flows)
	}
	if said := log.count("export of spans"); said != 1 {
		t.Errorf("said %d times that the receiver is away; want once a minute", said)
	}
	if log.count("exported again") == 0 {
		t.Error("did not say that the receiver is back")
	}
}

func TestPartialSuccessIsNotSentAgain(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		clearEnv(t)
		r := &receiver{answer: func(ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
			response := ptraceotlp.NewExportResponse()
			response.PartialSuccess().SetRejectedSpans(1)
			response.PartialSuccess().SetErrorMessage("one is too old")
			return response, nil
		}}
		o := Options{Protocol: protocol, Insecure: true}
		if protocol == "grpc" {
			o.Endpoint = r.serveGRPC(t, "127.0.0.1:0")
		} else {
			o.Endpoint = r.serveHTTP(t)
		}
		tel, log := setup(t, o)
		for n := range 10 {
			tel.Denied(denied(n))
		}
		shutdown(t, tel)
		if _, all := r.count(); all != 10 {
			t.Errorf("%s: got %d spans; want 10", protocol, all)
		}
		if log.count("one is too old") == 0 {
			t.Errorf("%s: the receiver's words are not in the log", protocol)
		}
	}
}

func TestOneBadSpanDoesNotHoldUpTheRest(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		clearEnv(t)
		r := &receiver{answer: func(req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
			for _, s := range spansOf(req) {
				if attr(s, "server.address") == "n77.test" {
					return ptraceotlp.NewExportResponse(), status.Error(codes.InvalidArgument, "do not like it")
				}
			}
			return ptraceotlp.NewExportResponse(), nil
		}}
		o := Options{Protocol: protocol, Insecure: true}
		if protocol == "grpc" {
			o.Endpoint = r.serveGRPC(t, "127.0.0.1:0")
		} else {
			o.Endpoint = r.serveHTTP(t)
		}
		tel, log := setup(t, o)
		for n := range 200 {
			tel.Denied(denied(n))
		}
		waitFor(t, "the other spans", func() bool { n, _ := r.count(); return n == 199 })
		waitFor(t, "the bad span", func() bool { return tel.pump.dropped.Load() == 1 })
		if log.count("refuses a span") != 1 {
			t.Errorf("%s: the bad span is not in the log", protocol)
		}
		shutdown(t, tel)
	}
}

// TestBatchTooLargeForTheReceiver: a client that makes its records as large as
// they can be must not stop the export.
func TestBatchTooLargeForTheReceiver(t *testing.T) {
	clearEnv(t)
	r := new(receiver)
	tel, _ := setup(t, Options{Endpoint: r.serveGRPC(t, "127.0.0.1:0", grpc.MaxRecvMsgSize(64<<10)), Insecure: true, Protocol: "grpc"})
	const flows = 300
	for n := range flows {
		f := newFlow(n)
		f.Host, f.Path = strings.Repeat("\x00", 5000), strings.Repeat("\xff", 5000)
		f.Decision.Host, f.Decision.Reason = "", policy.ReasonMalformedName
		d := *audit.FromFlow(f, audit.EventDecision, f.Start)
		tel.Denied(&d)
	}
	shutdown(t, tel)
	if got, _ := r.count(); got != flows {
		t.Errorf("got %d spans; want %d", got, flows)
	}
}

func TestFullQueueIsCountedAndSaid(t *testing.T) {
	clearEnv(t)
	hold := make(chan struct{})
	r := &receiver{answer: func(ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
		<-hold
		return ptraceotlp.NewExportResponse(), nil
	}}
	tel, log := setup(t, Options{Endpoint: r.serveHTTP(t), Queue: 10})
	const flows = 5000
	for n := range flows {
		tel.Denied(denied(n))
		tel.Ended(ended(n, ""))
	}
	dropped := tel.pump.dropped.Load()
	if dropped == 0 || log.count("queue is full") != 1 {
		t.Errorf("got %d dropped, said %d times; want some, said once", dropped, log.count("queue is full"))
	}
	close(hold)
	shutdown(t, tel)
	r.mu.Lock()
	defer r.mu.Unlock()
	var denials int64
	for _, s := range r.spans {
		if s.Name() == SpanDenied {
			denials++
		}
	}
	if denials+tel.pump.dropped.Load() != flows {
		t.Errorf("got %d denials and %d dropped; want %d together", denials, tel.pump.dropped.Load(), flows)
	}
}

func TestShutdownEndsInTimeAndSaysWhatIsLost(t *testing.T) {
	clearEnv(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // never answers
	tel, _ := setup(t, Options{Endpoint: "http://" + l.Addr().String()})
	for n := range 1000 {
		tel.Denied(denied(n))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = tel.Shutdown(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1000 dropped") {
		t.Errorf("got %v; want 1000 spans dropped at the deadline", err)
	}
	tel.Denied(denied(1)) // does not block or panic
}
