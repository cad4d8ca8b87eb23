package dial

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	// familyWait is for how long the addresses of one family wait for the
	// other's. RFC 8305 section 3 waits 50 ms, and only for IPv6; the answer
	// here serves many flows, so it is worth some more to have it whole.
	familyWait = 300 * time.Millisecond
	// patience is the longest head start of a server over the next.
	patience = time.Second
	// preferFor is for how long a server that helped out is asked first.
	preferFor = 30 * time.Second
)

// resolve asks for name, and keeps what comes of it.
func (r *Resolver) resolve(name string) *entry {
	// A flight may have landed between the caller's look and this one.
	if e, ok := r.known(name, r.now()); ok {
		return e
	}
	ctx, cancel := context.WithTimeout(r.base, r.timeout)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return &entry{err: resolveError(name, context.Cause(ctx))}
	}
	v6, v4 := r.bothFamilies(ctx, name)
	if r.base.Err() != nil {
		return &entry{err: resolveError(name, errors.New("the resolver is closed"))}
	}
	e := r.merge(name, v6, v4)
	r.cache.Set(name, e)
	return e
}

// errNotYet stands for the answer that the other family did not wait for.
var errNotYet = errors.New("no answer yet")

// bothFamilies asks for AAAA and A at once. Addresses of one family wait only
// so long for the other: there are servers that never answer for AAAA.
func (r *Resolver) bothFamilies(ctx context.Context, name string) (v6, v4 half) {
	ask := func(qtype uint16) <-chan half {
		c := make(chan half, 1)
		go func() { c <- r.ask(ctx, name, qtype) }()
		return c
	}
	c6, c4 := ask(dns.TypeAAAA), ask(dns.TypeA)
	v6.err, v4.err = errNotYet, errNotYet
	var enough <-chan time.Time
	for range 2 {
		select {
		case v6 = <-c6:
		case v4 = <-c4:
		case <-enough:
			return v6, v4
		}
		if len(v6.addrs)+len(v4.addrs) > 0 && enough == nil {
			t := time.NewTimer(r.familyWait)
			defer t.Stop()
			enough = t.C
		}
	}
	return v6, v4
}

// merge makes one entry of the two answers. Either family's addresses will do;
// without any, a name error counts most, then a failure, since the name may
// have addresses that were not heard of.
func (r *Resolver) merge(name string, v6, v4 half) *entry {
	e := &entry{}
	ttl := time.Duration(math.MaxInt64)
	for _, h := range []half{v6, v4} {
		if len(h.addrs) == 0 {
			continue
		}
		ttl = min(ttl, h.ttl)
		e.answer.Addrs = append(e.answer.Addrs, h.addrs...)
		e.answer.Aliases = h.aliases // IPv4's if both
	}
	if len(e.answer.Addrs) > 0 {
		if v6.err != nil || v4.err != nil {
			ttl = min(ttl, partialTTL)
		}
		e.answer.Addrs = slices.Clip(e.answer.Addrs)
		e.expires = r.now().Add(min(max(ttl, r.minTTL), r.maxTTL))
		return e
	}
	for _, h := range []half{v4, v6} {
		if h.err == nil && h.rcode == dns.RcodeNameError {
			return r.negative(name, h.rcode, h.ttl)
		}
	}
	for _, h := range []half{v4, v6} {
		if h.err != nil {
			e.err, e.expires = resolveError(name, h.err), r.now().Add(failureTTL)
			return e
		}
	}
	return r.negative(name, dns.RcodeSuccess, min(v4.ttl, v6.ttl))
}

func (r *Resolver) negative(name string, rcode int, ttl time.Duration) *entry {
	return &entry{
		err:     &ResolveError{Name: name, Code: CodeDNSError, Rcode: dns.RcodeToString[rcode]},
		expires: r.now().Add(max(min(ttl, r.negativeTTL), failureTTL)),
	}
}

// rcodeError is a server's answer that is neither success nor name error.
type rcodeError int

func (e rcodeError) Error() string { return "the DNS server answered " + e.name() }

func (e rcodeError) name() string {
	if s, ok := dns.RcodeToString[int(e)]; ok {
		return s
	}
	return "an unknown rcode"
}

func resolveError(name string, err error) *ResolveError {
	e := &ResolveError{Name: name, Code: CodeDNSError, Err: err}
	var rcode rcodeError
	var timeout net.Error
	switch {
	case errors.As(err, &rcode):
		e.Rcode, e.Err = rcode.name(), nil
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		e.Code, e.Err = CodeDNSTimeout, fmt.Errorf("no DNS server answered in time: %w", err)
	}
	return e
}

// preferredServer is asked first until a time: it answered when the first of
// the list did not.
type preferredServer struct {
	index int
	until time.Time
}

// list returns the servers in the order to ask them now.
func (r *Resolver) list() []*server {
	servers := r.servers
	if r.system != nil {
		servers = r.system.get(r.now())
	}
	p := r.preferred.Load()
	if p == nil || p.index >= len(servers) || !r.now().Before(p.until) {
		return servers
	}
	return slices.Concat(servers[p.index:], servers[:p.index])
}

// prefer notes that s answered, and whether it was first in line.
func (r *Resolver) prefer(s *server, first bool) {
	if first {
		return
	}
	servers := r.servers
	if r.system != nil {
		servers = r.system.get(r.now())
	}
	switch i := slices.Index(servers, s); {
	case i > 0:
		r.preferred.Store(&preferredServer{i, r.now().Add(preferFor)})
	case i == 0:
		r.preferred.Store(nil)
	}
}

type reply struct {
	msg    *dns.Msg
	err    error
	server *server
}

// ask puts one question to the servers in turn until one knows: the next is
// asked when the one before failed, or has not answered for a while; then the
// first that answers counts. A server that answered, though of no use, is not
// asked again.
func (r *Resolver) ask(ctx context.Context, name string, qtype uint16) half {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	servers := r.list()
	queue := slices.Repeat(servers, r.attempts)
	wait := min(r.timeout/time.Duration(len(queue)), patience)
	replies := make(chan reply, len(queue))
	useless := map[*server]bool{}
	next := time.NewTimer(0)
	defer next.Stop()
	var worst error
	for running := 0; running > 0 || len(queue) > 0; {
		select {
		case <-next.C:
			if len(queue) == 0 {
				continue
			}
			next.Reset(wait)
			s := queue[0]
			queue = queue[1:]
			running++
			go func() {
				m, err := s.exchange(ctx, name, qtype)
				replies <- reply{m, err, s}
			}()
		case got := <-replies:
			running--
			if got.err == nil && (got.msg.Rcode == dns.RcodeSuccess || got.msg.Rcode == dns.RcodeNameError) {
				r.prefer(got.server, got.server == servers[0])
				return readAnswer(got.msg, name, qtype)
			}
			if got.err == nil {
				got.err = rcodeError(got.msg.Rcode)
				useless[got.server] = true
			}
			worst = moreTelling(worst, got.err)
			next.Reset(0)
		case <-ctx.Done():
			return half{err: moreTelling(worst, context.Cause(ctx))}
		}
		for len(queue) > 0 && useless[queue[0]] {
			queue = queue[1:]
		}
	}
	return half{err: worst}
}

// moreTelling prefers what a server said over a broken connection, and that
// over silence.
func moreTelling(a, b error) error {
	rank := func(err error) int {
		switch e := resolveError("", err); {
		case err == nil:
			return 0
		case e.Rcode != "":
			return 3
		case e.Code == CodeDNSTimeout:
			return 1
		}
		return 2
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}
