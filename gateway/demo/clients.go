package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/coder/websocket"
)

// maxBody bounds what a client reads of an answer.
const maxBody = 64 << 10

// dialTo returns a dial function that goes to one address, whatever is asked.
func dialTo(addr string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
}

// get fetches a URL by a transport of its own, and leaves no connection open.
func (w *world) get(ctx context.Context, tr *http.Transport, target string) (seen, error) {
	tr.TLSClientConfig = &tls.Config{RootCAs: w.ca.pool}
	tr.ForceAttemptHTTP2 = true
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return seen{}, err
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return seen{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	return seen{line: fmt.Sprintf("%s %s: %s", res.Proto, res.Status, firstLine(body)), body: string(body)}, err
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

// byProxy is a transport that uses the gateway as an HTTP proxy.
func (w *world) byProxy() *http.Transport {
	return &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: w.proxy})}
}

func (w *world) getByConnect(ctx context.Context, name string) (seen, error) {
	return w.get(ctx, w.byProxy(), "https://"+net.JoinHostPort(name, w.https.port)+"/")
}

func (w *world) getAbsolute(ctx context.Context) (seen, error) {
	return w.get(ctx, w.byProxy(), "http://"+net.JoinHostPort(nameSquare, w.http.port)+"/")
}

func (w *world) getByRouter(ctx context.Context, name string) (seen, error) {
	return w.get(ctx, &http.Transport{DialContext: dialTo(w.router)}, "https://"+net.JoinHostPort(name, w.https.port)+"/")
}

func (w *world) getBySOCKS(ctx context.Context) (seen, error) {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		c, reply, err := w.socks(ctx, host, port)
		if err == nil && reply != 0 {
			c.Close()
			err = fmt.Errorf("SOCKS5 reply 0x%02x", reply)
		}
		return c, err
	}}
	return w.get(ctx, tr, "https://"+net.JoinHostPort(nameNexthink, w.https.port)+"/")
}

func (w *world) deniedBySOCKS(ctx context.Context) (seen, error) {
	c, reply, err := w.socks(ctx, nameUnnamed, w.https.port)
	if err != nil {
		return seen{}, err
	}
	c.Close()
	words := map[byte]string{0: "succeeded", 2: "connection not allowed by ruleset"}
	return seen{line: fmt.Sprintf("SOCKS5 reply 0x%02x (%s)", reply, words[reply])}, nil
}

// socks asks for a connection by name (RFC 1928), and returns the reply.
func (w *world) socks(ctx context.Context, host, port string) (net.Conn, byte, error) {
	c, err := dialTo(w.proxy)(ctx, "", "")
	if err != nil {
		return nil, 0, err
	}
	n, _ := strconv.ParseUint(port, 10, 16)
	request := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
	request = binary.BigEndian.AppendUint16(request, uint16(n))
	defer closeWith(ctx, c)()
	if _, err := c.Write(request); err != nil {
		c.Close()
		return nil, 0, err
	}
	answer := make([]byte, 2+10) // the method, and a reply with an IPv4 address
	if _, err := io.ReadFull(c, answer); err != nil {
		c.Close()
		return nil, 0, fmt.Errorf("read SOCKS5 reply: %w", err)
	}
	return c, answer[3], nil
}

// closeWith closes c when ctx ends before stop is called.
func closeWith(ctx context.Context, c net.Conn) (stop func()) {
	end := context.AfterFunc(ctx, func() { c.Close() })
	return func() { end() }
}

// connect sends a CONNECT request and returns the answer. What follows its
// head can be read from the connection.
func (w *world) connect(ctx context.Context, hostport string) (*tunnelConn, *http.Response, error) {
	c, err := dialTo(w.proxy)(ctx, "", "")
	if err != nil {
		return nil, nil, err
	}
	stop := closeWith(ctx, c)
	t := &tunnelConn{Conn: c, r: bufio.NewReader(c), stop: stop}
	fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", hostport)
	res, err := http.ReadResponse(t.r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Close()
		return nil, nil, fmt.Errorf("read answer to CONNECT: %w", err)
	}
	return t, res, nil
}

// tunnelConn is a connection with bytes that were read already.
type tunnelConn struct {
	net.Conn
	r    *bufio.Reader
	stop func()
}

func (t *tunnelConn) Read(p []byte) (int, error) { return t.r.Read(p) }

func (t *tunnelConn) Close() error {
	t.stop()
	return t.Conn.Close()
}

// connectOnly sends a CONNECT request that is to be refused.
func (w *world) connectOnly(ctx context.Context, host string) (seen, error) {
	c, res, err := w.connect(ctx, net.JoinHostPort(host, w.https.port))
	if err != nil {
		return seen{}, err
	}
	defer c.Close()
	if res.StatusCode == http.StatusOK {
		return seen{line: res.Status}, nil
	}
	body, err := io.ReadAll(io.LimitReader(c, maxBody)) // the gateway closes behind a refusal
	s := seen{line: res.Proto + " " + res.Status, body: string(body)}
	if v := res.Header.Get("Proxy-Status"); v != "" {
		s.line += "; Proxy-Status: " + v
	}
	return s, err
}

// otherNameInside asks for an allowed tunnel, and for another name inside it.
func (w *world) otherNameInside(ctx context.Context) (seen, error) {
	c, res, err := w.connect(ctx, net.JoinHostPort(nameTokbox, w.https.port))
	if err != nil {
		return seen{}, err
	}
	defer c.Close()
	line := "CONNECT answered " + res.Status + "; then TLS:"
	tc := tls.Client(c, &tls.Config{ServerName: nameOther, RootCAs: w.ca.pool})
	if err := tc.HandshakeContext(ctx); err != nil {
		return seen{line: line}, err
	}
	return seen{line: line + " connected"}, nil
}

func (w *world) awaitGreeting(ctx context.Context) (seen, error) {
	c, res, err := w.connect(ctx, net.JoinHostPort(nameMail, w.mail.port))
	if err != nil {
		return seen{}, err
	}
	defer c.Close()
	if res.StatusCode != http.StatusOK {
		return seen{line: res.Status}, nil
	}
	greeting, err := c.r.ReadString('\n')
	if err != nil {
		return seen{}, err
	}
	_, err = io.WriteString(c, "QUIT\r\n")
	return seen{line: "server said " + strconv.Quote(strings.TrimSpace(greeting))}, err
}

func (w *world) echoWebSocket(ctx context.Context) (seen, error) {
	tr := w.byProxy()
	tr.TLSClientConfig = &tls.Config{RootCAs: w.ca.pool}
	defer tr.CloseIdleConnections()
	c, res, err := websocket.Dial(ctx, "wss://"+net.JoinHostPort(nameOpentok, w.https.port)+"/ws",
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		return seen{}, err
	}
	defer c.CloseNow() //nolint:errcheck // it is closed below, or broken
	if err := c.Write(ctx, websocket.MessageText, []byte("ping")); err != nil {
		return seen{}, err
	}
	_, data, err := c.Read(ctx)
	if err != nil {
		return seen{}, err
	}
	line := fmt.Sprintf("%s; the server echoed %q", res.Status, bytes.TrimSpace(data))
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil && !errors.Is(err, io.EOF) {
		return seen{line: line}, err
	}
	return seen{line: line}, nil
}
