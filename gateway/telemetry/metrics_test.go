package telemetry

import (
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"sluice/gateway/audit"
	"sluice/policy"
)

// scrape reads the metrics as Prometheus does.
func scrape(t *testing.T, tel *Telemetry) map[string]*dto.MetricFamily {
	t.Helper()
	s := httptest.NewServer(tel.MetricsHandler())
	defer s.Close()
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value finds one series by its labels, given as "name=value".
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	family := families[name]
next:
	for _, m := range family.GetMetric() {
		have := map[string]bool{}
		for _, l := range m.GetLabel() {
			have[l.GetName()+"="+l.GetValue()] = true
		}
		for _, l := range labels {
			if !have[l] {
				continue next
			}
		}
		switch {
		case m.Counter != nil:
			return m.Counter.GetValue()
		case m.Gauge != nil:
			return m.Gauge.GetValue()
		case m.Histogram != nil:
			return float64(m.Histogram.GetSampleCount())
		}
	}
	t.Errorf("no series %s%v", name, labels)
	return -1
}

func seriesOf(families map[string]*dto.MetricFamily) (n int) {
	for name, f := range families {
		if strings.HasPrefix(name, "sluice_") {
			n += len(f.GetMetric())
		}
	}
	return n
}

func TestMetrics(t *testing.T) {
	clearEnv(t)
	tel, _ := setup(t, Options{})
	for n := range 3 {
		tel.Denied(denied(n))
	}
	allowed := ended(1, "")
	allowed.Event = audit.EventDecision
	tel.Allowed(allowed)
	would := *allowed
	would.WouldDeny, would.Reason, would.Mode = true, policy.ReasonNoRule, "report"
	tel.Allowed(&would)
	tel.Active(2)
	tel.Active(-1)
	failed := ended(2, "")
	failed.ErrorCode = "dns_timeout"
	tel.Ended(ended(1, ""))
	tel.Ended(failed)
	tel.ConnectionRefused("proxy", "connections")
	tel.ConnectionRefused("proxy", "connections")
	tel.ConnectionRefused("sni", "descriptors")
	tel.PolicyLoaded("r1", 7)
	tel.PolicyRefused()
	if err := tel.RegisterGauge("sluice_dns_cache_entries", "Answers in the cache.", func() float64 { return 42 }); err != nil {
		t.Fatal(err)
	}
	if err := tel.RegisterCounter("sluice_dns_queries_total", "Questions.", func() float64 { return 43 }); err != nil {
		t.Fatal(err)
	}
	if err := tel.RegisterCounter("sluice_dns_queries", "Questions.", func() float64 { return 43 }); err == nil {
		t.Error("a counter without _total was accepted")
	}
	if err := tel.RegisterJournal(func() audit.Stats { return audit.Stats{Written: 1, Lost: 2, Errors: 3, Queued: 4} }); err != nil {
		t.Fatal(err)
	}
	got := scrape(t, tel)
	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{3, "sluice_flows_total", []string{"door=connect", "decision=deny", "reason=deny_rule", "mode=enforce"}},
		{1, "sluice_flows_total", []string{"decision=allow"}},
		{1, "sluice_flows_total", []string{"decision=would_deny", "reason=no_rule", "mode=report"}},
		{1, "sluice_flows_active", nil},
		{6, "sluice_bytes_total", []string{"direction=in"}},
		{10, "sluice_bytes_total", []string{"direction=out"}},
		{1, "sluice_flow_errors_total", []string{"code=dns_timeout"}},
		{2, "sluice_flow_duration_seconds", nil},
		{2, "sluice_connections_refused_total", []string{"listener=proxy", "limit=connections"}},
		{1, "sluice_connections_refused_total", []string{"listener=sni", "limit=descriptors"}},
		{1, "sluice_policy_reloads_total", []string{"result=success"}},
		{1, "sluice_policy_reloads_total", []string{"result=failure"}},
		{0, "sluice_policy_last_reload_successful", nil},
		{1, "sluice_policy_info", []string{"revision=r1"}},
		{7, "sluice_policy_rules", nil},
		{42, "sluice_dns_cache_entries", nil},
		{43, "sluice_dns_queries_total", nil},
		{1, "sluice_journal_written_total", nil},
		{2, "sluice_journal_lost_total", nil},
		{3, "sluice_journal_errors_total", nil},
		{4, "sluice_journal_queued", nil},
		{0, "sluice_spans_dropped_total", nil},
		{0, "sluice_spans_queued", nil},
	} {
		if v := value(t, got, c.name, c.labels...); v != c.want {
			t.Errorf("%s%v: got %v; want %v", c.name, c.labels, v, c.want)
		}
	}
	for name := range got {
		if !strings.HasPrefix(name, "sluice_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && name != "target_info" {
			t.Errorf("unexpected metric %s", name)
		}
	}
	tel.PolicyLoaded("r2", 8)
	again := scrape(t, tel)
	if n := len(again["sluice_policy_info"].GetMetric()); n != 1 {
		t.Errorf("got %d policy revisions; want the one in force", n)
	}
	if v := value(t, again, "sluice_policy_info", "revision=r2"); v != 1 {
		t.Errorf("got %v; want 1", v)
	}
}

func TestAFloodOfNamesGrowsNoSeries(t *testing.T) {
	clearEnv(t)
	tel, _ := setup(t, Options{})
	tel.Denied(denied(0))
	tel.Ended(ended(0, ""))
	before := seriesOf(scrape(t, tel))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for n := range 2500 {
				tel.Denied(denied(w*2500 + n))
				tel.Ended(ended(w*2500+n, ""))
			}
		})
	}
	wg.Wait()
	got := scrape(t, tel)
	if after := seriesOf(got); after != before {
		t.Errorf("got %d series; want %d as before", after, before)
	}
	if v := value(t, got, "sluice_flows_total"); v != 10_001 {
		t.Errorf("got %v flows; want 10001", v)
	}
}

// TestForeignWordsAreBounded: should a word from outside ever become a label.
func TestForeignWordsAreBounded(t *testing.T) {
	clearEnv(t)
	tel, _ := setup(t, Options{})
	for n := range 5000 {
		r := denied(n)
		r.Reason, r.ErrorCode = policy.Reason(r.Host), r.Host
		tel.Denied(r)
	}
	got := scrape(t, tel)
	if n := len(got["sluice_flows_total"].GetMetric()); n > maxFlowSeries+1 {
		t.Errorf("got %d series of flows; want at most %d", n, maxFlowSeries+1)
	}
	if n := len(got["sluice_flow_errors_total"].GetMetric()); n > maxErrorSeries+1 {
		t.Errorf("got %d series of errors; want at most %d", n, maxErrorSeries+1)
	}
	var sum float64
	for _, m := range got["sluice_flows_total"].GetMetric() {
		sum += m.GetCounter().GetValue()
	}
	if sum != 5000 {
		t.Errorf("got %v flows in all; want 5000", sum)
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	clearEnv(t)
	tel, _ := setup(t, Options{})
	d, e := denied(1), ended(1, "")
	tel.Denied(d)
	if n := testing.AllocsPerRun(100, func() { tel.Denied(d) }); n != 0 {
		t.Errorf("denied: got %v allocations; want 0", n)
	}
	tel.Ended(e)
	if n := testing.AllocsPerRun(100, func() { tel.Ended(e) }); n != 0 {
		t.Errorf("ended: got %v allocations; want 0", n)
	}
}

func BenchmarkDenied(b *testing.B) {
	tel, err := Setup(b.Context(), Options{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	d := denied(1)
	b.ReportAllocs()
	for b.Loop() {
		tel.Denied(d)
	}
}
