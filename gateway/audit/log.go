package audit

import (
	"context"
	"log/slog"
)

// The messages of the log: one line for each record, so that one word finds
// them all.
const (
	MessageDenied  = "flow denied"
	MessageAllowed = "flow allowed"
	MessageEnded   = "flow ended"
)

// Log writes the record to a log as one line: denied flows and flows that would
// be denied as warnings, ends as information, allowed flows for debugging.
func Log(ctx context.Context, log *slog.Logger, r *Record) {
	level, message := line(r)
	if log.Enabled(ctx, level) {
		log.LogAttrs(ctx, level, message, r.LogAttrs()...)
	}
}

func line(r *Record) (slog.Level, string) {
	switch {
	case r.Event == EventEnd:
		return slog.LevelInfo, MessageEnded
	case r.Denied():
		return slog.LevelWarn, MessageDenied
	case r.WouldDeny:
		return slog.LevelWarn, MessageAllowed
	}
	return slog.LevelDebug, MessageAllowed
}

// LogAttrs returns the fields of the record that a person looks for first,
// under the record's own names. A field without a value is left out.
func (r *Record) LogAttrs() []slog.Attr {
	attrs := make([]slog.Attr, 0, 24)
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	text("id", r.ID)
	text("door", string(r.Door))
	if r.Client.IsValid() {
		text("client", r.Client.String())
	}
	text("role", r.Role)
	text("host", r.Host)
	text("host_raw", r.HostRaw)
	if r.Port != 0 {
		attrs = append(attrs, slog.Int("port", int(r.Port)))
	}
	text("app", r.App)
	if r.OriginalDst.IsValid() {
		text("original_dst", r.OriginalDst.String())
	}
	if r.Event != EventEnd {
		text("decision", r.Decision)
	}
	if r.WouldDeny {
		attrs = append(attrs, slog.Bool("would_deny", true))
	}
	text("reason", string(r.Reason))
	text("rule", r.Rule)
	if r.Event == EventEnd {
		return r.appendEnd(attrs)
	}
	text("rule_pos", r.RulePos)
	text("owner", r.Owner)
	text("mode", r.Mode)
	text("detail", r.Detail)
	return attrs
}

func (r *Record) appendEnd(attrs []slog.Attr) []slog.Attr {
	if r.Upstream.IsValid() {
		attrs = append(attrs, slog.String("upstream", r.Upstream.String()))
	}
	if r.Status != 0 {
		attrs = append(attrs, slog.Int("status", r.Status))
	}
	attrs = append(attrs, slog.Int64("bytes_in", r.BytesIn), slog.Int64("bytes_out", r.BytesOut), slog.Float64("duration_ms", r.DurationMS))
	if r.ClientEnd != "" {
		attrs = append(attrs, slog.String("client_end", string(r.ClientEnd)))
	}
	if r.ServerEnd != "" {
		attrs = append(attrs, slog.String("server_end", string(r.ServerEnd)))
	}
	if r.Error != "" {
		attrs = append(attrs, slog.String("error_code", r.ErrorCode), slog.String("error", r.Error))
	}
	return attrs
}
