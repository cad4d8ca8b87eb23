package policy

// Spec is a policy as written: what configuration files decode into. Strings
// are checked by Compile, which knows how to say what is wrong with them.
type Spec struct {
	Mode     string       `mapstructure:"mode"`     // enforce | report | open, or their aliases block | audit
	Services []ServiceRef `mapstructure:"services"` // of the built-in catalog; `sluice services` lists them
	Allow    []string     `mapstructure:"allow"`    // short form: TCP and QUIC port 443
	Deny     []string     `mapstructure:"deny"`     // short form: every port and protocol
	Rules    []RuleSpec   `mapstructure:"rules"`    // the long form
	Include  []string     `mapstructure:"include"`  // files with more policy, as globs from the main file's directory; read by the caller of Compile, one Source per file
}

// ServiceRef names a service of the catalog. In a file it is the bare name, or
// a map with the parameters and optional parts that are wanted.
type ServiceRef struct {
	Name   string            `mapstructure:"name"`   // as `sluice services` lists it
	Params map[string]string `mapstructure:"params"` // values of its parameters
	Parts  []string          `mapstructure:"parts"`  // optional parts to open too
}

// RuleSpec is one rule as written. A mode of its own makes a rule a trial
// (report: an allow rule lets the flow out marked, a deny rule only marks it),
// or lets a deny rule block under every mode (enforce). Under the policy's mode
// open a deny rule blocks all the same, as it is explicit.
type RuleSpec struct {
	Name        string       `mapstructure:"name"`         // in records and messages
	Owner       string       `mapstructure:"owner"`        // whom to ask about the rule
	Reason      string       `mapstructure:"reason"`       // why the rule exists
	Action      string       `mapstructure:"action"`       // allow (default) | deny
	Mode        string       `mapstructure:"mode"`         // default: the policy's
	From        FromSpec     `mapstructure:"from"`         // which clients; none: every client
	To          ToSpec       `mapstructure:"to"`           // which destinations
	Expires     string       `mapstructure:"expires"`      // 2027-01-31 (the end of that day, UTC) or RFC 3339
	Windows     []WindowSpec `mapstructure:"windows"`      // none: always
	Private     []string     `mapstructure:"private"`      // CIDRs of private addresses that the names may resolve to
	Inspect     string       `mapstructure:"inspect"`      // may TLS be opened: never | always
	IdleTimeout string       `mapstructure:"idle_timeout"` // of its flows, such as 90s or 1h; default: the gateway's
	MaxBytes    string       `mapstructure:"max_bytes"`    // a flow of it may carry, both ways: 500, 10MiB, 2GiB
	Service     string       `mapstructure:"-"`            // set by the catalog
	MultiTenant bool         `mapstructure:"-"`            // set by the catalog
}

// FromSpec says which clients a rule is for. Fields that are set must all
// match; within one field one value must. Empty: every client.
type FromSpec struct {
	CIDRs           []string `mapstructure:"cidrs"`            // addresses of clients
	Users           []string `mapstructure:"users"`            // names of users
	Groups          []string `mapstructure:"groups"`           // of which the user is in one
	Subjects        []string `mapstructure:"subjects"`         // subjects of clients' certificates
	Namespaces      []string `mapstructure:"namespaces"`       // of Kubernetes
	ServiceAccounts []string `mapstructure:"service_accounts"` // of Kubernetes
	Labels          []string `mapstructure:"labels"`           // key=value, all of which must be there
	Processes       []string `mapstructure:"processes"`        // paths of local programs
	UIDs            []uint32 `mapstructure:"uids"`             // numbers of local users
}

// ToSpec says which destinations a rule is for, and how they may be spoken to.
type ToSpec struct {
	Hosts    []string     `mapstructure:"hosts"`    // names and patterns
	CIDRs    []string     `mapstructure:"cidrs"`    // destinations asked for by address; for deny also what names resolve to
	Services []ServiceRef `mapstructure:"services"` // of the built-in catalog, with their own ports and apps
	Any      bool         `mapstructure:"any"`      // every destination; in mode report or open, every port, protocol and app of it too unless given
	Depth    int          `mapstructure:"depth"`    // 1: a leading *. is exactly one label; 0: any number
	Protocol string       `mapstructure:"protocol"` // tcp (default, but udp if every app is UDP only) | udp | any
	Ports    []PortRange  `mapstructure:"ports"`    // default: 443 for allow, 80 if every app is plain HTTP; every port for deny
	Apps     OneOrMore    `mapstructure:"app"`      // one or more of the words of Apps
	Methods  []string     `mapstructure:"methods"`  // of HTTP requests in clear, such as GET
	Paths    []string     `mapstructure:"paths"`    // exact, or a prefix that ends in *
}

// OneOrMore is a list of words that may be written as the one word it holds.
type OneOrMore []string

// PortRange is one port or a range, as written: "443" or "5228-5230".
type PortRange string

// WindowSpec is a time window in a week.
type WindowSpec struct {
	Days []string `mapstructure:"days"` // mon … sun, or ranges such as mon-fri; none: every day
	From string   `mapstructure:"from"` // 08:00
	To   string   `mapstructure:"to"`   // 18:00; earlier than from: over midnight
	Zone string   `mapstructure:"zone"` // IANA name; default UTC
}

// Source is one file's policy. Line gives the line of a path in it, such as
// "allow[3]" or "rules[2].to.hosts[0]", or 0; it may be nil.
type Source struct {
	File string
	Spec Spec
	Line func(path string) int
}
