package dial

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
)

const (
	failureTTL = time.Second      // for how long a failure is kept
	partialTTL = 10 * time.Second // for how long at most an answer is kept that lacks one family
	maxFlights = 512              // names asked for at one time
)

// NoHostsFile as the HostsFile of ResolverOptions means none.
const NoHostsFile = "none"

// ResolverOptions say whom to ask, and for how long to keep the answers. The
// zero value asks the system's servers.
type ResolverOptions struct {
	// Servers are asked in order, the next when one fails or is slow. Forms:
	// 192.0.2.1, 192.0.2.1:53, udp://HOST:53, tcp://HOST:53,
	// tls://HOST:853#NAME and https://HOST/dns-query#NAME, where HOST is an
	// address, or a name that the system's servers know. Empty: those of
	// ResolvConf, read again when it changes.
	Servers    []string
	ResolvConf string // default /etc/resolv.conf

	Hosts     []Host // fixed answers, before all others
	HostsFile string // answers before the servers', read again when it changes; default /etc/hosts if Servers is empty, else none

	Timeout  time.Duration // of one lookup in all; default 5 s
	Attempts int           // how often a server is asked that does not answer; default 2

	MinTTL      time.Duration // an answer is kept at least so long; default 1 s
	MaxTTL      time.Duration // and at most so long; default 5 min
	NegativeTTL time.Duration // the news that a name does not exist is kept at most so long; default 30 s
	CacheSize   int           // names kept; default 100,000

	RootCAs *x509.CertPool // for tls and https; nil: the system's
}

// Answer is what a name resolves to. It may be shared between callers: its
// slices must not be changed.
type Answer struct {
	Addrs     []netip.Addr  // IPv6, then IPv4; at least one
	Aliases   []string      // CNAME chain, without the name that was asked for
	TTL       time.Duration // how long the answer is still good; 0 for a fixed one
	FromCache bool
}

// entry is what is known of a name. It is immutable once it can be found.
type entry struct {
	answer  Answer
	err     *ResolveError
	expires time.Time
}

// Resolver finds the addresses of names. It reads no search list and no proxy
// setting from its environment, and follows only what the answer to its
// question says of the name in question.
type Resolver struct {
	timeout                     time.Duration
	attempts                    int
	minTTL, maxTTL, negativeTTL time.Duration
	familyWait                  time.Duration

	fixed     hostTable
	hostsFile *watched[hostTable] // nil: none
	system    *watched[[]*server] // nil: servers is the list
	servers   []*server
	preferred atomic.Pointer[preferredServer]
	bootstrap *Resolver // finds servers given by name; nil: none is

	now     func() time.Time
	cache   *otter.Cache[string, *entry]
	flights singleflight.Group
	slots   chan struct{}
	base    context.Context
	stop    context.CancelFunc
}

// NewResolver returns a resolver. It asks nobody yet. Its errors are of the
// options; Close must be called in the end.
func NewResolver(o ResolverOptions) (*Resolver, error) {
	return newResolver(o, time.Now)
}

func newResolver(o ResolverOptions, now func() time.Time) (*Resolver, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	r := &Resolver{
		timeout: o.Timeout, attempts: o.Attempts,
		minTTL: o.MinTTL, maxTTL: o.MaxTTL, negativeTTL: o.NegativeTTL, familyWait: familyWait,
		now: now, slots: make(chan struct{}, maxFlights),
	}
	var err error
	if r.fixed, err = fixedHosts(o.Hosts); err != nil {
		return nil, err
	}
	if r.cache, err = otter.New(&otter.Options[string, *entry]{MaximumSize: o.CacheSize}); err != nil {
		return nil, fmt.Errorf("cache of names: %w", err)
	}
	if o.HostsFile != NoHostsFile {
		r.hostsFile = newWatched(o.HostsFile, now(), parseHosts)
	}
	if err := r.setServers(o, now); err != nil {
		return nil, err
	}
	r.base, r.stop = context.WithCancel(context.Background())
	return r, nil
}

