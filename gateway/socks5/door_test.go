package socks5

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"sluice/gateway/flow"
	"sluice/policy"
)

// ask is a greeting without authentication and a request, in one.
func ask(command byte, address string, port uint16) string {
	return "\x05\x01\x00" + request5(command, address, port)
}

func request5(command byte, address string, port uint16) string {
	return string([]byte{version, command, 0}) + address + string([]byte{byte(port >> 8), byte(port)})
}

func name(s string) string { return "\x03" + string([]byte{byte(len(s))}) + s }

func TestConnect(t *testing.T) {
	for _, c := range []struct{ name, address, host string }{
		{"by name", name("a.example"), "a.example"},
		{"by IPv4 address", "\x01\xc0\x00\x02\x01", "192.0.2.1"},
		{"by IPv6 address", "\x04\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01", "2001:db8::1"},
		{"by IPv4 address in IPv6", "\x04" + strings.Repeat("\x00", 10) + "\xff\xff\xc0\x00\x02\x01", "::ffff:192.0.2.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &opener{known: map[string]string{c.host: echo(t)}}
			conn := dial(t, start(t, &Door{Out: out}))
			// All in one write: what is behind the request is early data.
			io.WriteString(conn, ask(commandConnect, c.address, 8443)+"early")
			conn.CloseWrite()
			got, err := io.ReadAll(conn)
			want := "\x05\x00" + string(answer(replySucceeded)) + "early"
			if err != nil || string(got) != want {
				t.Fatalf("got %q, %v; want %q", got, err, want)
			}
			out.eventually(t, "recorded", func() bool { return len(out.done) == 1 })
			f := out.done[0]
			if f.Host != c.host || f.Port != 8443 || f.Door != flow.DoorSOCKS5 || f.Seen != policy.SeenOpaque ||
				len(f.Claims) != 1 || f.Claims[0] != (flow.Claim{Host: c.host, From: flow.FromSOCKS}) || f.BytesIn != 5 {
				t.Errorf("recorded %+v", f)
			}
		})
	}
}

