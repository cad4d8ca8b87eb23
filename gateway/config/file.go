// Package config turns a file, the environment and flags into the options of
// the gateway's packages. It is the only home of viper.
package config

import (
	"time"

	"sluice/policy"
)

// File is the configuration as written. Its defaults are those of Default;
// every key stands in config.example.yaml.
type File struct {
	Version   int         `mapstructure:"version"`
	Listeners []Listener  `mapstructure:"listeners"`
	Resolver  Resolver    `mapstructure:"resolver"`
	Guard     Guard       `mapstructure:"guard"`
	Relay     Relay       `mapstructure:"relay"`
	Limits    Limits      `mapstructure:"limits"`
	Policy    policy.Spec `mapstructure:"policy"`
	Audit     Audit       `mapstructure:"audit"`
	Telemetry Telemetry   `mapstructure:"telemetry"`
	Admin     Admin       `mapstructure:"admin"`
	Log       Log         `mapstructure:"log"`
	StateDir  string      `mapstructure:"state_dir"`
}

// Listener is one address that clients connect to.
type Listener struct {
	Name    string   `mapstructure:"name"`
	Address string   `mapstructure:"address"`
	Doors   []string `mapstructure:"doors"`
	Port    int      `mapstructure:"port"` // destination port of flows of the tls door; default 443
	TLS     TLS      `mapstructure:"tls"`
}

// TLS says where the certificate of a listener comes from. An empty Source
// means that the listener does not speak TLS itself.
type TLS struct {
	Source     string   `mapstructure:"source"` // files | acme | internal
	Names      []string `mapstructure:"names"`
	Cert       string   `mapstructure:"cert"`
	Key        string   `mapstructure:"key"`
	Directory  string   `mapstructure:"directory"` // ACME directory URL
	Email      string   `mapstructure:"email"`
	CARoot     string   `mapstructure:"ca_root"`     // PEM file that signs the ACME directory's own certificate
	ClientCA   string   `mapstructure:"client_ca"`   // PEM file: ask clients for a certificate
	ClientAuth string   `mapstructure:"client_auth"` // require | request
}

// Resolver says how names are resolved.
type Resolver struct {
	Servers   []string `mapstructure:"servers"` // none: the system's
	Timeout   Duration `mapstructure:"timeout"` // of one lookup in all
	Hosts     []Host   `mapstructure:"hosts"`
	HostsFile string   `mapstructure:"hosts_file"` // "": the system's, when servers is empty; none: none
}

// Host is a fixed answer of the resolver.
type Host struct {
	Name      string   `mapstructure:"name"`
	Addresses []string `mapstructure:"addresses"`
}

// Guard lists private ranges that the names of any rule may resolve to.
type Guard struct {
	Permit []string `mapstructure:"permit"`
}

// Relay sets the time-outs of allowed flows.
type Relay struct {
	IdleTimeout      Duration `mapstructure:"idle_timeout"`
	HalfCloseTimeout Duration `mapstructure:"half_close_timeout"`
}

// Limits bounds what clients may cost before and while they are served.
type Limits struct {
	HandshakeTimeout     Duration `mapstructure:"handshake_timeout"` // total, for a request head or a ClientHello
	ConnectTimeout       Duration `mapstructure:"connect_timeout"`   // total, to reach the destination
	DrainTimeout         Duration `mapstructure:"drain_timeout"`     // for live flows to end when stopping
	RevokeGrace          Duration `mapstructure:"revoke_grace"`      // before a live flow that a new policy denies is cut
	ConnectionsPerClient int      `mapstructure:"connections_per_client"`
	Connections          int      `mapstructure:"connections"`
}

// Audit says where records are kept.
type Audit struct {
	Dir       string   `mapstructure:"dir"` // "": under state_dir; none: no journal
	Retention Duration `mapstructure:"retention"`
	MaxBytes  ByteSize `mapstructure:"max_bytes"`
	Required  bool     `mapstructure:"required"`
}

// Telemetry overrides the OTEL_* variables.
type Telemetry struct {
	Endpoint    string   `mapstructure:"endpoint"` // http://collector:4317
	Protocol    string   `mapstructure:"protocol"` // grpc | http/protobuf
	Headers     []string `mapstructure:"headers"`  // name=value
	ServiceName string   `mapstructure:"service_name"`
}

// Admin is the listener of health, metrics and the API.
type Admin struct {
	Address   string `mapstructure:"address"` // "": none
	TokenFile string `mapstructure:"token_file"`
	TLS       TLS    `mapstructure:"tls"`
}

// Log is the gateway's own log, and the console copy of the records.
type Log struct {
	Level  string `mapstructure:"level"`  // debug | info | warn | error
	Format string `mapstructure:"format"` // text | json
	Flows  string `mapstructure:"flows"`  // denied | all | none: which records the log repeats
}

// Default returns the values of the keys that a file leaves out.
func Default() File {
	return File{
		Version:  1,
		Resolver: Resolver{Timeout: Duration(5 * time.Second)},
		Relay:    Relay{IdleTimeout: Duration(time.Hour), HalfCloseTimeout: Duration(5 * time.Minute)},
		Limits: Limits{
			HandshakeTimeout: Duration(10 * time.Second),
			ConnectTimeout:   Duration(10 * time.Second),
			DrainTimeout:     Duration(30 * time.Second),
			RevokeGrace:      Duration(0),
		},
		Policy:    policy.Spec{Mode: "enforce"},
		Audit:     Audit{Retention: Duration(30 * 24 * time.Hour), MaxBytes: 10 << 30},
		Telemetry: Telemetry{ServiceName: "sluice"},
		Admin:     Admin{Address: "127.0.0.1:9127"},
		Log:       Log{Level: "info", Format: "text", Flows: "denied"},
	}
}
