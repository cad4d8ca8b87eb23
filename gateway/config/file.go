// Package config turns a file, the environment and flags into the options of
// the gateway's packages. It is the only home of viper.
package config

import (
	"time"

	"sluice/policy"
)

// File is the configuration as written. Its defaults are those of Default;
// every key stands in config.example.yaml. The comments at the fields are the
// descriptions of the JSON Schema.
type File struct {
	Version   int         `mapstructure:"version"`   // of this form of file: 1
	Listeners []Listener  `mapstructure:"listeners"` // addresses that clients connect to
	Resolver  Resolver    `mapstructure:"resolver"`  // how names are resolved
	Guard     Guard       `mapstructure:"guard"`     // which resolved addresses may be reached
	Relay     Relay       `mapstructure:"relay"`     // time-outs of allowed flows
	Limits    Limits      `mapstructure:"limits"`    // what clients may cost
	Policy    policy.Spec `mapstructure:"policy"`    // what may leave
	Audit     Audit       `mapstructure:"audit"`     // where records are kept
	Telemetry Telemetry   `mapstructure:"telemetry"` // export of spans; overrides the OTEL_* variables
	Admin     Admin       `mapstructure:"admin"`     // listener of health, metrics and the API
	Log       Log         `mapstructure:"log"`       // the gateway's own log
	StateDir  string      `mapstructure:"state_dir"` // what must outlive the process; empty: $STATE_DIRECTORY, else $XDG_STATE_HOME/sluice, else ~/.local/state/sluice
}

// Listener is one address that clients connect to.
type Listener struct {
	Name    string   `mapstructure:"name"`    // for records and messages
	Address string   `mapstructure:"address"` // address:port to listen on; an empty address is all of them
	Doors   []string `mapstructure:"doors"`   // what may be spoken; the first bytes tell which it is
	Port    int      `mapstructure:"port"`    // destination port of flows of the tls door; default 443
	TLS     TLS      `mapstructure:"tls"`     // the listener speaks TLS itself (not with the tls door)
}

// TLS says where the certificate of a listener comes from. An empty Source
// means that the listener does not speak TLS itself.
type TLS struct {
	Source     string   `mapstructure:"source"`      // where the certificate comes from; empty: no TLS
	Names      []string `mapstructure:"names"`       // names and addresses that the certificate is for
	Cert       string   `mapstructure:"cert"`        // source files: PEM file, the leaf first; read again when it changes
	Key        string   `mapstructure:"key"`         // source files: PEM file
	Directory  string   `mapstructure:"directory"`   // source acme: https URL of the ACME directory; to name it is to agree to its terms
	Email      string   `mapstructure:"email"`       // source acme: contact of the account
	CARoot     string   `mapstructure:"ca_root"`     // source acme: PEM file that signs the directory's own certificate
	ClientCA   string   `mapstructure:"client_ca"`   // PEM file with the authorities of clients' certificates: ask clients for one
	ClientAuth string   `mapstructure:"client_auth"` // with client_ca: require (default) or request
}

// Resolver says how names are resolved.
type Resolver struct {
	Servers   []string `mapstructure:"servers"`    // 192.0.2.1, udp://HOST:53, tcp://HOST:53, tls://HOST:853#NAME or https://HOST/dns-query#NAME; none: the system's
	Timeout   Duration `mapstructure:"timeout"`    // of one lookup in all
	Hosts     []Host   `mapstructure:"hosts"`      // fixed answers, before all others
	HostsFile string   `mapstructure:"hosts_file"` // answers before the servers'; empty: /etc/hosts if servers is empty; none: none
}

// Host is a fixed answer of the resolver.
type Host struct {
	Name      string   `mapstructure:"name"`      // host name, without *
	Addresses []string `mapstructure:"addresses"` // at least one
}

// Guard says which refused ranges may be reached after all.
type Guard struct {
	Permit []string `mapstructure:"permit"` // private ranges that the names of any rule may resolve to; prefer private: on one rule
}

// Relay sets the time-outs of allowed flows.
type Relay struct {
	IdleTimeout      Duration `mapstructure:"idle_timeout"`       // ends a flow that moved no byte for so long
	HalfCloseTimeout Duration `mapstructure:"half_close_timeout"` // the same once one side has ended
}

// Limits bounds what clients may cost before and while they are served.
type Limits struct {
	HandshakeTimeout     Duration `mapstructure:"handshake_timeout"`      // total, for a request head or a ClientHello
	ConnectTimeout       Duration `mapstructure:"connect_timeout"`        // total, to reach the destination
	DrainTimeout         Duration `mapstructure:"drain_timeout"`          // for live flows to end when stopping
	RevokeGrace          Duration `mapstructure:"revoke_grace"`           // before a live flow that a new policy denies is cut
	ConnectionsPerClient int      `mapstructure:"connections_per_client"` // at one time, from one address, for each listener; 0: no limit
	Connections          int      `mapstructure:"connections"`            // at one time, for each listener; 0: as many as descriptors allow
}

// Audit says where records are kept.
type Audit struct {
	Dir       string   `mapstructure:"dir"`       // directory of the journal; empty: audit under state_dir; none: no journal
	Retention Duration `mapstructure:"retention"` // older files are removed; 0s: kept for ever
	MaxBytes  ByteSize `mapstructure:"max_bytes"` // of all files, the oldest removed first; 0: no limit
	Required  bool     `mapstructure:"required"`  // no flow without a record: refuse when the journal can not take one
}

// Telemetry overrides the OTEL_* variables.
type Telemetry struct {
	Endpoint    string   `mapstructure:"endpoint"`     // URL of an OTLP receiver, such as http://collector:4318; none: as OTEL_* say, else nothing is sent
	Protocol    string   `mapstructure:"protocol"`     // default http/protobuf
	Headers     []string `mapstructure:"headers"`      // sent with each export, as name=value
	ServiceName string   `mapstructure:"service_name"` // service.name of the spans; default OTEL_SERVICE_NAME, else sluice
}

// Admin is the listener of health, metrics and the API.
type Admin struct {
	Address   string `mapstructure:"address"`    // address:port; none: no admin listener. Not on loopback: TLS, and a token or clients' certificates, are a must
	TokenFile string `mapstructure:"token_file"` // file with the bearer token that requests must carry
	TLS       TLS    `mapstructure:"tls"`        // the admin listener speaks TLS
}

// Log is the gateway's own log, and the console copy of the records.
type Log struct {
	Level  string `mapstructure:"level"`  // least level that is written
	Format string `mapstructure:"format"` // of the lines on standard error
	Flows  string `mapstructure:"flows"`  // which records the log repeats
}

// defaultListeners are those of a file that names none.
func defaultListeners() []Listener {
	return []Listener{{Name: "proxy", Address: "127.0.0.1:3128", Doors: []string{"connect", "http", "socks5"}}}
}

// Default returns the values of the keys that a file leaves out, but for the
// listeners: a decoder would mix a list into another.
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
		Policy: policy.Spec{Mode: "enforce"},
		Audit:  Audit{Retention: Duration(30 * 24 * time.Hour), MaxBytes: 10 << 30},
		Admin:  Admin{Address: "127.0.0.1:9127"},
		Log:    Log{Level: "info", Format: "text", Flows: "denied"},
	}
}
