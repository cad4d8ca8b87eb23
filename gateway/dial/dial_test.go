package dial

import (
	"errors"
	"testing"
)

// The whole way: a name with good and bad addresses is reached at a good one,
// and a name with bad ones only is not reached at all.
func TestFromNameToConnection(t *testing.T) {
	z := newZone(t,
		"mixed.test. 60 IN A 10.0.0.1", "mixed.test. 60 IN A 169.254.169.254", "mixed.test. 60 IN A 127.0.0.1", "mixed.test. 60 IN A 0.0.0.0",
		"mixed.test. 60 IN AAAA fd00:ec2::254", "mixed.test. 60 IN AAAA 64:ff9b::7f00:1", "mixed.test. 60 IN AAAA ff02::1",
		"mapped.test. 60 IN AAAA ::ffff:127.0.0.1",
		"bad.test. 60 IN CNAME hidden.test.", "hidden.test. 60 IN A 169.254.169.254", "hidden.test. 60 IN AAAA ::ffff:10.0.0.1")
	r, _ := testResolver(t, ResolverOptions{Servers: []string{serveDNS(t, z)}})
	l, port := listen(t, "127.0.0.1:0")
	d := testDialer()

	for name, wantRefused := range map[string]int{"mixed.test": 6, "mapped.test": 0} {
		ok, refused := d.Guard.Filter(lookup(t, r, name).Addrs, port, loopback)
		if len(ok) != 1 || ok[0].String() != "127.0.0.1" || len(refused) != wantRefused {
			t.Fatalf("%s: got %v, refused %v; want 127.0.0.1, and %d refused", name, ok, refused, wantRefused)
		}
		c, ap, err := d.Dial(t.Context(), ok, port, loopback)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer c.Close()
		if ap.String() != l.Addr().String() {
			t.Errorf("%s: got a connection to %s; want %s", name, ap, l.Addr())
		}
	}

	bad := lookup(t, r, "bad.test").Addrs
	ok, refused := d.Guard.Filter(bad, port, loopback)
	if len(ok) != 0 || len(refused) != 2 {
		t.Errorf("got %v, refused %v; want both refused", ok, refused)
	}
	// Even a caller who forgets to ask the guard does not get there.
	_, _, err := d.Dial(t.Context(), bad, port, loopback)
	var e *DialError
	if !errors.As(err, &e) || e.Code != CodeProhibited || e.Tried != 2 {
		t.Errorf("got %v; want a *DialError of %s after both", err, CodeProhibited)
	}
}
