package demo

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

// export is made by the collector's own library.
func export(t *testing.T) []byte {
	t.Helper()
	traces := ptrace.NewTraces()
	rs := traces.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "sluice")
	s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	s.SetName("egress denied")
	s.SetTraceID(pcommon.TraceID{1, 2, 3, 15: 0xff})
	s.SetSpanID(pcommon.SpanID{4, 7: 0xee})
	s.SetStartTimestamp(1)
	a := s.Attributes()
	a.PutStr("text", "a b")
	a.PutBool("flag", true)
	a.PutInt("number", -7)
	a.PutDouble("float", 1.5)
	list := a.PutEmptySlice("list")
	list.AppendEmpty().SetStr("x")
	list.AppendEmpty().SetInt(2)
	rs.ScopeSpans().At(0).Spans().AppendEmpty().SetName("second")
	data, err := ptraceotlp.NewExportRequestFromTraces(traces).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCollectorReadsWhatTheLibraryWrites(t *testing.T) {
	c := &collector{}
	rec := httptest.NewRecorder()
	c.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/traces", bytes.NewReader(export(t))))
	if rec.Code != http.StatusOK || c.count() != 2 {
		t.Fatalf("status %d, %d spans; want 200 and two", rec.Code, c.count())
	}
	s := c.trace("010203000000000000000000000000ff")
	if s == nil || s.Name != "egress denied" || s.SpanID != "04000000000000ee" {
		t.Fatalf("span: %+v", s)
	}
	want := map[string]string{"text": "a b", "flag": "true", "number": "-7", "float": "1.5", "list": "[x 2]"}
	for key, value := range want {
		if s.Attributes[key] != value {
			t.Errorf("attribute %s is %q; want %q", key, s.Attributes[key], value)
		}
	}
	if len(s.Attributes) != len(want) {
		t.Errorf("attributes: %v; want those only", s.Attributes)
	}
}

// A cut message ends in an error, and never in a panic.
func TestCollectorRefusesEveryCut(t *testing.T) {
	data := export(t)
	for i := 1; i < len(data); i++ {
		if _, err := decodeExport(data[:i]); err == nil {
			t.Errorf("the first %d of %d bytes are taken for a whole export", i, len(data))
		}
	}
	rec := httptest.NewRecorder()
	(&collector{}).ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/traces", bytes.NewReader(data[:9])))
	if rec.Code != http.StatusBadRequest {
		t.Errorf("status %d; want 400", rec.Code)
	}
}
