package dial

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// maxNameservers is how many servers of resolv.conf count, as in resolv.conf(5).
const maxNameservers = 3

// endpoint is where a DNS server is, and how it is spoken to.
type endpoint struct {
	scheme  string     // udp, tcp, tls, https
	addr    netip.Addr // invalid: ask for host
	host    string     // normal name; "" if addr is valid
	port    uint16
	tlsName string // name or address that the certificate must have
	path    string // of the URL, with its query: https only
}

var defaultPorts = map[string]uint16{"udp": 53, "tcp": 53, "tls": 853, "https": 443}

// parseServer reads one of the forms
//
//	192.0.2.1  192.0.2.1:53  2001:db8::1  [2001:db8::1]:53
//	udp://HOST[:PORT]  tcp://HOST[:PORT]
//	tls://HOST[:PORT][#NAME]  https://HOST[:PORT][/PATH][#NAME]
//
// HOST is an address or a name; NAME is what the certificate must be for if
// that is not HOST. The path of DNS over HTTPS is /dns-query if there is none.
func parseServer(s string) (endpoint, error) {
	e, err := readServer(s)
	if err != nil {
		return endpoint{}, fmt.Errorf("DNS server %q: %w", s, err)
	}
	return e, nil
}

func readServer(s string) (endpoint, error) {
	if !strings.Contains(s, "://") {
		return bareServer(s)
	}
	u, err := url.Parse(s)
	if err != nil {
		return endpoint{}, errors.New("not a URL; write udp://ADDRESS:PORT")
	}
	e := endpoint{scheme: u.Scheme}
	port, known := defaultPorts[u.Scheme]
	if !known {
		return endpoint{}, errors.New("the scheme must be udp, tcp, tls or https")
	}
	if u.User != nil {
		return endpoint{}, errors.New("no user or password is possible here")
	}
	if e.port, err = portOr(u.Port(), port); err != nil {
		return endpoint{}, err
	}
	if err := e.setHost(u.Hostname()); err != nil {
		return endpoint{}, err
	}
	secure := u.Scheme == "tls" || u.Scheme == "https"
	if !secure && u.Fragment != "" {
		return endpoint{}, errors.New("a name after # is only for tls and https")
	}
	if u.Scheme != "https" && ((u.Path != "" && u.Path != "/") || u.RawQuery != "") {
		return endpoint{}, errors.New("a path is only for https")
	}
	if secure {
		err = e.setTLSName(u.Fragment)
	}
	if u.Scheme == "https" {
		if u.Path == "" || u.Path == "/" {
			u.Path = "/dns-query"
		}
		e.path = u.RequestURI()
	}
	return e, err
}

func bareServer(s string) (endpoint, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 {
		return endpoint{scheme: "udp", addr: ap.Addr().Unmap(), port: ap.Port()}, zoneError(ap.Addr())
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		return endpoint{}, errors.New("not an address; for a name write udp://NAME:PORT")
	}
	return endpoint{scheme: "udp", addr: addr.Unmap(), port: 53}, zoneError(addr)
}

// zoneError refuses a zone that is not written like an interface.
func zoneError(addr netip.Addr) error {
	for _, c := range []byte(addr.Zone()) {
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
			return fmt.Errorf("the zone %q is not the name of an interface", addr.Zone())
		}
	}
	return nil
}

func portOr(s string, byDefault uint16) (uint16, error) {
	if s == "" {
		return byDefault, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q is not in 1 to 65535", s)
	}
	return uint16(n), nil
}

func (e *endpoint) setHost(host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		e.addr = addr.Unmap()
		return zoneError(addr)
	}
	name, ok := normalName(host)
	if !ok {
		return fmt.Errorf("%q is neither an address nor a host name", host)
	}
	e.host = name
	return nil
}

func (e *endpoint) setTLSName(name string) error {
	switch {
	case name != "":
		n, ok := normalName(name)
		if !ok {
			return fmt.Errorf("%q after # is not a host name", name)
		}
		e.tlsName = n
	case e.host != "":
		e.tlsName = e.host
	default:
		e.tlsName = e.addr.WithZone("").String()
	}
	return nil
}

// String returns a form that parseServer reads as the same endpoint.
func (e endpoint) String() string {
	host := e.host
	if e.addr.IsValid() {
		host = e.addr.String()
	}
	u := url.URL{Scheme: e.scheme, Host: net.JoinHostPort(host, strconv.Itoa(int(e.port)))}
	if zone := e.addr.Zone(); zone != "" {
		u.Host = net.JoinHostPort(e.addr.WithZone("").String()+"%25"+zone, strconv.Itoa(int(e.port)))
	}
	s := u.Scheme + "://" + u.Host + e.path
	if e.tlsName != "" && e.tlsName != e.host && (!e.addr.IsValid() || e.tlsName != e.addr.WithZone("").String()) {
		s += "#" + e.tlsName
	}
	return s
}

// parseResolvConf returns the name servers of a resolv.conf(5), and the local
// one if it has none. Search lists are not for a gateway: they turn a name
// that does not exist into another one.
func parseResolvConf(data []byte) []endpoint {
	var list []endpoint
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 || fields[0] != "nameserver" || len(list) == maxNameservers {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			list = append(list, endpoint{scheme: "udp", addr: addr.Unmap(), port: 53})
		}
	}
	if len(list) == 0 {
		list = []endpoint{{scheme: "udp", addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), port: 53}}
	}
	return list
}
