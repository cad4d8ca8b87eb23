package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sluice/certs"
	"sluice/gateway"
	"sluice/gateway/audit"
	"sluice/gateway/dial"
	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/telemetry"
	"sluice/policy"
)

// none as a path switches off what would have a default.
const none = "none"

// Options compiles the policy and makes the gateway's options. Its error
// joins one error per thing wrong, each with file and line where there is
// one. Flags and variables count as the file does.
func Options(l *Loaded, log *slog.Logger) (gateway.Options, error) {
	b := &builder{l: l}
	f := &l.File
	o := gateway.Options{
		Listeners: b.listeners(),
		Resolver:  b.resolver(),
		Permit:    b.prefixes("guard.permit", f.Guard.Permit),
		Relay:     relay.Options{IdleTimeout: time.Duration(f.Relay.IdleTimeout), HalfCloseTimeout: time.Duration(f.Relay.HalfCloseTimeout)},
		Limits: gateway.Limits{
			Handshake: time.Duration(f.Limits.HandshakeTimeout), Connect: time.Duration(f.Limits.ConnectTimeout),
			Drain: time.Duration(f.Limits.DrainTimeout), RevokeGrace: time.Duration(f.Limits.RevokeGrace),
			Connections: f.Limits.Connections, ConnectionsPerClient: f.Limits.ConnectionsPerClient,
		},
		Journal:   b.journal(),
		Flows:     f.Log.Flows,
		Telemetry: b.telemetry(),
		Admin:     b.admin(),
		Loaded:    l.Name,
		Logger:    log,
	}
	b.checkLog()
	b.positive("relay.idle_timeout", f.Relay.IdleTimeout)
	b.positive("relay.half_close_timeout", f.Relay.HalfCloseTimeout)
	b.positive("limits.handshake_timeout", f.Limits.HandshakeTimeout)
	b.positive("limits.connect_timeout", f.Limits.ConnectTimeout)
	b.count("limits.connections", f.Limits.Connections)
	b.count("limits.connections_per_client", f.Limits.ConnectionsPerClient)
	var err error
	o.Policy, err = l.Compile(time.Now())
	return o, errors.Join(append(b.errs, err)...)
}

// builder collects what is wrong while options are made.
type builder struct {
	l    *Loaded
	errs []error
}

func (b *builder) fail(path, format string, args ...any) {
	b.errs = append(b.errs, b.l.at(path, format, args...))
}

// oneOf checks a word against the words of its key.
func (b *builder) oneOf(path, key, got string) bool {
	if slices.Contains(words[key], got) {
		return true
	}
	b.fail(path, "%q is not one of %s", got, strings.Join(words[key], ", "))
	return false
}

func (b *builder) positive(path string, d Duration) {
	if d <= 0 {
		b.fail(path, "must be more than 0")
	}
}

func (b *builder) count(path string, n int) {
	if n < 0 {
		b.fail(path, "must not be negative; 0 is no limit")
	}
}

func (b *builder) prefixes(path string, texts []string) (list []netip.Prefix) {
	for i, s := range texts {
		p, err := policy.ParsePrefix(s)
		if err != nil {
			b.fail(fmt.Sprintf("%s[%d]", path, i), "%v", err)
			continue
		}
		list = append(list, p)
	}
	return list
}

// words are the closed vocabularies of keys. Those of the policy are checked
// by policy.Compile.
var words = map[string][]string{
	"Listener.doors":     {string(flow.DoorConnect), string(flow.DoorHTTP), string(flow.DoorSOCKS5), string(flow.DoorTLS)},
	"TLS.source":         {string(certs.SourceFiles), string(certs.SourceACME), string(certs.SourceInternal)},
	"TLS.client_auth":    {string(certs.ClientsRequired), string(certs.ClientsRequested)},
	"Telemetry.protocol": {"grpc", "http/protobuf"},
	"Log.level":          {"debug", "info", "warn", "error"},
	"Log.format":         {"text", "json"},
	"Log.flows":          {"denied", "all", "none"},
}

func (b *builder) listeners() (list []gateway.Listener) {
	if len(b.l.File.Listeners) == 0 {
		b.fail("listeners", "there is no listener; write {name: proxy, address: \"127.0.0.1:3128\", doors: [connect, http, socks5]}")
	}
	seen, bound := map[string]string{}, map[string]string{}
	if a := b.l.File.Admin.Address; a != none {
		bound[a] = "admin"
	}
	for i, l := range b.l.File.Listeners {
		path := fmt.Sprintf("listeners[%d]", i)
		if l.Name == "" {
			l.Name = fmt.Sprintf("listener%d", i)
		}
		if strings.ContainsAny(l.Name, " \t\r\n") || l.Name == "admin" {
			b.fail(path+".name", "%q can not be the name of a listener", l.Name)
		}
		if before, twice := seen[l.Name]; twice {
			b.fail(path+".name", "name %q stands twice; it is also the name of %s", l.Name, before)
		}
		seen[l.Name] = path
		if b.address(path+".address", l.Address) {
			if before, twice := bound[l.Address]; twice && !strings.HasSuffix(l.Address, ":0") {
				b.fail(path+".address", "%s is also the address of %s", l.Address, before)
			}
			bound[l.Address] = path
		}
		if l.Port < 0 || l.Port > 65535 {
			b.fail(path+".port", "%d is not a port", l.Port)
		}
		gl := gateway.Listener{Name: l.Name, Address: l.Address, Port: uint16(l.Port), TLS: b.tls(path+".tls", l.Name, l.Address, l.TLS)}
		if len(l.Doors) == 0 {
			b.fail(path+".doors", "no doors; choose from %s", strings.Join(words["Listener.doors"], ", "))
		}
		for j, d := range l.Doors {
			if b.oneOf(fmt.Sprintf("%s.doors[%d]", path, j), "Listener.doors", d) {
				gl.Doors = append(gl.Doors, flow.Door(d))
			}
		}
		if gl.TLS != nil && slices.Contains(gl.Doors, flow.DoorTLS) {
			b.fail(path+".doors", "a listener that speaks TLS itself can not have the tls door; use a listener of its own")
		}
		list = append(list, gl)
	}
	return list
}

