package dial

import (
	"fmt"
	"net/netip"
)

// The error types of RFC 9209 section 2.3 that this package speaks. A name
// that does not exist is CodeDNSError with the rcode NXDOMAIN:
// destination_not_found is about routing inside the proxy, not about DNS.
const (
	CodeDNSTimeout    = "dns_timeout"
	CodeDNSError      = "dns_error"
	CodeProhibited    = "destination_ip_prohibited"
	CodeUnroutable    = "destination_ip_unroutable"
	CodeUnavailable   = "destination_unavailable"
	CodeRefused       = "connection_refused"
	CodeTimeout       = "connection_timeout"
	CodeTerminated    = "connection_terminated"
	CodeInternal      = "proxy_internal_error"
	CodeConfiguration = "proxy_configuration_error"
)

// ResolveError says why a name has no addresses. It may be shared between
// callers and must not be changed.
type ResolveError struct {
	Name  string
	Code  string // CodeDNSTimeout or CodeDNSError
	Rcode string // the server's answer, such as "NXDOMAIN" or "SERVFAIL"; "NOERROR" if the name has no address; "" if no server answered
	Err   error  // nil if a server answered
}

func (e *ResolveError) Error() string {
	switch {
	case e.Rcode == "NOERROR":
		return fmt.Sprintf("resolve %q: the name has no A or AAAA record", e.Name)
	case e.Rcode != "":
		return fmt.Sprintf("resolve %q: the DNS server answered %s", e.Name, e.Rcode)
	}
	return fmt.Sprintf("resolve %q: %v", e.Name, e.Err)
}

func (e *ResolveError) Unwrap() error { return e.Err }

// ForbiddenError says that the guard refuses an address. Its RFC 9209 error
// type is CodeProhibited.
type ForbiddenError struct {
	Addr  netip.AddrPort // unmapped
	Class Class
}

func (e *ForbiddenError) Error() string {
	switch {
	case e.Class == Self:
		return fmt.Sprintf("address %s is a listener of this gateway", e.Addr)
	case e.Class == Metadata:
		return fmt.Sprintf("address %s is forbidden (metadata): only a permit of exactly %s lifts this", e.Addr, host(e.Addr.Addr()))
	case !e.Class.liftable():
		return fmt.Sprintf("address %s is forbidden (%s)", e.Addr, e.Class)
	}
	return fmt.Sprintf("address %s is forbidden (%s): permit %s if the rule may reach it", e.Addr, e.Class, host(e.Addr.Addr()))
}

// host returns the prefix that holds a alone.
func host(a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a.WithZone(""), a.BitLen())
}

// DialError says why no connection came about.
type DialError struct {
	Code  string         // RFC 9209 error type
	Addr  netip.AddrPort // the address that the error is from; zero if none was tried
	Tried int            // addresses tried
	Err   error
}

func (e *DialError) Error() string {
	switch e.Tried {
	case 0:
		return fmt.Sprintf("connect: %v", e.Err)
	case 1:
		return fmt.Sprintf("connect to %s: %v", e.Addr, e.Err)
	}
	return fmt.Sprintf("connect to %s, the most telling of %d addresses tried: %v", e.Addr, e.Tried, e.Err)
}

func (e *DialError) Unwrap() error { return e.Err }