func TestOneByteAtATime(t *testing.T) {
	out := &opener{known: map[string]string{"a.example": echo(t)}}
	conn := dial(t, start(t, &Door{Out: out, Authenticate: letIn}))
	conn.SetNoDelay(true)
	stream := "\x05\x02\x00\x02" + "\x01\x05alice\x06secret" + request5(commandConnect, name("a.example"), 443) + "early"
	for i := range stream {
		if _, err := io.WriteString(conn, stream[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	conn.CloseWrite()
	got, err := io.ReadAll(conn)
	if want := "\x05\x02" + "\x01\x00" + string(answer(replySucceeded)) + "early"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// letIn knows alice, whose password is secret.
func letIn(user, pass string) (*policy.Identity, error) {
	if user == "alice" && pass == "secret" {
		return &policy.Identity{User: user}, nil
	}
	return nil, errors.New("wrong password")
}

func TestTurnedAway(t *testing.T) {
	const greeted = "\x05\x00"
	for _, c := range []struct {
		name   string
		login  func(string, string) (*policy.Identity, error)
		sent   string
		want   string
		reason string // of Refuse; "" if policy denied it, or it is no flow
	}{
		{"denied by policy", nil, ask(commandConnect, name("evil.example"), 443), greeted + string(answer(replyDenied)), ""},
		{"name with a NUL, judged as given", nil, ask(commandConnect, name("evil.example\x00.a.example"), 443), greeted + string(answer(replyDenied)), ""},
		{"refused upstream", nil, ask(commandConnect, name("refused"), 443), greeted + string(answer(replyRefused)), ""},
		{"no such name", nil, ask(commandConnect, name("nowhere"), 443), greeted + string(answer(replyHostUnreachable)), ""},
		{"no route", nil, ask(commandConnect, name("unroutable"), 443), greeted + string(answer(replyNetUnreachable)), ""},
		{"no answer", nil, ask(commandConnect, name("slow"), 443), greeted + string(answer(replyExpired)), ""},
		{"another failure", nil, ask(commandConnect, name("broken"), 443), greeted + string(answer(replyGeneral)), ""},
		{"BIND", nil, ask(commandBind, name("a.example"), 443), greeted + string(answer(replyCommand)), "protocol"},
		{"UDP ASSOCIATE", nil, ask(commandAssociate, "\x01\x00\x00\x00\x00", 0), greeted + string(answer(replyCommand)), "protocol"},
		{"no such command", nil, ask(9, name("a.example"), 443), greeted + string(answer(replyCommand)), "malformed_request"},
		{"no such address type", nil, ask(commandConnect, "\x02aaaa", 443), greeted + string(answer(replyAddressType)), "malformed_request"},
		{"empty name", nil, ask(commandConnect, name(""), 443), greeted + string(answer(replyGeneral)), "malformed_request"},
		{"another version in the request", nil, "\x05\x01\x00\x04\x01", greeted + string(answer(replyGeneral)), "malformed_request"},
		{"not SOCKS5 at all", nil, "GET / HTTP/1.1\r\n", "", "malformed_request"},
		{"no method offered", nil, "\x05\x00", "\x05\xff", "malformed_request"},
		{"only methods that are not there", nil, "\x05\x01\x01", "\x05\xff", "malformed_request"},
		{"no password offered where one is needed", letIn, "\x05\x01\x00", "\x05\xff", "unauthenticated"},
		{"wrong password", letIn, "\x05\x01\x02\x01\x05alice\x05wrong", "\x05\x02\x01\x01", "unauthenticated"},
		{"empty user and password", letIn, "\x05\x01\x02\x01\x00\x00", "\x05\x02\x01\x01", "unauthenticated"},
		{"another version in the login", letIn, "\x05\x01\x02\x05", "\x05\x02\x01\x01", "malformed_request"},
		{"closed within the request", nil, "\x05\x01\x00\x05\x01", greeted, "malformed_request"},
		{"closed without a word", nil, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &opener{known: map[string]string{
				"refused": "connection_refused", "nowhere": "dns_error", "unroutable": "destination_ip_unroutable",
				"slow": "connection_timeout", "broken": "proxy_internal_error",
			}}
			conn := dial(t, start(t, &Door{Out: out, Authenticate: c.login}))
			io.WriteString(conn, c.sent)
			conn.CloseWrite()
			got := make([]byte, len(c.want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != c.want {
				t.Fatalf("got %q, %v; want %q", got, err, c.want)
			}
			if more, _ := io.ReadAll(conn); len(more) > 0 {
				t.Errorf("then %q", more)
			}
			want := 0
			if c.reason != "" {
				want = 1
			}
			out.eventually(t, "refused", func() bool { return len(out.refused) == want })
			if want == 1 && out.refused[0] != c.reason {
				t.Errorf("refused for %v, want %s", out.refused, c.reason)
			}
		})
	}
}

func TestLoginIsTheFlowsIdentity(t *testing.T) {
	out := &opener{known: map[string]string{"a.example": echo(t)}}
	addr := start(t, &Door{Out: out, Authenticate: letIn})
	d, err := proxy.SOCKS5("tcp", addr, &proxy.Auth{User: "alice", Password: "secret"}, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Dial("tcp", "a.example:443")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if who := out.flows[0].Identity; who == nil || who.User != "alice" {
		t.Errorf("identity %+v, want alice", who)
	}
}

func TestServerNameInsideIsJudged(t *testing.T) {
	out := &opener{known: map[string]string{"a.example": echo(t)}, inner: "evil.example"}
	d, err := proxy.SOCKS5("tcp", start(t, &Door{Out: out}), nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Dial("tcp", "a.example:443")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = tls.Client(conn, &tls.Config{ServerName: "evil.example"}).Handshake()
	var op *net.OpError
	if !errors.As(err, &op) || op.Err.Error() != "tls: access denied" {
		t.Errorf("handshake: %v, want tls: access denied", err)
	}
}

// A client that drips bytes gains no time by it, and one that is silent is
// cut as well.
func TestOneDeadlineForTheHandshake(t *testing.T) {
	for _, sent := range []string{"", "\x05", "\x05\x01\x00", "\x05\x01\x00\x05\x01\x00\x03\xff"} {
		out := &opener{}
		conn := dial(t, start(t, &Door{Out: out, HandshakeTimeout: 30 * time.Millisecond}))
		io.WriteString(conn, sent)
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a client that sent %q is held", sent)
		}
		out.eventually(t, "refused", func() bool { return len(out.refused) == 1 && out.refused[0] == "malformed_request" })
	}
}

func TestDrippingClientIsCut(t *testing.T) {
	out := &opener{}
	conn := dial(t, start(t, &Door{Out: out, HandshakeTimeout: 30 * time.Millisecond}))
	stream := ask(commandConnect, name(strings.Repeat("a", 255)), 443)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		if i == len(stream)-1 {
			t.Fatal("a dripped request was read to its end")
		}
		if _, err := io.WriteString(conn, stream[i:i+1]); err != nil {
			return // cut
		}
		<-tick.C
	}
}

func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("curl is not installed, and CI must have it")
		}
		t.Skip("curl is not installed")
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello from "+r.Host) }))
	defer web.Close()
	addr := web.Listener.Addr().String()
	out := &opener{known: map[string]string{"a.example": addr, "127.0.0.1": addr}}
	door := start(t, &Door{Out: out})
	for _, c := range []struct {
		name, option, url, want string
	}{
		{"by name", "--socks5-hostname", "http://a.example/", "hello from a.example"},
		{"by address", "--socks5", "http://127.0.0.1/", "hello from 127.0.0.1"},
		{"denied", "--socks5-hostname", "http://evil.example/", "(2)"}, // curl prints the reply's code
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), curl, "-sS", "--noproxy", "", "--max-time", "20", c.option, door, c.url)
			got, _ := cmd.CombinedOutput()
			if !bytes.Contains(got, []byte(c.want)) {
				t.Errorf("curl says %q, want %q", got, c.want)
			}
		})
	}
}