// address checks a host:port to listen on.
func (b *builder) address(path, s string) bool {
	before := len(b.errs)
	host, port, err := net.SplitHostPort(s)
	switch {
	case s == "":
		b.fail(path, "is missing; write it like \"127.0.0.1:3128\" or \":3128\"")
	case err != nil:
		b.fail(path, "%q is not host:port; write it like \"127.0.0.1:3128\" or \"[::1]:3128\"", s)
	case host != "" && net.ParseIP(host) == nil:
		b.fail(path, "%q: listen on an address, not a name", s)
	default:
		if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
			b.fail(path, "%q has no valid port", s)
		}
	}
	return len(b.errs) == before
}

func (b *builder) resolver() dial.ResolverOptions {
	r := b.l.File.Resolver
	o := dial.ResolverOptions{Servers: r.Servers, Timeout: time.Duration(r.Timeout), HostsFile: r.HostsFile}
	b.positive("resolver.timeout", r.Timeout)
	if r.HostsFile != "" && r.HostsFile != none {
		if _, err := os.Stat(r.HostsFile); err != nil {
			b.fail("resolver.hosts_file", "%s: %s; to use none write hosts_file: none", r.HostsFile, notReadable(err))
		}
	}
	for i, s := range r.Servers {
		if err := dial.CheckServer(s); err != nil {
			b.fail(fmt.Sprintf("resolver.servers[%d]", i), "%v", err)
		}
	}
	for i, h := range r.Hosts {
		path := fmt.Sprintf("resolver.hosts[%d]", i)
		host := dial.Host{Name: h.Name}
		if _, err := policy.ParseName(h.Name); err != nil {
			b.fail(path+".name", "%q %v", h.Name, err)
		}
		if len(h.Addresses) == 0 {
			b.fail(path+".addresses", "no addresses")
		}
		for j, a := range h.Addresses {
			addr, err := netip.ParseAddr(a)
			if err != nil || addr.Zone() != "" {
				b.fail(fmt.Sprintf("%s.addresses[%d]", path, j), "%q is not an IP address without zone", a)
				continue
			}
			host.Addresses = append(host.Addresses, addr)
		}
		o.Hosts = append(o.Hosts, host)
	}
	return o
}

func (b *builder) journal() *audit.Options {
	a := b.l.File.Audit
	if a.Dir == none {
		if a.Required {
			b.fail("audit.required", "records are required, but audit.dir is none")
		}
		return nil
	}
	dir := a.Dir
	if dir == "" {
		dir = filepath.Join(b.stateDir(), "audit")
	}
	return &audit.Options{Dir: dir, Required: a.Required, Retention: time.Duration(a.Retention), MaxBytes: int64(a.MaxBytes)}
}

// stateDir is where the gateway keeps what must outlive it: state_dir, the
// directory that systemd made, or the user's.
func (b *builder) stateDir() string {
	if dir := b.l.File.StateDir; dir != "" {
		return dir
	}
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sluice")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir()
	}
	return filepath.Join(home, ".local", "state", "sluice")
}

func (b *builder) telemetry() telemetry.Options {
	t := b.l.File.Telemetry
	o := telemetry.Options{Endpoint: t.Endpoint, Protocol: t.Protocol, ServiceName: t.ServiceName}
	if t.Protocol != "" {
		b.oneOf("telemetry.protocol", "Telemetry.protocol", t.Protocol)
	}
	if t.Endpoint != "" {
		if u, err := url.Parse(t.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			b.fail("telemetry.endpoint", "%q is not a URL such as http://collector:4317", t.Endpoint)
		}
	}
	for i, h := range t.Headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			b.fail(fmt.Sprintf("telemetry.headers[%d]", i), "write it like name=value")
			continue
		}
		if o.Headers == nil {
			o.Headers = map[string]string{}
		}
		o.Headers[name] = value
	}
	return o
}

func (b *builder) checkLog() {
	l := b.l.File.Log
	b.oneOf("log.level", "Log.level", l.Level)
	b.oneOf("log.format", "Log.format", l.Format)
	b.oneOf("log.flows", "Log.flows", l.Flows)
}
