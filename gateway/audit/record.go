package audit

import (
	"net/netip"
	"time"

	"sluice/gateway/flow"
	"sluice/policy"
)

// Schema is the version of the record's form, the first field of each record.
// Fields may be added under the same version; none is removed or redefined.
const Schema = "sluice.audit/v1"

// Event says what a record is about.
type Event string

// The events.
const (
	EventDecision Event = "decision" // policy or guard answered; complete for a denial
	EventEnd      Event = "end"      // an allowed flow is over
	EventLost     Event = "lost"     // the journal could not keep up: Lost records are missing before this one
)

// The values of Record.Decision.
const (
	Allow = "allow"
	Deny  = "deny"
)

// Record is what is kept of a flow. It is made by FromFlow and must not be
// changed once it was given to a Sink. Every text from the wire in it is
// printable, and bounded in length.
type Record struct {
	Schema string    `json:"schema"`
	Event  Event     `json:"event"`
	Time   time.Time `json:"time"`           // of the event, UTC
	ID     string    `json:"id,omitempty"`   // of the flow, UUID version 7: the same in all its records
	Start  time.Time `json:"start,omitzero"` // of the flow, UTC

	// Who and how.
	Door           flow.Door  `json:"door,omitempty"`
	Listener       string     `json:"listener,omitempty"`
	Client         netip.Addr `json:"client,omitzero"`
	ClientPort     uint16     `json:"client_port,omitempty"`
	Role           string     `json:"role,omitempty"` // the one best word for who: user, certificate subject, service account or process
	User           string     `json:"user,omitempty"`
	Groups         []string   `json:"groups,omitempty"`
	Subject        string     `json:"subject,omitempty"`
	Namespace      string     `json:"namespace,omitempty"`
	ServiceAccount string     `json:"service_account,omitempty"`
	Process        string     `json:"process,omitempty"`

	// Where to.
	Host        string         `json:"host,omitempty"`     // normal form of the name, or the address
	HostRaw     string         `json:"host_raw,omitempty"` // as the client gave it, escaped; only if it differs from Host
	Port        uint16         `json:"port,omitempty"`
	Protocol    string         `json:"protocol,omitempty"` // tcp | udp
	App         string         `json:"app,omitempty"`      // what the first bytes showed
	Claims      []flow.Claim   `json:"claims,omitempty"`
	OriginalDst netip.AddrPort `json:"original_dst,omitzero"`
	Resolved    []netip.Addr   `json:"resolved,omitempty"`
	Aliases     []string       `json:"aliases,omitempty"` // CNAME chain
	Upstream    netip.AddrPort `json:"upstream,omitzero"` // the address that was dialled
	Method      string         `json:"method,omitempty"`
	Path        string         `json:"path,omitempty"` // without query
	ALPN        string         `json:"alpn,omitempty"`
	ECH         bool           `json:"ech,omitempty"`

	// The answer.
	Decision       string        `json:"decision,omitempty"` // allow | deny
	WouldDeny      bool          `json:"would_deny,omitempty"`
	Reason         policy.Reason `json:"reason,omitempty"`
	Detail         string        `json:"detail,omitempty"`
	Rule           string        `json:"rule,omitempty"`
	RulePos        string        `json:"rule_pos,omitempty"` // file:line
	Owner          string        `json:"owner,omitempty"`
	Service        string        `json:"service,omitempty"`
	Pattern        string        `json:"pattern,omitempty"` // the rule's pattern that matched
	Mode           string        `json:"mode,omitempty"`    // enforce | report | open
	PolicyRevision string        `json:"policy_revision,omitempty"`

	// How it went. Bytes are the client's view: in from it, out to it.
	Status     int      `json:"status,omitempty"` // of the HTTP response
	BytesIn    int64    `json:"bytes_in"`
	BytesOut   int64    `json:"bytes_out"`
	DurationMS float64  `json:"duration_ms"` // from Start to Time, in milliseconds with three decimals
	ClientEnd  flow.End `json:"client_end,omitempty"`
	ServerEnd  flow.End `json:"server_end,omitempty"`
	Error      string   `json:"error,omitempty"`
	ErrorCode  string   `json:"error_code,omitempty"` // RFC 9209 error type

	// Trace context: see Trace.
	TraceID      string `json:"trace_id,omitempty"`
	SpanID       string `json:"span_id,omitempty"`
	ParentSpanID string `json:"parent_span_id,omitempty"`
	Sampled      bool   `json:"sampled,omitempty"` // the parent's flag

	Lost int64 `json:"lost,omitempty"` // EventLost only
}

