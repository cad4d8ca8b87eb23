package httpproxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/elazarl/goproxy"

	"sluice/policy"
)

const (
	maxPools     = 64               // sets of private ranges with connections at one time
	idleUpstream = 30 * time.Second // an unused connection to a server
)

// upstreams keeps connections to servers for the next request. A connection
// to a private address was made because a rule permits that address; so each
// set of permitted ranges has a pool of its own, and no request gets a
// connection that its own rule would not have let it make.
type upstreams struct {
	o *Options

	mu    sync.Mutex
	pools map[string]*http.Transport
}

func newUpstreams(o *Options) *upstreams {
	return &upstreams{o: o, pools: make(map[string]*http.Transport)}
}

// pool returns the pool for flows of that rule.
func (u *upstreams) pool(rule *policy.Rule) *http.Transport {
	var key string
	if rule != nil && len(rule.Private) > 0 {
		ranges := make([]string, len(rule.Private))
		for i, p := range rule.Private {
			ranges[i] = p.String()
		}
		slices.Sort(ranges)
		key = strings.Join(ranges, " ")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if t, ok := u.pools[key]; ok {
		return t
	}
	for other, t := range u.pools {
		if len(u.pools) < maxPools {
			break
		}
		t.CloseIdleConnections()
		delete(u.pools, other)
	}
	t := u.transport()
	u.pools[key] = t
	return t
}

// reset drops all pools. Connections in use end with their request.
func (u *upstreams) reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range u.pools {
		t.CloseIdleConnections()
	}
	clear(u.pools)
}

// transport makes a pool. It reaches the network only by the gate, and only
// for the flow in the request's context.
func (u *upstreams) transport() *http.Transport {
	var h1 http.Protocols
	h1.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil, // no HTTP_PROXY of the environment: that may be ourselves
		DialContext:            u.dial,
		DisableCompression:     true,
		Protocols:              &h1,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        idleUpstream,
		ResponseHeaderTimeout:  u.o.ResponseTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: int64(u.o.MaxHeader),
	}
}

func (u *upstreams) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, errUndecided
	}
	// A copy: net/http dials on a goroutine of its own, and may still do so
	// when the request got another connection and its flow has ended.
	f := x.admitted
	return u.o.Out.Dial(ctx, &f)
}

var errUndecided = errors.New("a request that was not decided on")

// newProxy sets goproxy up. All its own ways to the network are closed: by
// default it takes proxies from the environment, and lets CONNECT through when
// no handler matches.
func (d *Door) newProxy() http.Handler {
	p := goproxy.NewProxyHttpServer()
	p.Logger = slog.NewLogLogger(d.o.Log.Handler(), slog.LevelDebug)
	p.KeepAcceptEncoding = true
	p.ConnectDial = nil
	p.Tr = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errUndecided }}
	p.NonproxyHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
	})
	p.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return &goproxy.ConnectAction{Action: goproxy.ConnectReject}, host
	})
	p.OnRequest().DoFunc(func(r *http.Request, ctx *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		ctx.RoundTripper = goproxy.RoundTripperFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Response, error) {
			x, ok := r.Context().Value(exchangeKey{}).(*exchange)
			if !ok {
				return nil, errUndecided
			}
			return x.roundTrip(r), nil
		})
		return r, nil
	})
	return p
}
