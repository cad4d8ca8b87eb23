package listen

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
)

// shardCount spreads the book-keeping, so that connections seldom wait for
// each other's.
const shardCount = 64

// shard keeps the connections of some of the clients.
type shard struct {
	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	clients map[netip.Prefix]int // connections of each; only while there are any
}

var seed = maphash.MakeSeed()

// SetLimits changes how many connections may be open at a time, and how many
// of one client. Those that are open stay. Zero or less is no bound.
func (l *Listener) SetLimits(conns, perClient int) {
	l.maxConns.Store(int64(conns))
	l.maxPerClient.Store(int64(perClient))
}

// client is what connections are counted by: an IPv4 address, or the /64 that
// an IPv6 host can take any address of (RFC 4291 section 2.5.1). Clients on a
// Unix socket are all one.
func client(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

func (l *Listener) shardOf(a net.Addr) (*shard, netip.Prefix) {
	key := client(a)
	return &l.shards[maphash.Comparable(seed, key)%shardCount], key
}

// admit counts c in, or says which limit is against it.
func (l *Listener) admit(s *shard, key netip.Prefix, c net.Conn) Limit {
	if most := l.maxConns.Load(); l.open.Add(1) > most && most > 0 {
		l.open.Add(-1)
		return LimitConns
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := l.maxPerClient.Load(); most > 0 && key.IsValid() && int64(s.clients[key]) >= most {
		l.open.Add(-1)
		return LimitPerClient
	}
	if s.conns == nil {
		s.conns, s.clients = map[net.Conn]struct{}{}, map[netip.Prefix]int{}
	}
	s.conns[c] = struct{}{}
	s.clients[key]++ // always: a limit may be set while connections are open
	return ""
}

// forget counts c out.
func (l *Listener) forget(s *shard, key netip.Prefix, c net.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	if s.clients[key]--; s.clients[key] <= 0 {
		delete(s.clients, key)
	}
	s.mu.Unlock()
	l.open.Add(-1)
}

// closeAll closes every connection that is being handled, and says how many.
func (l *Listener) closeAll() int {
	n := 0
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
			n++
		}
		s.mu.Unlock()
	}
	return n
}
