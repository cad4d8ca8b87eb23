package policy

import (
	"net/netip"
	"time"
)

// Mode says what happens to a flow that no rule lets out.
type Mode uint8

// The modes, with the other words that configuration accepts for them.
const (
	ModeUnset Mode = iota // inherit: a rule without a mode takes the policy's
	Enforce               // deny (alias: block)
	Report                // let it go, and record that it would have been denied (alias: audit)
	Open                  // let it go, unmarked
)

// Protocol is the transport protocol of a flow.
type Protocol uint8

// The transport protocols. AnyProtocol is for rules only.
const (
	AnyProtocol Protocol = iota
	TCP
	UDP
)

// Seen says what the first bytes of a flow looked like. A rule's app accepts
// some of these (see Apps); the zero value means that no byte was looked at
// yet, and is accepted by every app.
type Seen uint8

// What the first bytes can show.
const (
	SeenNothing   Seen = iota // not looked yet
	SeenTLS                   // a ClientHello with a server name
	SeenTLSNoName             // a ClientHello without a server name
	SeenHTTP                  // an HTTP/1 request line or the HTTP/2 preface in clear
	SeenSTUN                  // a STUN or TURN message (RFC 8489 section 5)
	SeenOpaque                // the client spoke first, and it is none of the above
	SeenSilent                // the client waits for the server to speak
)

// Reason is the closed vocabulary of why a flow was denied: the same word in
// the response, the record, the span and the metric. Empty for a flow that was
// allowed and would be under enforcement.
type Reason string

// The reasons.
const (
	ReasonNoRule           Reason = "no_rule"           // no rule names the destination
	ReasonDenyRule         Reason = "deny_rule"         // a deny rule names it
	ReasonExpired          Reason = "expired"           // only a rule that has expired, or is outside its time window, names it
	ReasonMalformedName    Reason = "malformed_name"    // the name is not a host name
	ReasonNoName           Reason = "no_name"           // TLS without a server name where one is needed
	ReasonNameMismatch     Reason = "name_mismatch"     // the name inside is not the allowed one outside, and not allowed itself
	ReasonAddressLiteral   Reason = "address_literal"   // an address was asked for, and no rule allows that address
	ReasonForbiddenAddress Reason = "forbidden_address" // the name resolved to an address that must not be reached
	ReasonPort             Reason = "port"              // a rule names the destination, for other ports
	ReasonProtocol         Reason = "protocol"          // a rule names the destination, for another protocol or app
	ReasonSource           Reason = "source"            // a rule names the destination, for other clients
	ReasonRequest          Reason = "request"           // a rule names the destination, for other methods or paths
	ReasonUnauthenticated  Reason = "unauthenticated"   // the client must say who it is
	ReasonLimit            Reason = "limit"             // a limit on connections, bytes or time is reached
	ReasonLoop             Reason = "loop"              // the request already went through this gateway
	ReasonMalformedRequest Reason = "malformed_request" // what the client sent is not a valid request of its protocol
)

// Identity is what is known of the client beyond its address. All fields are
// optional; UID is valid only if HasUID is set.
type Identity struct {
	User           string
	Groups         []string
	Subject        string // subject of the client's certificate, RFC 2253 form
	Namespace      string // Kubernetes
	ServiceAccount string
	Labels         map[string]string
	Process        string // path of the executable
	UID            uint32
	HasUID         bool
}

// Query is one question to a policy. Port 0 asks before a port is known, as a
// DNS question does: allow rules then match whatever their ports, and, if Proto
// is AnyProtocol too, whatever their protocol. A flow to be dialled has a port.
type Query struct {
	Host     string // destination as the client gave it: a name in any case, or an address literal. Normalised by Decide.
	Addr     netip.Addr
	Port     uint16
	Proto    Protocol
	Seen     Seen // of a request inside inspected TLS: SeenTLS still
	Source   netip.Addr
	Identity *Identity // nil: anonymous
	Method   string    // of a request in clear, or inspected; "" when not known
	Path     string
	Time     time.Time // the clock is the caller's; if zero, allow rules that are bound to a time do not match
}

// Inspect says whether TLS to a destination may be opened for inspection.
type Inspect uint8

// The inspection settings; Never wins over Always whatever the rules' order.
const (
	InspectUnset Inspect = iota
	InspectNever
	InspectAlways
)

// Position is where something was written.
type Position struct {
	File string
	Line int
}

// Decision is the answer to a Query.
type Decision struct {
	Allow     bool
	WouldDeny bool       // allowed only because of the mode; Reason says why it would be denied
	Mode      Mode       // the mode that settled it
	Reason    Reason     // why it is, or would be, denied
	Detail    string     // one sentence for people: what is missing, or what to do
	Host      string     // the normal form of the name; "" for an address
	Addr      netip.Addr // the address, if the destination was given as one
	Rule      *Rule      // the rule that decided; nil if none did
	Pattern   string     // the rule's pattern that matched, in normal form
	Grant     *Rule      // the allow rule whose settings (Private, Idle, MaxBytes) the flow has; differs from Rule only for a deny rule in report
	Inspect   Inspect    // over every allow rule that matches: never, if one says never
	Revision  string     // of the policy that answered
}

// Rule is one compiled rule. It is immutable.
type Rule struct {
	Name        string
	Owner       string
	Reason      string // why the rule exists, for people
	Service     string // the catalog service it came from, or ""
	Deny        bool
	Mode        Mode
	Inspect     Inspect
	Private     []netip.Prefix // private addresses that the rule's names may resolve to
	Idle        time.Duration  // idle time-out of its flows; 0: the gateway's
	MaxBytes    int64          // both ways together; 0: no limit
	Expires     time.Time      // zero: never
	MultiTenant bool           // its names serve many customers
	Apps        []string       // the words of its app list; none: see Accepts
	Opaque      bool           // its app list has opaque: whatever its flows carry is accepted
	AnyName     bool           // to: {any: true}
	Pos         Position

	who        who
	how        how
	when       when
	seen       seenSet // what its apps accept
	seenAddr   seenSet // the same when the destination is an address
	everything bool    // every port, protocol and app: a deny rule, or a posture (any, in report or open)
	blocks     bool    // a deny rule that is enforced under this policy
	one        bool    // depth: 1
	key        string  // equal for rules that differ in destinations and names only
	detail     [stages]string
}
