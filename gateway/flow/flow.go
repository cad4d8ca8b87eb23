// Package flow holds the record of one flow, from its first byte to its last,
// and the only way for a door to let a flow out: the Opener.
package flow

import (
	"net/netip"
	"time"

	"sluice/policy"
)

// Door names a way in.
type Door string

// The doors.
const (
	DoorConnect Door = "connect"
	DoorHTTP    Door = "http"
	DoorSOCKS5  Door = "socks5"
	DoorTLS     Door = "tls"
	DoorTCP     Door = "tcp"
)

// Origin says where a claimed name came from.
type Origin string

// The origins of claims.
const (
	FromConnect Origin = "connect" // the target of a CONNECT request
	FromHost    Origin = "host"    // the authority of an absolute-form request
	FromSNI     Origin = "sni"     // the server name of a ClientHello
	FromSOCKS   Origin = "socks"   // the destination of a SOCKS request
)

// Claim is one name (or address) that the client gave for its destination.
type Claim struct {
	Host string `json:"host"`
	From Origin `json:"from"`
}

// End says how one side of a relayed flow ended.
type End string

// The ways a side ends.
const (
	EndEOF     End = "eof"     // it closed its sending half
	EndReset   End = "reset"   // connection reset
	EndIdle    End = "idle"    // no byte either way for the idle time-out
	EndTimeout End = "timeout" // half-closed for longer than the half-close time-out
	EndError   End = "error"   // any other error
	EndPolicy  End = "policy"  // cut by the gateway: the policy no longer allows it
	EndDrain   End = "drain"   // cut by the gateway: it is stopping
	EndLimit   End = "limit"   // cut by the gateway: a limit is reached
)

// Stage says how far a flow has come. Only the gate sets it.
type Stage uint8

// The stages. A flow that was denied, or could not be connected, has ended.
const (
	Asking Stage = iota
	Admitted
	Ended
)

// Flow is one attempt by a client to reach one destination. It holds facts
// only. A Flow belongs to the goroutine that serves it; the gateway reads it
// from elsewhere only through the snapshot taken when it was admitted.
type Flow struct {
	// Who and how: set by the door before Admit.
	ID          ID
	Start       time.Time
	Listener    string // name of the listener
	Door        Door
	Client      netip.AddrPort
	Local       netip.AddrPort
	OriginalDst netip.AddrPort   // transparent only
	Identity    *policy.Identity // nil: anonymous
	Traceparent string           // W3C trace context of a proxied request

	// Where to: set by the door before Admit.
	Host   string // as the client gave it: a name or an address literal
	Port   uint16
	Proto  policy.Protocol
	Seen   policy.Seen
	Claims []Claim
	Method string // of a request in clear
	Path   string // of a request in clear, without its query
	ALPN   string // first protocol offered in the ClientHello
	ECH    bool   // the ClientHello carries encrypted_client_hello, GREASE or real

	// Set by the gate.
	Stage    Stage
	Decision policy.Decision
	Resolved []netip.Addr   // every address of the answer that passed the guard
	Aliases  []string       // CNAME chain of the answer
	Upstream netip.AddrPort // the address that was dialled

	// Set by the door before Done.
	BytesIn   int64  // from the client
	BytesOut  int64  // to the client
	ClientEnd End    // how the client's side ended
	ServerEnd End    // how the server's side ended
	Status    int    // of the HTTP response, where the door saw one
	Error     string // why an allowed flow failed: a short sentence
	ErrorCode string // the same as an RFC 9209 error type, such as "dns_timeout"
}

// New makes the record of a flow that begins now.
func New(door Door, client, local netip.AddrPort) *Flow {
	now := time.Now()
	return &Flow{ID: NewID(now), Start: now, Door: door, Client: client, Local: local, Proto: policy.TCP}
}

// Claim notes a name that the client gave. Equal claims are kept once.
func (f *Flow) Claim(from Origin, host string) {
	c := Claim{Host: host, From: from}
	for _, have := range f.Claims {
		if have == c {
			return
		}
	}
	f.Claims = append(f.Claims, c)
}

// Inbound is what a listener knows of an accepted connection; a door makes
// its flows from it.
type Inbound struct {
	Listener    string
	Client      netip.AddrPort
	Local       netip.AddrPort
	OriginalDst netip.AddrPort   // transparent only
	Identity    *policy.Identity // nil: anonymous
	Secure      bool             // the client speaks TLS to the gateway itself
	Port        uint16           // destination port of flows that do not say one: SNI routing
}

// New makes the record of a flow that begins now on this connection.
func (in Inbound) New(door Door) *Flow {
	f := New(door, in.Client, in.Local)
	f.Listener, f.OriginalDst, f.Identity = in.Listener, in.OriginalDst, in.Identity
	return f
}
