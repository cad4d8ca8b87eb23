package dial

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// localAddrsAge is for how long a list of the interfaces' addresses is good.
const localAddrsAge = time.Second

// isSelf reports whether a connection to ap, unmapped and without a zone,
// would end at one of the gateway's own listeners.
func (g *Guard) isSelf(ap netip.AddrPort) bool {
	for _, l := range g.self() {
		if l.Port() != ap.Port() {
			continue
		}
		addr := l.Addr().Unmap().WithZone("")
		// Linux takes a connection to 0.0.0.0 or :: for one to itself, and a
		// listener on :: commonly takes IPv4 too.
		if addr == ap.Addr() || ap.Addr().IsUnspecified() {
			return true
		}
		if addr.IsUnspecified() && (ap.Addr().IsLoopback() || g.local.contains(ap.Addr())) {
			return true
		}
	}
	return false
}

// localAddrs are the addresses of this host's interfaces, read again when they
// are asked for and older than localAddrsAge. The zero value is ready.
type localAddrs struct {
	mu    sync.Mutex
	read  time.Time
	addrs map[netip.Addr]bool
}

func (l *localAddrs) contains(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.addrs == nil || now.Sub(l.read) > localAddrsAge {
		l.refresh(now)
	}
	return l.addrs[a]
}

// refresh keeps the old list if the kernel does not tell.
func (l *localAddrs) refresh(now time.Time) {
	l.read = now
	list, err := net.InterfaceAddrs()
	if err != nil {
		return
	}
	addrs := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if addr, ok := netip.AddrFromSlice(n.IP); ok {
			addrs[addr.Unmap()] = true
		}
	}
	l.addrs = addrs
}
