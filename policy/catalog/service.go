// Package catalog holds the built-in services: named presets of allow rules
// for the systems that an egress gateway is asked about most, each with the
// source that its facts were taken from.
package catalog

// Service is one named preset. All of its text is for people; only names,
// hosts, protocol, ports and app become rules.
type Service struct {
	Name     string   `yaml:"name" json:"name"`
	Title    string   `yaml:"title" json:"title"`
	Vendor   string   `yaml:"vendor" json:"vendor"`
	Summary  string   `yaml:"summary" json:"summary"`
	Notes    []string `yaml:"notes" json:"notes,omitempty"`
	Sources  []Source `yaml:"sources" json:"sources"`
	Includes []string `yaml:"includes" json:"includes,omitempty"` // other services that come with this one
	Params   []Param  `yaml:"params" json:"params,omitempty"`
	Parts    []Part   `yaml:"parts" json:"parts,omitempty"`
	Entries  []Entry  `yaml:"entries" json:"entries"`
}

// Source says where facts were taken from, and how sure they are.
type Source struct {
	Title string `yaml:"title" json:"title"`
	URL   string `yaml:"url" json:"url,omitempty"` // empty for a document that is not published
	Basis Basis  `yaml:"basis" json:"basis"`
	Sure  Sure   `yaml:"sure" json:"sure"`
}

// Param is a value that only the user knows, such as the name of an own
// server. Entries refer to it as {name}.
type Param struct {
	Name        string    `yaml:"name" json:"name"`
	Description string    `yaml:"description" json:"description"`
	Kind        ParamKind `yaml:"kind" json:"kind"`
	Values      []string  `yaml:"values" json:"values,omitempty"`   // the values there are; empty: any of its kind
	Default     string    `yaml:"default" json:"default,omitempty"` // taken when the user gives none
}

// Part is an optional group of entries: off until it is asked for by name.
type Part struct {
	Name        string `yaml:"name" json:"name"`
	Description string `yaml:"description" json:"description"`
}

// Entry is one kind of connection that a service makes.
type Entry struct {
	Hosts       []string  `yaml:"hosts" json:"hosts"`                         // host patterns, with {parameters}
	Fallback    []string  `yaml:"fallback" json:"fallback,omitempty"`         // hosts when a parameter of Hosts is not given
	Protocol    string    `yaml:"protocol" json:"protocol"`                   // tcp | udp | any
	Ports       []string  `yaml:"ports" json:"ports"`                         // "443", "5228-5230" or a {parameter}
	App         []string  `yaml:"app" json:"app"`                             // what is spoken; opaque: whatever it is
	Direction   Direction `yaml:"direction" json:"direction"`                 // as the vendor's documents see it
	Part        string    `yaml:"part" json:"part,omitempty"`                 // empty: on whenever the service is named
	Inspect     string    `yaml:"inspect" json:"inspect,omitempty"`           // never, or empty
	MultiTenant bool      `yaml:"multi_tenant" json:"multi_tenant,omitempty"` // the hosts serve many customers
	CoveredBy   string    `yaml:"covered_by" json:"covered_by,omitempty"`     // wider pattern of the same service that makes a rule needless
	Verbatim    string    `yaml:"verbatim" json:"verbatim,omitempty"`         // as the vendor writes it, where that differs
	Correction  string    `yaml:"correction" json:"correction,omitempty"`     // what is wrong with it, or was added
	Basis       Basis     `yaml:"basis" json:"basis"`
	Sure        Sure      `yaml:"sure" json:"sure"`
	Purpose     string    `yaml:"purpose" json:"purpose"`
}

// ParamKind says what a parameter's value must look like.
type ParamKind string

// The kinds of parameters. All but KindLabel take several values, separated by
// commas.
const (
	KindHost    ParamKind = "host"    // host name or pattern, address, or CIDR
	KindAddress ParamKind = "address" // address or CIDR
	KindLabel   ParamKind = "label"   // one label of a host name
	KindPorts   ParamKind = "ports"   // port or range of ports
	KindPrivate ParamKind = "private" // CIDRs that the service's host parameters may resolve to
)

// Direction is the way of a connection as seen from the customer's network.
type Direction string

// The directions.
const (
	Out Direction = "out" // from a client behind the gateway outward
	In  Direction = "in"  // arrives at a server of the customer's
	LAN Direction = "lan" // between segments of the customer's network
)

// Basis says what a fact rests on.
type Basis string

// The bases, best known first.
const (
	VendorPage       Basis = "vendor-page"       // public documentation of a vendor
	VendorManual     Basis = "vendor-manual"     // document of a vendor that is not published
	Standard         Basis = "standard"          // RFC or IANA registry
	ClientCode       Basis = "client-code"       // constants of the vendor's published client
	Observed         Basis = "observed"          // seen on the wire with the real client
	ThirdParty       Basis = "third-party"       // somebody else's page, log or source
	GeneralKnowledge Basis = "general-knowledge" // no source found; check before you rely on it
)

// Sure says how sure a fact is.
type Sure string

// The degrees.
const (
	High   Sure = "high"
	Medium Sure = "medium"
	Low    Sure = "low"
)

// anyHost, as the one host of an entry's fallback, stands for every
// destination. Only an optional part may have it.
const anyHost = "any"

// apps are the words that entries may have for what is spoken: those of the
// app lists of rules that the services need.
var apps = []string{
	"dns", "enet", "grpc", "http", "http-ocsp", "https", "ldap", "ldaps", "msrpc", "mssql-tds", "opaque", "rtp", "sip",
	"smtp", "smtp-starttls", "smtps", "srtp", "stun", "turn", "turns", "ws", "wss",
}

// part returns the part of that name, and whether there is one.
func (s *Service) part(name string) (Part, bool) {
	for _, p := range s.Parts {
		if p.Name == name {
			return p, true
		}
	}
	return Part{}, false
}

// param returns the parameter of that name, and whether there is one.
func (s *Service) param(name string) (Param, bool) {
	for _, p := range s.Params {
		if p.Name == name {
			return p, true
		}
	}
	return Param{}, false
}
