package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// maxAttempts is how many addresses are tried for one connection.
const maxAttempts = 8

// order makes the families take turns, IPv6 first (RFC 8305 section 4), and
// keeps the first addresses.
func order(addrs []netip.Addr, port uint16) []netip.AddrPort {
	if len(addrs) == 1 {
		return []netip.AddrPort{netip.AddrPortFrom(addrs[0].Unmap(), port)}
	}
	var by [2][]netip.Addr // IPv6, IPv4
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			by[1] = append(by[1], a)
		} else {
			by[0] = append(by[0], a)
		}
	}
	list := make([]netip.AddrPort, 0, maxAttempts)
	for i := 0; len(list) < maxAttempts && (i < len(by[0]) || i < len(by[1])); i++ {
		for _, family := range by {
			if i < len(family) && len(list) < maxAttempts {
				list = append(list, netip.AddrPortFrom(family[i], port))
			}
		}
	}
	return list
}

type attempt struct {
	conn net.Conn
	ap   netip.AddrPort
	err  error
}

// race connects to the first of list that can be reached, and returns it with
// the number of those it tried. When it returns every attempt has ended, and
// the connections of the losers are closed. Its error is the most telling one.
func race(ctx context.Context, list []netip.AddrPort, delay time.Duration,
	connect func(context.Context, netip.AddrPort) (net.Conn, error)) (c net.Conn, ap netip.AddrPort, tried int, err error) {
	switch len(list) {
	case 0:
		return nil, netip.AddrPort{}, 0, errors.New("no address")
	case 1:
		c, err = connect(ctx, list[0])
		return c, list[0], 1, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan attempt, len(list))
	start := func(ap netip.AddrPort) {
		go func() {
			c, err := connect(ctx, ap)
			ended <- attempt{c, ap, err}
		}()
	}

	start(list[0])
	running, worst := 1, attempt{}
	next := time.NewTimer(delay)
	defer next.Stop()
	for tried = 1; running > 0 || tried < len(list); {
		select {
		case a := <-ended:
			running--
			if a.err == nil {
				cancel()
				closeLosers(ended, running)
				return a.conn, a.ap, tried, nil
			}
			if worst.err == nil || telling(a.err) > telling(worst.err) {
				worst = a
			}
			next.Reset(0)
		case <-next.C:
			if ctx.Err() != nil {
				list = list[:tried]
			}
			if tried < len(list) {
				start(list[tried])
				running++
				tried++
				next.Reset(delay)
			}
		}
	}
	return nil, worst.ap, tried, worst.err
}

func closeLosers(ended <-chan attempt, running int) {
	for range running {
		if a := <-ended; a.err == nil {
			a.conn.Close()
		}
	}
}
