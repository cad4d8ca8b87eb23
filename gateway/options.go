package gateway

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"sluice/certs"
	"sluice/gateway/audit"
	"sluice/gateway/dial"
	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/telemetry"
	"sluice/policy"
)

// Options sets up a Gateway. Config makes them from a file.
type Options struct {
	Version   string
	Listeners []Listener
	Resolver  dial.ResolverOptions
	Permit    []netip.Prefix // private ranges that any rule may reach
	Relay     relay.Options
	Limits    Limits
	Policy    *policy.Policy
	Loaded    string         // where the policy comes from, for status
	Journal   *audit.Options // nil: none is kept
	Flows     string         // which records the log repeats: denied, all or none
	Telemetry telemetry.Options
	Admin     Admin
	Logger    *slog.Logger

	// Load reads the configuration again, for a reload. Nil: there is none.
	Load func(context.Context) (*Reloaded, error)

	// Opened is called once every listener is open, with their addresses. It
	// may be nil.
	Opened func([]Bound)
}

// Reloaded is what a reload found.
type Reloaded struct {
	Policy *policy.Policy
	Notes  []string // such as keys that need a restart
}

// Listener is one address to listen on.
type Listener struct {
	Name    string
	Address string
	Doors   []flow.Door
	Port    uint16 // destination port of the tls door; 0: 443
	TLS     *certs.Options
}

// Bound is a listener that is open.
type Bound struct {
	Name    string
	Address netip.AddrPort
	Doors   []flow.Door
	TLS     bool
	Trust   string // file with the authority that clients must trust; "" if its certificate is not of the internal one
}

// Limits bounds what clients may cost. Zero Connections are as many as
// descriptors allow; a zero ConnectionsPerClient is no limit.
type Limits struct {
	Handshake            time.Duration
	Connect              time.Duration
	Drain                time.Duration
	RevokeGrace          time.Duration
	Connections          int
	ConnectionsPerClient int
}

// Admin is the listener of the admin API.
type Admin struct {
	Address string // "": none
	Token   string // "" is for loopback only
	TLS     *certs.Options
}
