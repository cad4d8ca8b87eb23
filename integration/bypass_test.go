package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/integration/testbed"
)

// The addresses of the attacks: what may be reached, and what never may.
const (
	houseIP = "127.78.0.1"
	trapIP  = "127.78.0.66"
)

// siege is a gateway under attack, between a house that its rules allow and a
// trap that nothing may reach.
type siege struct {
	*testbed.Gateway
	ca    *testbed.CA
	addr  string // of the explicit proxy
	house *ears
	trap  *ears
}

// siegeConfig allows names below tokbox.com on 443 for TLS, on 80 for HTTP, and
// on 8443 and 8080 for whatever is spoken there.
const siegeConfig = `version: 1
listeners:
  - {name: proxy, address: "127.0.0.1:0", doors: [connect, http, socks5]}
  - {name: sni, address: "127.0.0.1:0", doors: [tls]}
  - {name: secure, address: "127.0.0.1:0", doors: [connect, http], tls: {source: files, cert: %q, key: %q}}
admin: {address: "127.0.0.1:0"}
limits: {handshake_timeout: 2s, connect_timeout: 2s}
resolver:
  servers: ["udp://127.0.0.1:9"]
  timeout: 1s
  hosts:
    - {name: hlg.tokbox.com, addresses: [127.78.0.1]}
    - {name: other.tokbox.com, addresses: [127.78.0.1]}
    - {name: self.tokbox.com, addresses: [127.0.0.1]}
    - {name: evil.test, addresses: [127.78.0.66]}
    - {name: eviltokbox.com, addresses: [127.78.0.66]}
    - {name: tokbox.com, addresses: [127.78.0.66]}
    - {name: tokbox.com.evil.test, addresses: [127.78.0.66]}
guard: {permit: [127.78.0.0/16]}
policy:
  allow: ["*.tokbox.com"]
  rules:
    - name: clear-web
      to: {hosts: ["*.tokbox.com"], ports: [80], app: [http, ws]}
    - name: odd-ports
      to: {hosts: ["*.tokbox.com"], ports: [8443, 8080]}
%s`

func newSiege(t *testing.T, extra string) *siege {
	t.Helper()
	testbed.NeedRoot(t)
	s := &siege{ca: testbed.NewCA(t), house: listenAt(t, houseIP, "443", "80", "8443", "8080"), trap: listenAt(t, trapIP, "443", "80", "8443", "8080")}
	cert, key := s.ca.LeafFiles("127.0.0.1")
	s.Gateway = testbed.Start(t, fmt.Sprintf(siegeConfig, cert, key, extra))
	s.addr = s.Address("proxy")
	return s
}

// ears is a host that answers every HTTP head it hears, and keeps every byte.
type ears struct {
	mu    sync.Mutex
	heard []*bytes.Buffer // by connection
	reply func(head string) string
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func listenAt(t *testing.T, ip string, ports ...string) *ears {
	t.Helper()
	e := &ears{reply: func(string) string { return fine }}
	for _, port := range ports {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go e.serve(c)
			}
		}()
	}
	return e
}

func (e *ears) serve(c net.Conn) {
	defer c.Close()
	e.mu.Lock()
	heard := &bytes.Buffer{}
	e.heard = append(e.heard, heard)
	e.mu.Unlock()
	buf, seen := make([]byte, 64<<10), 0
	for {
		n, err := c.Read(buf)
		e.mu.Lock()
		heard.Write(buf[:n])
		rest := heard.String()[seen:]
		reply := e.reply
		e.mu.Unlock()
		for {
			head, left, whole := strings.Cut(rest, "\r\n\r\n")
			if !whole {
				break
			}
			seen += len(rest) - len(left)
			rest = left
			io.WriteString(c, reply(head))
		}
		if err != nil {
			return
		}
	}
}

// answer makes the host answer otherwise.
func (e *ears) answer(reply func(head string) string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reply = reply
}

// count says how many connections there were.
func (e *ears) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.heard)
}

// all is everything that was heard.
func (e *ears) all() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, h := range e.heard {
		b.Write(h.Bytes())
	}
	return b.String()
}

func (s *siege) dial(t *testing.T, listener string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", s.Address(listener))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	return c.(*net.TCPConn)
}

// ask sends raw bytes to the explicit proxy, ends its sending half, and
// returns all that it answers until it closes.
func (s *siege) ask(t *testing.T, pieces ...string) string {
	t.Helper()
	c := s.dial(t, "proxy")
	for _, p := range pieces {
		if _, err := io.WriteString(c, p); err != nil {
			break
		}
	}
	c.CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

// get sends raw bytes to the explicit proxy and returns the status of the
// first response, without half-closing as ask does.
func (s *siege) get(t *testing.T, request string) int {
	t.Helper()
	c := s.dial(t, "proxy")
	io.WriteString(c, request)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Errorf("%q: %v", request, err)
		return 0
	}
	io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// status is that of a raw answer, "" if there is none.
func status(answer string) string {
	if f := strings.Fields(answer); len(f) > 1 && strings.HasPrefix(f[0], "HTTP/1.") {
		return f[1]
	}
	return ""
}

// denials are the records of denials so far.
func (s *siege) denials() int { return len(s.Find("event", "decision", "decision", "deny")) }

// denied waits for one more denial than before, with one of the reasons, and
// returns it.
func (s *siege) denied(t *testing.T, before int, reasons ...string) testbed.Record {
	t.Helper()
	var r testbed.Record
	deadline := time.Now().Add(5 * time.Second)
	for tick := time.Tick(2 * time.Millisecond); r == nil; <-tick {
		if all := s.Find("event", "decision", "decision", "deny"); len(all) > before {
			r = all[len(all)-1]
		} else if time.Now().After(deadline) {
			t.Fatal("no record of a denial")
		}
	}
	if !slices.Contains(reasons, r.Str("reason")) {
		t.Errorf("recorded as %q (%s); want one of %v", r.Str("reason"), r.Str("detail"), reasons)
	}
	return r
}

// quiet fails if anything came out of the gateway since the mark.
func (s *siege) quiet(t *testing.T, mark string) {
	t.Helper()
	if n := s.trap.count(); n > 0 {
		t.Errorf("the trap was reached %d times: %q", n, s.trap.all())
	}
	if got := s.house.all(); got != mark {
		t.Errorf("the upstream heard %.300q", strings.TrimPrefix(got, mark))
	}
}

// socks asks for a destination in SOCKS5 and returns the reply's code.
func (s *siege) socks(t *testing.T, kind byte, address string, port uint16) (net.Conn, byte) {
	t.Helper()
	c := s.dial(t, "proxy")
	request := []byte{5, 1, 0, 5, 1, 0, kind}
	if kind == 3 {
		request = append(request, byte(len(address)))
	}
	request = append(request, address...)
	c.Write(append(request, byte(port>>8), byte(port)))
	reply := make([]byte, 12) // to the greeting, and to the request
	if _, err := io.ReadFull(c, reply); err != nil {
		t.Fatalf("SOCKS: %v", err)
	}
	return c, reply[3]
}

// tunnelTo opens an allowed CONNECT tunnel.
func (s *siege) tunnelTo(t *testing.T, target string) *net.TCPConn {
	t.Helper()
	c := s.dial(t, "proxy")
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	res, err := http.ReadResponse(bufio.NewReaderSize(c, 16), &http.Request{Method: http.MethodConnect})
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT %s: %v %v", target, res, err)
	}
	return c
}
