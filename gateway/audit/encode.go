package audit

import (
	"math"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the record to b as one JSON object on one line, without
// the line's end, and returns b. It gives what encoding/json gives for Record,
// in under a third of the time and without allocating; a test holds the two together.
func (r *Record) AppendJSON(b []byte) []byte {
	o := object{b: append(b, '{')}
	o.text("schema", r.Schema, true)
	o.text("event", string(r.Event), true)
	o.time("time", r.Time, true)
	o.text("id", r.ID, false)
	o.time("start", r.Start, false)
	r.appendWho(&o)
	r.appendWhere(&o)
	r.appendAnswer(&o)
	r.appendOutcome(&o)
	return append(o.b, '}')
}

func (r *Record) appendWho(o *object) {
	o.text("door", string(r.Door), false)
	o.text("listener", r.Listener, false)
	if r.Client != (netip.Addr{}) {
		o.key("client")
		o.addr(r.Client)
	}
	o.number("client_port", int64(r.ClientPort), false)
	o.text("role", r.Role, false)
	o.text("user", r.User, false)
	o.texts("groups", r.Groups)
	o.text("subject", r.Subject, false)
	o.text("namespace", r.Namespace, false)
	o.text("service_account", r.ServiceAccount, false)
	o.text("process", r.Process, false)
}

func (r *Record) appendWhere(o *object) {
	o.text("host", r.Host, false)
	o.text("host_raw", r.HostRaw, false)
	o.number("port", int64(r.Port), false)
	o.text("protocol", r.Protocol, false)
	o.text("app", r.App, false)
	if len(r.Claims) > 0 {
		o.key("claims")
		for i, c := range r.Claims {
			o.b = append(o.b, "[,"[min(i, 1)])
			claim := object{b: append(o.b, '{')}
			claim.text("host", c.Host, true)
			claim.text("from", string(c.From), true)
			o.b = append(claim.b, '}')
		}
		o.b = append(o.b, ']')
	}
	o.addrPort("original_dst", r.OriginalDst)
	if len(r.Resolved) > 0 {
		o.key("resolved")
		for i, a := range r.Resolved {
			o.b = append(o.b, "[,"[min(i, 1)])
			o.addr(a)
		}
		o.b = append(o.b, ']')
	}
	o.texts("aliases", r.Aliases)
	o.addrPort("upstream", r.Upstream)
	o.text("method", r.Method, false)
	o.text("path", r.Path, false)
	o.text("alpn", r.ALPN, false)
	o.flag("ech", r.ECH)
}

func (r *Record) appendAnswer(o *object) {
	o.text("decision", r.Decision, false)
	o.flag("would_deny", r.WouldDeny)
	o.text("reason", string(r.Reason), false)
	o.text("detail", r.Detail, false)
	o.text("rule", r.Rule, false)
	o.text("rule_pos", r.RulePos, false)
	o.text("owner", r.Owner, false)
	o.text("service", r.Service, false)
	o.text("pattern", r.Pattern, false)
	o.text("mode", r.Mode, false)
	o.text("policy_revision", r.PolicyRevision, false)
}

func (r *Record) appendOutcome(o *object) {
	o.number("status", int64(r.Status), false)
	o.number("bytes_in", r.BytesIn, true)
	o.number("bytes_out", r.BytesOut, true)
	o.decimal("duration_ms", r.DurationMS)
	o.text("client_end", string(r.ClientEnd), false)
	o.text("server_end", string(r.ServerEnd), false)
	o.text("error", r.Error, false)
	o.text("error_code", r.ErrorCode, false)
	o.text("trace_id", r.TraceID, false)
	o.text("span_id", r.SpanID, false)
	o.text("parent_span_id", r.ParentSpanID, false)
	o.flag("sampled", r.Sampled)
	o.number("lost", r.Lost, false)
}

// object appends the members of one JSON object. Members that are empty are
// left out, unless always is set.
type object struct {
	b    []byte
	more bool
}

func (o *object) key(name string) {
	if o.more {
		o.b = append(o.b, ',')
	}
	o.more = true
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) text(name, s string, always bool) {
	if s != "" || always {
		o.key(name)
		o.b = appendString(o.b, s)
	}
}

func (o *object) texts(name string, list []string) {
	if len(list) == 0 {
		return
	}
	o.key(name)
	for i, s := range list {
		o.b = append(o.b, "[,"[min(i, 1)])
		o.b = appendString(o.b, s)
	}
	o.b = append(o.b, ']')
}

func (o *object) number(name string, n int64, always bool) {
	if n != 0 || always {
		o.key(name)
		o.b = strconv.AppendInt(o.b, n, 10)
	}
}

// decimal writes a number that JSON has no word for as 0.
func (o *object) decimal(name string, x float64) {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		x = 0
	}
	o.key(name)
	o.b = strconv.AppendFloat(o.b, x, 'f', -1, 64)
}

func (o *object) flag(name string, set bool) {
	if set {
		o.key(name)
		o.b = append(o.b, "true"...)
	}
}

func (o *object) time(name string, t time.Time, always bool) {
	if !t.IsZero() || always {
		o.key(name)
		o.b = append(o.b, '"')
		o.b = t.UTC().AppendFormat(o.b, time.RFC3339Nano)
		o.b = append(o.b, '"')
	}
}

// addr writes an address. Its zone is a text from outside.
func (o *object) addr(a netip.Addr) {
	if a.Zone() != "" {
		o.b = appendString(o.b, a.String())
		return
	}
	o.b = append(o.b, '"')
	if a.IsValid() {
		o.b = a.AppendTo(o.b)
	}
	o.b = append(o.b, '"')
}

func (o *object) addrPort(name string, ap netip.AddrPort) {
	if ap == (netip.AddrPort{}) {
		return
	}
	o.key(name)
	switch {
	case ap.Addr().Zone() != "":
		o.b = appendString(o.b, ap.String())
	case !ap.IsValid():
		o.b = append(o.b, `""`...)
	default:
		o.b = append(o.b, '"')
		o.b = ap.AppendTo(o.b)
		o.b = append(o.b, '"')
	}
}

// appendString appends s as a JSON string (RFC 8259 section 7). Bytes that are
// not UTF-8 become U+FFFD; DEL and the line separators U+2028 and U+2029 are
// escaped too, since some readers take them for a line's end.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		r, n := rune(c), 1
		if c >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
			if (r != utf8.RuneError || n > 1) && r != '\u2028' && r != '\u2029' {
				i += n
				continue
			}
		}
		b = append(b, s[start:i]...)
		if c == '"' || c == '\\' {
			b = append(b, '\\', c)
		} else {
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
		i += n
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