func (o *ResolverOptions) setDefaults() error {
	if o.HostsFile == "" {
		o.HostsFile = NoHostsFile
		if len(o.Servers) == 0 {
			o.HostsFile = "/etc/hosts"
		}
	}
	o.ResolvConf = cmp.Or(o.ResolvConf, "/etc/resolv.conf")
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.Attempts = cmp.Or(o.Attempts, 2)
	o.MinTTL = cmp.Or(o.MinTTL, time.Second)
	o.MaxTTL = cmp.Or(o.MaxTTL, 5*time.Minute)
	o.NegativeTTL = cmp.Or(o.NegativeTTL, 30*time.Second)
	o.CacheSize = cmp.Or(o.CacheSize, 100_000)
	switch {
	case o.Timeout < 0 || o.Attempts < 0 || o.MinTTL < 0 || o.NegativeTTL < 0 || o.CacheSize < 0:
		return errors.New("resolver options: no value can be negative")
	case o.MaxTTL < o.MinTTL:
		return fmt.Errorf("resolver options: the highest TTL, %s, is below the lowest, %s", o.MaxTTL, o.MinTTL)
	}
	return nil
}

func (r *Resolver) setServers(o ResolverOptions, now func() time.Time) error {
	if len(o.Servers) == 0 {
		r.system = newWatched(o.ResolvConf, now(), func(data []byte) []*server {
			var list []*server
			for _, e := range parseResolvConf(data) {
				list = append(list, newServer(e, nil, nil))
			}
			return list
		})
		return nil
	}
	lookup := func(ctx context.Context, name string) (Answer, error) { return r.bootstrap.Lookup(ctx, name) }
	for _, s := range o.Servers {
		e, err := parseServer(s)
		if err != nil {
			return err
		}
		if e.host != "" && r.bootstrap == nil {
			b := ResolverOptions{Hosts: o.Hosts, ResolvConf: o.ResolvConf, Timeout: o.Timeout, CacheSize: 64}
			if r.bootstrap, err = newResolver(b, now); err != nil {
				return err
			}
		}
		r.servers = append(r.servers, newServer(e, o.RootCAs, lookup))
	}
	return nil
}

// Close ends the lookups under way and closes idle connections.
func (r *Resolver) Close() {
	r.stop()
	for _, s := range r.servers {
		s.close()
	}
	if r.bootstrap != nil {
		r.bootstrap.Close()
	}
}

// Lookup returns the addresses of name, which is fully qualified with or
// without a trailing dot. Any number of lookups of one name at one time are
// one question to a server; a caller whose ctx ends leaves the others alone.
// It fails with a *ResolveError. A name that is found without a question costs
// no allocation.
func (r *Resolver) Lookup(ctx context.Context, name string) (Answer, error) {
	n, ok := normalName(name)
	if !ok {
		return Answer{}, &ResolveError{Name: name, Code: CodeDNSError, Err: errors.New("not a host name")}
	}
	now := r.now()
	if e, ok := r.known(n, now); ok {
		return e.result(now, true)
	}
	flight := r.flights.DoChan(n, func() (any, error) { return r.resolve(n), nil })
	select {
	case res := <-flight:
		return res.Val.(*entry).result(r.now(), false)
	case <-ctx.Done():
		return Answer{}, &ResolveError{Name: n, Code: CodeDNSTimeout, Err: context.Cause(ctx)}
	}
}

// known finds what needs no question.
func (r *Resolver) known(name string, now time.Time) (*entry, bool) {
	if e, ok := r.fixed[name]; ok {
		return e, true
	}
	if r.hostsFile != nil {
		if e, ok := r.hostsFile.get(now)[name]; ok {
			return e, true
		}
	}
	if e, ok := special(name); ok {
		return e, true
	}
	e, ok := r.cache.GetIfPresent(name)
	return e, ok && now.Before(e.expires)
}

func (e *entry) result(now time.Time, fromCache bool) (Answer, error) {
	if e.err != nil {
		return Answer{}, e.err
	}
	a := e.answer
	if !e.expires.IsZero() {
		a.TTL = max(e.expires.Sub(now), 0)
		a.FromCache = fromCache
	}
	return a, nil
}
