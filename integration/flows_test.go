package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/proxy"

	"sluice/integration/testbed"
)

// through returns an HTTP client that uses the explicit proxy.
func (w *world) through(t *testing.T) *http.Client {
	t.Helper()
	u, err := url.Parse(w.proxy)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: &tls.Config{RootCAs: w.up.CA.Pool()}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// connect opens a tunnel through the explicit proxy, or returns the answer.
func (w *world) connect(t testing.TB, target string) (net.Conn, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		c.Close()
		t.Fatalf("CONNECT %s: %v", target, err)
	}
	c.SetDeadline(time.Time{})
	if res.StatusCode == http.StatusOK {
		return &tunnelConn{c.(*net.TCPConn), br}, res
	}
	return c, res
}

// tunnelConn gives out what came behind the answer to CONNECT first.
type tunnelConn struct {
	*net.TCPConn
	br *bufio.Reader
}

func (c *tunnelConn) Read(p []byte) (int, error) { return c.br.Read(p) }

// A tunnel that is silent for longer than any time-out of the handshake stays
// up.
func TestSilentWebSocketStaysUp(t *testing.T) {
	w := newWorld(t, "limits: {handshake_timeout: 500ms, connect_timeout: 1s}\n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, target := range []string{"wss://ws.tokbox.com/ws", "ws://ws.tokbox.com/ws"} {
		ws, _, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPClient: w.through(t)})
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		defer ws.CloseNow()
		echo := func(text string) {
			if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
				t.Fatalf("%s: %s: %v", target, text, err)
			}
			if _, got, err := ws.Read(ctx); err != nil || string(got) != text {
				t.Fatalf("%s: echo of %s: %q, %v", target, text, got, err)
			}
		}
		echo("first")
		silence := time.NewTimer(2 * time.Second)
		<-silence.C
		echo("after a silence of four handshake time-outs")
		ws.Close(websocket.StatusNormalClosure, "")
	}
	for _, door := range []string{"connect", "http"} {
		if r := w.Await("event", "end", "door", door, "host", "ws.tokbox.com"); r.Str("bytes_in") == "0" || r.Str("bytes_out") == "0" {
			t.Errorf("end of the %s flow without bytes: %v", door, r)
		}
	}
}