// Denied reports whether the record is of a flow that was refused.
func (r *Record) Denied() bool { return r.Decision == Deny }

// Sink takes records. Append does not wait for a disk or a network; it fails
// if the record can not be kept and the caller must refuse the flow.
type Sink interface {
	Append(*Record) error
}

// FromFlow makes the record of an event of f. It shares f's lists of claims,
// addresses and aliases, which doors and gate only append to or replace.
func FromFlow(f *flow.Flow, e Event, now time.Time) *Record {
	r := &Record{
		Schema: Schema, Event: e, Time: now.UTC(), ID: f.ID.String(), Start: f.Start.UTC(),
		Door: f.Door, Listener: f.Listener,
		Client: f.Client.Addr().Unmap(), ClientPort: f.Client.Port(),
		Port: f.Port, Protocol: protocolWord(f.Proto), App: appWord(f.Seen),
		OriginalDst: f.OriginalDst,
		Resolved:    f.Resolved[:len(f.Resolved):len(f.Resolved)],
		Upstream:    f.Upstream,
		Claims:      cleanClaims(f.Claims),
		Aliases:     cleanList(f.Aliases),
		Method:      clean(f.Method, maxWord), Path: clean(f.Path, maxPath), ALPN: clean(f.ALPN, maxWord), ECH: f.ECH,
		Status: f.Status, BytesIn: f.BytesIn, BytesOut: f.BytesOut, ClientEnd: f.ClientEnd, ServerEnd: f.ServerEnd,
		Error: clean(f.Error, maxText), ErrorCode: clean(f.ErrorCode, maxWord),
	}
	r.DurationMS = float64(max(now.Sub(f.Start), 0).Microseconds()) / 1000
	r.setIdentity(f.Identity)
	r.setHost(f)
	r.setDecision(&f.Decision)
	r.setTrace(f.ID, f.Traceparent)
	return r
}

func (r *Record) setIdentity(id *policy.Identity) {
	if id == nil {
		return
	}
	r.User, r.Subject = clean(id.User, maxName), clean(id.Subject, maxText)
	r.Groups = cleanList(id.Groups)
	r.Namespace, r.ServiceAccount = clean(id.Namespace, maxName), clean(id.ServiceAccount, maxName)
	r.Process = clean(id.Process, maxText)
	switch {
	case r.User != "":
		r.Role = r.User
	case r.Subject != "":
		r.Role = r.Subject
	case r.ServiceAccount != "":
		r.Role = r.Namespace + "/" + r.ServiceAccount
	default:
		r.Role = r.Process
	}
}

// setHost takes the form that policy judged. A name that has no normal form is
// kept escaped in HostRaw alone, so that Host can be trusted as a key.
func (r *Record) setHost(f *flow.Flow) {
	switch {
	case f.Decision.Host != "":
		r.Host = clean(f.Decision.Host, maxName)
	case f.Decision.Addr.IsValid():
		r.Host = f.Decision.Addr.String()
	}
	if f.Host != r.Host {
		r.HostRaw = clean(f.Host, maxName)
	}
}

func (r *Record) setDecision(d *policy.Decision) {
	r.Decision = Deny
	if d.Allow {
		r.Decision = Allow
	}
	r.WouldDeny, r.Reason, r.Detail = d.WouldDeny, d.Reason, clean(d.Detail, maxText)
	r.Pattern, r.Mode, r.PolicyRevision = clean(d.Pattern, maxName), modeWord(d.Mode), clean(d.Revision, maxName)
	if d.Rule == nil {
		return
	}
	r.Rule, r.Owner, r.Service = clean(d.Rule.Name, maxName), clean(d.Rule.Owner, maxName), clean(d.Rule.Service, maxName)
	if d.Rule.Pos.File != "" {
		r.RulePos = clean(position(d.Rule.Pos), maxText)
	}
}
