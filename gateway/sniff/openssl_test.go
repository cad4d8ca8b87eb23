package sniff

import (
	"context"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

// tool returns the path of a program that a test needs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed, and CI must have it", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

func TestHellosOfOpenSSL(t *testing.T) {
	openssl := tool(t, "openssl")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"TLS 1.3", "www.example.com", []string{"-servername", "www.example.com", "-tls1_3"}},
		{"TLS 1.2", "www.example.com", []string{"-servername", "www.example.com", "-tls1_2"}},
		{"TLS 1.0", "www.example.com", []string{"-servername", "www.example.com", "-tls1", "-cipher", "ALL:@SECLEVEL=0"}},
		{"ALPN", "a.example", []string{"-servername", "a.example", "-alpn", "h2,http/1.1"}},
		{"no server name", "", []string{"-noservername"}},
		{"small records", "www.example.com", []string{"-servername", "www.example.com", "-max_send_frag", "512", "-groups", "P-521:X448:X25519"}},
		{"long list of protocols", "a.example", []string{"-servername", "a.example", "-max_send_frag", "512", "-alpn", longList()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, openssl, append([]string{"s_client", "-connect", l.Addr().String()}, c.args...)...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			conn := NewConn(accepted)
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			h, err := ReadClientHello(conn)
			want := oracle(conn.Buffered())
			conn.Close()
			cmd.Wait() // it fails, for want of an answer
			if err != nil || string(h.ServerName) != c.want {
				t.Fatalf("got %q, %v; want %q", h.ServerName, err, c.want)
			}
			if want == nil {
				t.Fatal("crypto/tls refuses the hello of openssl")
			}
			if what := differs(h, want); what != "" {
				t.Errorf("%s: got %+v, crypto/tls says %+v", what, h, want)
			}
		})
	}
}

// longList makes a hello go over several records of 512 bytes.
func longList() string {
	list := "p0"
	for range 40 {
		list += ",protocol-with-a-long-name"
	}
	return list
}