// The client ends its sending half; the answer still comes.
func TestHalfClosedUpload(t *testing.T) {
	w := newWorld(t, `    - {name: raw, to: {hosts: ["*.supportsquare.io"], ports: ["1-65535"], app: opaque}}`+"\n")
	l, err := net.Listen("tcp", testbed.IP+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c) // to the end of the client's half
		fmt.Fprintf(c, "got %d", n)
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c, res := w.connect(t, "passerelle.supportsquare.io:"+port)
	defer c.Close()
	if res.StatusCode != 200 {
		t.Fatalf("CONNECT: %s", res.Status)
	}
	const size = 3 << 20
	if _, err := io.CopyN(c, zeroReader{}, size); err != nil {
		t.Fatal(err)
	}
	c.(*tunnelConn).CloseWrite()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	got, err := io.ReadAll(c)
	if want := fmt.Sprintf("got %d", size); string(got) != want || err != nil {
		t.Errorf("answer after the half-close: %q, %v; want %q", got, err, want)
	}
	r := w.Await("event", "end", "host", "passerelle.supportsquare.io")
	if r.Str("client_end") != "eof" || r.Str("server_end") != "eof" {
		t.Errorf("ends: %v", r)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A protocol in which the server speaks first is not held up by the look at
// the client's first bytes.
func TestServerSpeaksFirst(t *testing.T) {
	w := newWorld(t, `    - {name: mail, to: {hosts: ["skinapi.soti.net"], ports: ["1-65535"], app: smtp}}`+"\n")
	port := testbed.ServerFirst(t) // free: the rule takes every port
	c, res := w.connect(t, "skinapi.soti.net:"+port)
	defer c.Close()
	if res.StatusCode != 200 {
		t.Fatalf("CONNECT: %s", res.Status)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	br := bufio.NewReader(c)
	if line, err := br.ReadString('\n'); !strings.HasPrefix(line, "220 ") {
		t.Fatalf("greeting: %q, %v", line, err)
	}
	io.WriteString(c, "QUIT\r\n")
	if line, err := br.ReadString('\n'); !strings.HasPrefix(line, "221 ") {
		t.Fatalf("farewell: %q, %v", line, err)
	}
}

// What is not TLS does not pass on 443, and neither does TLS without a name.
func TestOnly443WithName(t *testing.T) {
	w := newWorld(t, "")
	c, res := w.connect(t, "hlg.tokbox.com:443")
	if res.StatusCode != 200 {
		t.Fatalf("CONNECT: %s", res.Status)
	}
	io.WriteString(c, "SSH-2.0-x\r\n")
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if b, err := io.ReadAll(c); len(b) > 0 {
		t.Errorf("bytes of a flow that is not TLS: %q, %v", b, err)
	}
	c.Close()
	w.Await("reason", "protocol", "host", "hlg.tokbox.com")

	c, _ = w.connect(t, "hlg.tokbox.com:443")
	defer c.Close()
	err := tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()) // the refusal is at issue, not the certificate
	if err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("TLS without a name: %v", err)
	}
	w.Await("reason", "no_name", "host", "hlg.tokbox.com")
	if n := w.up.Requests.Load(); n != 0 {
		t.Errorf("the upstream saw %d requests", n)
	}
}

// Ten thousand denied flows through each TCP door are ten thousand records
// and ten thousand spans, each with what the auditor asks for.
func TestEveryDenialIsARecordAndASpan(t *testing.T) {
	const flows, workers = 10_000, 16
	collector := testbed.NewCollector(t)
	w := newWorld(t, "log: {flows: none}\n", "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.Endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
	doors := map[string]func(t *testing.T, host string){
		"connect": func(t *testing.T, host string) {
			c, res := w.connect(t, host+":443")
			c.Close()
			if res.StatusCode != http.StatusForbidden {
				t.Errorf("connect %s: %s", host, res.Status)
			}
		},
		"http": func(t *testing.T, host string) {
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			fmt.Fprintf(c, "GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", host, host)
			if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusForbidden {
				t.Errorf("http %s: %v %v", host, res, err)
			}
		},
		"socks5": func(t *testing.T, host string) {
			d, err := proxy.SOCKS5("tcp", w.addr, nil, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if c, err := d.Dial("tcp", host+":443"); err == nil {
				c.Close()
				t.Errorf("socks5 %s: connected", host)
			} else if !strings.Contains(err.Error(), "not allowed") {
				t.Errorf("socks5 %s: %v", host, err)
			}
		},
		"tls": func(t *testing.T, host string) {
			c, err := net.Dial("tcp", w.Address("sni"))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			if err := tls.Client(c, &tls.Config{ServerName: host}).Handshake(); err == nil || !strings.Contains(err.Error(), "access denied") {
				t.Errorf("tls %s: %v", host, err)
			}
		},
	}
	for door, try := range doors {
		t.Run(door, func(t *testing.T) {
			var wg sync.WaitGroup
			for k := range workers {
				wg.Go(func() {
					for i := k; i < flows && !t.Failed(); i += workers {
						try(t, fmt.Sprintf("n%d-%s.denied.example.net", i, door))
					}
				})
			}
			wg.Wait()
			testbed.Eventually(t, "all records are on disk", func() bool { return len(w.Find("door", door, "decision", "deny")) >= flows })
			testbed.Eventually(t, "all spans are at the receiver", func() bool { return len(collector.Spans("sluice.door", door)) >= flows })
			check10k(t, door, flows, w.Find("door", door, "decision", "deny"), collector.Spans("sluice.door", door))
		})
	}
}

// check10k wants one record and one span for each name, no more and no less.
func check10k(t *testing.T, door string, flows int, records []testbed.Record, spans []testbed.Span) {
	t.Helper()
	ids := map[string]string{} // trace id → host
	hosts := map[string]bool{}
	for _, r := range records {
		if r.Str("reason") != "no_rule" || r.Str("client") != "127.0.0.1" || !strings.HasSuffix(r.Str("host"), door+".denied.example.net") || r.Str("policy_revision") == "" {
			t.Fatalf("record: %v", r)
		}
		hosts[r.Str("host")] = true
		ids[r.Str("trace_id")] = r.Str("host")
	}
	if len(records) != flows || len(hosts) != flows {
		t.Errorf("%d records of %d names; want %d", len(records), len(hosts), flows)
	}
	seen := map[string]bool{}
	for _, s := range spans {
		if s.Attr["server.address"] == "" || s.Attr["server.address"] != ids[s.TraceID] || s.Attr["sluice.reason"] != "no_rule" || s.Attr["client.address"] != "127.0.0.1" {
			t.Fatalf("span: %+v; its record is of %q", s, ids[s.TraceID])
		}
		seen[s.SpanID] = true
	}
	if len(spans) != flows || len(seen) != flows {
		t.Errorf("%d spans, %d of them distinct; want %d", len(spans), len(seen), flows)
	}
}

// A denied flow is a span even if the client's own trace is not sampled, and
// joins that trace.
func TestDenialJoinsTheClientsTrace(t *testing.T) {
	collector := testbed.NewCollector(t)
	w := newWorld(t, "telemetry: {endpoint: \""+collector.Endpoint+"\", protocol: grpc}\n")
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	testbed.Run(t, nil, "curl", "-sS", "-x", w.proxy, "-H", "traceparent: 00-"+trace+"-"+parent+"-00", "http://evil.test/")
	var spans []testbed.Span
	testbed.Eventually(t, "the span is at the receiver", func() bool {
		spans = collector.Spans("server.address", "evil.test")
		return len(spans) > 0
	})
	if s := spans[0]; s.TraceID != trace || s.Parent != parent {
		t.Errorf("span %+v; want trace %s, parent %s", s, trace, parent)
	}
}
