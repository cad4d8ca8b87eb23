package admin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/policy"
)

// Question is what `explain` asks, as text. Only Host is needed.
type Question struct{ Host, Port, From, Proto, App, User string }

// ParseQuestion reads a Question. A port may stand behind the host, as in
// a.example:443; without one it is 443.
func ParseQuestion(qn Question, now time.Time) (policy.Query, error) {
	q := policy.Query{Host: qn.Host, Port: 443, Proto: policy.TCP, Time: now}
	if qn.Host == "" {
		return q, errors.New("say which host, such as a.example or a.example:443")
	}
	if u, err := url.Parse(qn.Host); err == nil && u.Scheme != "" && u.Host != "" {
		return q, fmt.Errorf("%q is a URL; ask for its host, %s", qn.Host, u.Host)
	}
	if h, p, err := net.SplitHostPort(qn.Host); err == nil {
		q.Host = h
		if qn.Port == "" {
			qn.Port = p
		}
	}
	if qn.Port != "" {
		n, err := strconv.ParseUint(qn.Port, 10, 16)
		if err != nil || n == 0 {
			return q, fmt.Errorf("port %q is not a number from 1 to 65535", qn.Port)
		}
		q.Port = uint16(n)
	}
	if qn.From != "" {
		a, err := netip.ParseAddr(qn.From)
		if err != nil {
			return q, fmt.Errorf("client %q is not an IP address", qn.From)
		}
		q.Source = a.Unmap()
	}
	switch strings.ToLower(qn.Proto) {
	case "", "tcp":
	case "udp":
		q.Proto = policy.UDP
	default:
		return q, fmt.Errorf("protocol %q is neither tcp nor udp", qn.Proto)
	}
	seen, ok := map[string]policy.Seen{
		"": policy.SeenNothing, "tls": policy.SeenTLS, "https": policy.SeenTLS, "wss": policy.SeenTLS,
		"tls-no-name": policy.SeenTLSNoName, "http": policy.SeenHTTP, "stun": policy.SeenSTUN, "turn": policy.SeenSTUN,
		"opaque": policy.SeenOpaque, "silent": policy.SeenSilent, "smtp": policy.SeenSilent,
	}[strings.ToLower(qn.App)]
	if !ok {
		return q, fmt.Errorf("app %q is not one of tls, tls-no-name, http, stun, opaque, silent", qn.App)
	}
	q.Seen = seen
	if qn.User != "" {
		q.Identity = &policy.Identity{User: qn.User}
	}
	return q, nil
}
