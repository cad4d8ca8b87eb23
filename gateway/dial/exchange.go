package dial

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// ednsSize is what fits everywhere without fragments: dnsflagday.net/2020.
	ednsSize = 1232
	// maxStrays is how many messages that are no answer to the question are
	// passed over: more of them look like guesses at its id (RFC 5452), and the
	// question is put over TCP, or given up.
	maxStrays = 16
	// maxIdle and idleAge bound the connections kept to one TCP or TLS server.
	maxIdle = 4
	idleAge = 8 * time.Second
	// connectLimit bounds the way to a server even where the question has been
	// given up, as net/http goes on connecting then.
	connectLimit = 5 * time.Second
)

var (
	errTruncated = errors.New("truncated answer")
	errStrays    = errors.New("too many messages that are no answer to the question")
)

// server asks one DNS server.
type server struct {
	endpoint
	lookup func(ctx context.Context, name string) (Answer, error) // for an endpoint given by name
	tls    *tls.Config
	http   *http.Client
	idle   chan idleConn
}

type idleConn struct {
	net.Conn
	since time.Time
}

func newServer(e endpoint, roots *x509.CertPool, lookup func(context.Context, string) (Answer, error)) *server {
	s := &server{endpoint: e, lookup: lookup}
	switch e.scheme {
	case "tcp":
		s.idle = make(chan idleConn, maxIdle)
	case "tls":
		s.idle = make(chan idleConn, maxIdle)
		s.tls = &tls.Config{ServerName: e.tlsName, RootCAs: roots, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(0)}
	case "https":
		s.http = &http.Client{
			Transport: &http.Transport{
				Proxy:               nil, // never the environment's: that may be this gateway
				DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx, "tcp") },
				TLSClientConfig:     &tls.Config{ServerName: e.tlsName, RootCAs: roots, MinVersion: tls.VersionTLS12},
				ForceAttemptHTTP2:   true,
				DisableCompression:  true,
				MaxIdleConns:        maxIdle,
				IdleConnTimeout:     30 * time.Second,
				TLSHandshakeTimeout: connectLimit,
				HTTP2:               &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 2 * time.Second}, // finds a dead one
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return s
}

// close closes what is idle.
func (s *server) close() {
	if s.http != nil {
		s.http.CloseIdleConnections()
	}
	for {
		select {
		case c := <-s.idle:
			c.Close()
		default:
			return
		}
	}
}

// exchange puts one question and returns the answer, whatever its rcode. The
// answer is to that very question.
func (s *server) exchange(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	m, err := s.roundTrip(ctx, question(name, qtype, true))
	if err == nil && m.IsEdns0() == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		return s.roundTrip(ctx, question(name, qtype, false)) // RFC 6891 section 7
	}
	return m, err
}

// question asks for the name as it stands, fully qualified, under a random id.
func question(name string, qtype uint16, edns bool) *dns.Msg {
	q := new(dns.Msg).SetQuestion(name+".", qtype)
	if edns {
		q.SetEdns0(ednsSize, false)
	}
	return q
}

func (s *server) roundTrip(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	switch s.scheme {
	case "tcp", "tls":
		return s.pooled(ctx, q)
	case "https":
		return s.post(ctx, q)
	}
	m, err := s.datagram(ctx, q)
	if errors.Is(err, errTruncated) || errors.Is(err, errStrays) {
		c, err := s.dial(ctx, "tcp")
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return stream(ctx, c, q)
	}
	return m, err
}

// answers reports whether m is an answer to q. A server that could not read
// the question may leave it out, but only if it brings nothing else.
func answers(m, q *dns.Msg) bool {
	if m.Id != q.Id || !m.Response || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		return len(m.Answer) == 0 && m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	}
	got, want := m.Question[0], q.Question[0]
	return len(m.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}

