package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"sluice/gateway/flow"
)

// setTrace gives the record its place in a trace. The ids come from the flow's
// id, so that a record sent twice is the same span twice. They are a hash of it
// and not its bytes: ratio samplers take the last eight bytes of a trace id for
// random, and in a UUID the top two bits of these are fixed, so that a ratio
// under one half would sample nothing. A valid traceparent keeps the client's
// trace, with its span as the parent.
func (r *Record) setTrace(id flow.ID, traceparent string) {
	sum := sha256.Sum256(id[:])
	var b [48]byte
	hex.Encode(b[:], sum[:24])
	ids := string(b[:])
	r.TraceID, r.SpanID = ids[:32], ids[32:]
	if trace, parent, sampled, ok := parseTraceparent(traceparent); ok {
		r.TraceID, r.ParentSpanID, r.Sampled = trace, parent, sampled
	}
}

// parseTraceparent reads a traceparent header (W3C Trace Context section 3.2).
// Versions after 00 may have more fields behind the flags.
func parseTraceparent(s string) (trace, span string, sampled, ok bool) {
	const size = 55
	if len(s) < size || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return "", "", false, false
	}
	version, trace, span, flags := s[:2], s[3:35], s[36:52], s[53:55]
	if version == "00" && len(s) != size || len(s) > size && s[size] != '-' {
		return "", "", false, false
	}
	if !lowerHex(version) || version == "ff" || !lowerHex(flags) || !validID(trace) || !validID(span) {
		return "", "", false, false
	}
	odd := strings.IndexByte("13579bdf", flags[1]) >= 0 // bit 0: sampled
	return trace, span, odd, true
}

func validID(s string) bool {
	if !lowerHex(s) {
		return false
	}
	for i := range len(s) {
		if s[i] != '0' {
			return true
		}
	}
	return false
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
