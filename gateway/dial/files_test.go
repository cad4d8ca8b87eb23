package dial

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLookupOfHosts(t *testing.T) {
	z := newZone(t, "a.test. 60 IN A 127.0.0.1", "b.test. 60 IN A 127.0.0.1", "c.test. 60 IN A 127.0.0.1")
	file := filepath.Join(t.TempDir(), "hosts")
	write(t, file, "127.0.0.7 b.test # not 127.0.0.1\n")
	r, c := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}, HostsFile: file,
		Hosts: []Host{{"A.test.", addrs("127.0.0.9", "::1")}, {"a.test", addrs("::ffff:127.0.0.10")}}})
	a := lookup(t, r, "a.test")
	wantAddrs(t, a, "::1", "127.0.0.9", "127.0.0.10")
	if a.FromCache || a.TTL != 0 {
		t.Errorf("got %+v; want a fixed answer", a)
	}
	wantAddrs(t, lookup(t, r, "b.test"), "127.0.0.7")
	wantAddrs(t, lookup(t, r, "c.test"), "127.0.0.1")

	write(t, file, "127.0.0.8\tC.test  other.test\n")
	wantAddrs(t, lookup(t, r, "b.test"), "127.0.0.7") // looked at no more than once a second
	c.add(time.Second)
	wantAddrs(t, lookup(t, r, "b.test"), "127.0.0.1")
	wantAddrs(t, lookup(t, r, "c.test"), "127.0.0.8")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	c.add(time.Second)
	wantAddrs(t, lookup(t, r, "c.test"), "127.0.0.8") // the last good one stays
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestResolvConfIsReadAgain(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	r, c := testResolver(t, ResolverOptions{ResolvConf: conf})
	list := func() string {
		var s []string
		for _, e := range r.list() {
			s = append(s, e.String())
		}
		return strings.Join(s, " ")
	}
	if got, want := list(), "udp://127.0.0.1:53"; got != want {
		t.Errorf("without a file: got %s; want %s", got, want)
	}
	write(t, conf, "# x\nnameserver 127.0.0.2\nnameserver bad\nnameserver fe80::1%lo\nnameserver ::1\nnameserver 127.0.0.4\n")
	c.add(time.Second)
	if got, want := list(), "udp://127.0.0.2:53 udp://[fe80::1%25lo]:53 udp://[::1]:53"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}