// datagram asks over UDP. The socket is new, so its port is random, and it is
// connected, so the kernel drops what other addresses send.
func (s *server) datagram(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	query, err := q.Pack()
	if err != nil {
		return nil, err
	}
	c, err := s.dial(ctx, "udp")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer untilDone(ctx, c)()
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for range maxStrays {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		err = m.Unpack(buf[:n])
		if m.Id == q.Id && m.Response && m.Truncated {
			return nil, errTruncated // whatever is left of it
		}
		if err == nil && answers(m, q) {
			return m, nil
		}
	}
	return nil, errStrays
}

// pooled asks over a kept connection, or else a new one.
func (s *server) pooled(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	for {
		c, kept, err := s.connect(ctx)
		if err != nil {
			return nil, err
		}
		m, err := stream(ctx, c, q)
		if err == nil {
			s.keep(c)
			return m, nil
		}
		c.Close()
		if !kept || ctx.Err() != nil {
			return nil, err
		}
		// The server may close a kept connection at any time (RFC 7766
		// section 6.2.4): try the next one.
	}
}

func (s *server) connect(ctx context.Context) (c net.Conn, kept bool, err error) {
	for {
		select {
		case c := <-s.idle:
			if time.Since(c.since) < idleAge {
				return c.Conn, true, nil
			}
			c.Close()
			continue
		default:
		}
		break
	}
	c, err = s.dial(ctx, "tcp")
	if err != nil || s.tls == nil {
		return c, false, err
	}
	t := tls.Client(c, s.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, false, err
	}
	return t, false, nil
}

func (s *server) keep(c net.Conn) {
	select {
	case s.idle <- idleConn{c, time.Now()}:
	default:
		c.Close()
	}
}

// stream asks over a connection with messages after their length, RFC 7766.
// After an error the connection is of no use.
func stream(ctx context.Context, c net.Conn, q *dns.Msg) (_ *dns.Msg, err error) {
	query, err := q.Pack()
	if err != nil {
		return nil, err
	}
	release := untilDone(ctx, c)
	defer func() {
		if !release() && err == nil {
			err = context.Cause(ctx)
		}
	}()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	for range maxStrays {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return nil, err
		}
		buf := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf); err != nil {
			return nil, fmt.Errorf("malformed answer: %w", err)
		}
		if answers(m, q) {
			return m, nil
		}
	}
	return nil, errStrays
}

// post asks over HTTPS, RFC 8484. The id is 0 there, as TLS does its work.
func (s *server) post(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	q.Id = 0
	query, err := q.Pack()
	if err != nil {
		return nil, err
	}
	host := net.JoinHostPort(s.tlsName, fmt.Sprint(s.port))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+s.path, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	const mime = "application/dns-message"
	req.Header.Set("Content-Type", mime)
	req.Header.Set("Accept", mime)
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != mime {
		return nil, fmt.Errorf("DNS over HTTPS: status %d with content type %q", resp.StatusCode, got)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize))
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if err := m.Unpack(body); err != nil {
		return nil, fmt.Errorf("malformed answer: %w", err)
	}
	if !answers(m, q) {
		return nil, errStrays
	}
	return m, nil
}

// dial connects to the server.
func (s *server) dial(ctx context.Context, network string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	addrs := []netip.Addr{s.addr}
	if !s.addr.IsValid() {
		a, err := s.lookup(ctx, s.host)
		if err != nil {
			return nil, fmt.Errorf("DNS server %s: %w", s.endpoint, err)
		}
		addrs = a.Addrs
	}
	c, _, _, err := race(ctx, order(addrs, s.port), defaultAttemptDelay, func(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
		d := net.Dialer{Resolver: noResolver}
		d.SetMultipathTCP(false)
		return d.DialContext(ctx, network, ap.String())
	})
	return c, err
}

// untilDone makes c fail when ctx ends. The function it returns undoes that,
// and reports false if it was too late.
func untilDone(ctx context.Context, c net.Conn) (release func() bool) {
	return context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
}
