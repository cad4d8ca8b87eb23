package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sluice/integration/testbed"
)

// newWorldOf is newWorld with a configuration of the test's own.
func newWorldOf(t *testing.T, config string, env ...string) *world {
	t.Helper()
	up := testbed.NewUpstream(t)
	g := testbed.Start(t, config, env...)
	addr := g.Address("proxy")
	return &world{Gateway: g, up: up, proxy: "http://" + addr, addr: addr}
}

// named is a world whose gateway asks a DNS server of the test.
func named(t *testing.T, timeout string) (*world, *testbed.NameServer) {
	t.Helper()
	ns := testbed.NewNameServer(t)
	config := strings.Replace(mission(""), "udp://127.0.0.1:9", ns.URL, 1)
	return newWorldOf(t, strings.Replace(config, "timeout: 1s", "timeout: "+timeout, 1)), ns
}

// tried is the answer to one CONNECT, whose tunnel is not used.
func (w *world) tried(t *testing.T, target string) (status int, proxyStatus, body string) {
	t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Errorf("CONNECT %s: %v", target, err)
		return 0, "", ""
	}
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		body = string(b)
	}
	return res.StatusCode, res.Header.Get("Proxy-Status"), body
}

// What the DNS server fails to say, the client is told, in time.
func TestNameServerFails(t *testing.T) {
	w, ns := named(t, "2s")
	ns.Set("silent.tokbox.com", testbed.Answer{Silent: true})
	ns.Set("slow.tokbox.com", testbed.Answer{Addrs: []string{testbed.IP}, TTL: 60, Delay: 500 * time.Millisecond})
	ns.Set("servfail.tokbox.com", testbed.Answer{Rcode: dns.RcodeServerFailure})
	ns.Set("refused.tokbox.com", testbed.Answer{Rcode: dns.RcodeRefused})
	ns.Set("empty.tokbox.com", testbed.Answer{})
	for _, tc := range []struct {
		name        string
		status      int
		token, code string
	}{
		{"silent", 504, "error=dns_timeout", "dns_timeout"},
		{"slow", 200, "", ""},
		{"nxdomain", 502, "error=dns_error", "dns_error"},
		{"servfail", 502, "error=dns_error", "dns_error"},
		{"refused", 502, "error=dns_error", "dns_error"},
		{"empty", 502, "error=dns_error", "dns_error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host := tc.name + ".tokbox.com"
			start := time.Now()
			status, said, _ := w.tried(t, host+":443")
			if status != tc.status || !strings.Contains(said, tc.token) {
				t.Errorf("%d %q; want %d %s", status, said, tc.status, tc.token)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s with a time-out of 2 s", took)
			}
			if tc.code == "" {
				return
			}
			if r := w.Await("event", "end", "host", host); r.Str("decision") != "allow" || r.Str("error_code") != tc.code {
				t.Errorf("record: %v", r)
			}
			c, err := net.Dial("tcp", w.Address("sni"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			if err := tls.Client(c, &tls.Config{ServerName: host}).Handshake(); err == nil || !strings.Contains(err.Error(), "internal error") {
				t.Errorf("by SNI: %v; want an alert", err)
			}
		})
	}
}

// A DNS server that is not there is a quick answer, and names with a fixed
// answer go on.
func TestNameServerIsDead(t *testing.T) {
	w := newWorld(t, "")
	start := time.Now()
	status, said, _ := w.tried(t, "unknown.tokbox.com:443")
	if status != 502 && status != 504 || !strings.Contains(said, "error=dns_") {
		t.Errorf("%d %q; want 502 or 504 with dns_*", status, said)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s with a time-out of 1 s", took)
	}
	if status, _, _ := w.tried(t, "hlg.tokbox.com:443"); status != 200 {
		t.Errorf("a name with a fixed answer: %d", status)
	}
}

// An allowed name whose answer leads inside is denied, by every door, and no
// packet goes there.
func TestLyingNameServer(t *testing.T) {
	trap := testbed.NewTrap(t, "127.0.0.1:443", "127.0.0.1:80", "[::1]:443")
	w, ns := named(t, "5s")
	for i, address := range []string{
		"10.0.0.1", "127.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "fd00:ec2::254", "64:ff9b::7f00:1",
		"0.0.0.0", "100.100.100.200", "::1", "::", "::127.0.0.1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255", "192.168.1.1", "fe80::1",
	} {
		t.Run(address, func(t *testing.T) {
			host := fmt.Sprintf("lie%d.tokbox.com", i)
			ns.Set(host, testbed.Answer{Addrs: []string{address}, TTL: 60})
			status, said, body := w.tried(t, host+":443")
			if status != 403 || !strings.Contains(said, "error=destination_ip_prohibited") || !strings.Contains(body, "reason: forbidden_address") {
				t.Errorf("connect: %d %q %s", status, said, body)
			}
			c, err := net.Dial("tcp", w.Address("sni"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			if err := tls.Client(c, &tls.Config{ServerName: host}).Handshake(); err == nil || !strings.Contains(err.Error(), "access denied") {
				t.Errorf("tls: %v", err)
			}
			res, err := w.through(t).Get("http://" + host + "/")
			if err != nil || res.StatusCode != 403 {
				t.Errorf("http: %v %v", res, err)
			}
			for _, door := range []string{"connect", "tls", "http"} {
				r := w.Await("host", host, "door", door)
				if r.Str("decision") != "deny" || r.Str("reason") != "forbidden_address" || r.Str("upstream") != "" {
					t.Errorf("record of %s: %v", door, r)
				}
			}
		})
	}
	if who := trap.Caught(); len(who) > 0 {
		t.Errorf("it was connected to: %v", who)
	}
}

// Of a mixed answer only the good address is used, whatever the order.
func TestMixedAnswer(t *testing.T) {
	trap := testbed.NewTrap(t, "127.0.0.1:443")
	w, ns := named(t, "5s")
	for i, addrs := range [][]string{
		{testbed.IP, "127.0.0.1", "10.0.0.1"},
		{"127.0.0.1", "::ffff:127.0.0.1", testbed.IP},
		{"::ffff:127.0.0.1", testbed.IP},
	} {
		host := fmt.Sprintf("mixed%d.tokbox.com", i)
		ns.Set(host, testbed.Answer{Addrs: addrs, TTL: 60})
		if status, said, _ := w.tried(t, host+":443"); status != 200 {
			t.Errorf("%v: %d %s", addrs, status, said)
		}
		r := w.Await("event", "decision", "host", host)
		if r.Str("decision") != "allow" || r.Str("resolved") != "["+testbed.IP+"]" {
			t.Errorf("%v: record %v", addrs, r)
		}
		if r := w.Await("event", "end", "host", host); r.Str("upstream") != testbed.IP+":443" {
			t.Errorf("%v: dialled %v", addrs, r)
		}
	}
	if who := trap.Caught(); len(who) > 0 {
		t.Errorf("it was connected to: %v", who)
	}
}

// A question to a DNS server is a way out too: a denied name is never asked
// for, nor is a name inside a tunnel.
func TestDeniedNamesAreNotAsked(t *testing.T) {
	w, ns := named(t, "5s")
	if status, _, _ := w.tried(t, "secret.exfil.example:443"); status != 403 {
		t.Errorf("denied name: %d", status)
	}
	res, err := w.through(t).Get("http://secret2.exfil.example/")
	if err != nil || res.StatusCode != 403 {
		t.Errorf("denied name by http: %v %v", res, err)
	}
	hello := func(c net.Conn, name string) {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() // who answers is not at issue
		c.Close()
	}
	for _, inner := range []string{"secret3.exfil.example", "inner.tokbox.com"} {
		c, res := w.connect(t, "hlg.tokbox.com:443")
		if res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		hello(c, inner)
	}
	c, err := net.Dial("tcp", w.Address("sni"))
	if err != nil {
		t.Fatal(err)
	}
	hello(c, "secret4.exfil.example")
	w.Await("reason", "name_mismatch")
	w.Await("door", "tls", "reason", "no_rule")
	for _, name := range []string{"secret.exfil.example", "secret2.exfil.example", "secret3.exfil.example", "secret4.exfil.example", "inner.tokbox.com", "exfil.example"} {
		if n := ns.Asked(name); n != 0 {
			t.Errorf("%d questions about %s", n, name)
		}
	}
}

// Many clients of one name are one question, for each family.
func TestManyClientsFewQuestions(t *testing.T) {
	w, ns := named(t, "5s")
	ns.Set("busy.tokbox.com", testbed.Answer{Addrs: []string{testbed.IP}, TTL: 60, Delay: 200 * time.Millisecond})
	var wg sync.WaitGroup
	var good atomic.Int64
	for range 200 {
		wg.Go(func() {
			if status, _, _ := w.tried(t, "busy.tokbox.com:443"); status == 200 {
				good.Add(1)
			}
		})
	}
	wg.Wait()
	if n := good.Load(); n != 200 {
		t.Errorf("%d of 200 clients connected", n)
	}
	if n := ns.Asked("busy.tokbox.com"); n > 4 {
		t.Errorf("%d questions; want one for each family", n)
	}
}

// An answer is used for its TTL and no longer; one that turns inside then is
// refused (DNS rebinding).
func TestAnswerChanges(t *testing.T) {
	trap := testbed.NewTrap(t, "127.0.0.1:443")
	second := testbed.NewTrap(t, "127.77.0.2:443")
	w, ns := named(t, "5s")
	const host = "moving.tokbox.com"
	ns.Set(host, testbed.Answer{Addrs: []string{testbed.IP}, TTL: 1})
	if status, _, _ := w.tried(t, host+":443"); status != 200 {
		t.Fatalf("first answer: %d", status)
	}
	w.Await("host", host, "upstream", testbed.IP+":443")
	ns.Set(host, testbed.Answer{Addrs: []string{"127.77.0.2"}, TTL: 1})
	testbed.Eventually(t, "the second answer is used", func() bool {
		w.tried(t, host+":443")
		return len(w.Find("host", host, "upstream", "127.77.0.2:443")) > 0
	})
	if len(second.Caught()) == 0 {
		t.Error("nobody came to the second address")
	}
	ns.Set(host, testbed.Answer{Addrs: []string{"127.0.0.1"}, TTL: 1})
	testbed.Eventually(t, "the third answer is refused", func() bool {
		status, _, _ := w.tried(t, host+":443")
		return status == 403
	})
	if r := w.Await("host", host, "reason", "forbidden_address"); r.Str("decision") != "deny" {
		t.Errorf("record: %v", r)
	}
	if who := trap.Caught(); len(who) > 0 {
		t.Errorf("it was connected to: %v", who)
	}
}

// The gateway is no way to its own listeners, even where loopback is
// permitted: its admin API would take it for somebody on this machine.
func TestOwnListenersAreRefused(t *testing.T) {
	config := mission(`    - {name: local, to: {cidrs: [127.0.0.0/8, "::1/128"], ports: ["1-65535"], app: [tls, http, opaque]}}
    - {name: home, to: {hosts: [self.tokbox.com], ports: ["1-65535"], app: [tls, http, opaque]}}
`)
	config = strings.Replace(config, "permit: [127.77.0.0/16]", `permit: [127.0.0.0/8, "::1/128", "::ffff:0:0/96"]`, 1)
	config = strings.Replace(config, "  hosts:\n", "  hosts:\n    - {name: self.tokbox.com, addresses: [127.0.0.1]}\n", 1)
	w := newWorldOf(t, config)
	echo := testbed.Echo(t)
	if status, _, body := w.tried(t, testbed.IP+":"+echo); status != 200 {
		t.Fatalf("another port of loopback: %d %s", status, body)
	}
	for name, hostport := range map[string]string{"proxy": w.addr, "sni": w.Address("sni"), "admin": w.Admin} {
		_, port, _ := net.SplitHostPort(hostport)
		for _, host := range []string{"127.0.0.1", "self.tokbox.com", "[::ffff:127.0.0.1]"} {
			status, _, body := w.tried(t, host+":"+port)
			if status != 403 || !strings.Contains(body, "forbidden_address") || !strings.Contains(body, "listener of this gateway") {
				t.Errorf("%s by %s: %d %s", name, host, status, body)
			}
		}
		if res, err := w.through(t).Get("http://self.tokbox.com:" + port + "/"); err != nil || res.StatusCode != 403 {
			t.Errorf("%s by http: %v %v", name, res, err)
		}
	}
	r := w.Await("host", "self.tokbox.com", "reason", "forbidden_address")
	if r.Str("decision") != "deny" || !strings.Contains(r.Str("detail"), "listener of this gateway") {
		t.Errorf("record: %v", r)
	}
}
