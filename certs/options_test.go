package certs

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

func TestOptionsThatAreWrong(t *testing.T) {
	dir := t.TempDir()
	notADir := write(t, filepath.Join(dir, "file"), nil)
	acmeWith := func(change func(o *Options)) Options {
		o := Options{Source: SourceACME, Names: []string{"a.test"}, StorageDir: dir, ACME: ACME{Directory: "https://ca.test/dir", AgreeTerms: true}}
		change(&o)
		return o
	}
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"no source", Options{}, "write files, acme or internal"},
		{"one file", Options{Source: SourceFiles, Files: Files{Cert: "x"}}, "both the certificate file and the key file"},
		{"internal without names", Options{Source: SourceInternal, StorageDir: dir}, "list the names"},
		{"internal without storage", Options{Source: SourceInternal, Names: []string{"a.test"}}, "survives a restart"},
		{"storage that is a file", Options{Source: SourceInternal, Names: []string{"a.test"}, StorageDir: notADir}, "storage directory"},
		{"leaf too short", Options{Source: SourceInternal, Names: []string{"a.test"}, StorageDir: dir, Internal: Internal{Lifetime: time.Hour}}, "lifetime 1h0m0s"},
		{"leaf too long", Options{Source: SourceInternal, Names: []string{"a.test"}, StorageDir: dir, Internal: Internal{Lifetime: 1e4 * time.Hour}}, "lifetime"},
		{"no directory", acmeWith(func(o *Options) { o.ACME.Directory = "" }), "write an https URL"},
		{"plain http", acmeWith(func(o *Options) { o.ACME.Directory = "http://127.0.0.1/dir" }), "write an https URL"},
		{"terms not agreed to", acmeWith(func(o *Options) { o.ACME.AgreeTerms = false }), "terms must be agreed to"},
		{"half a binding", acmeWith(func(o *Options) { o.ACME.EAB.KeyID = "k" }), "both the key id and the MAC key"},
		{"binding in plain base64", acmeWith(func(o *Options) { o.ACME.EAB = EAB{"k", "ab+/"} }), "not base64url"},
		{"unknown challenge", acmeWith(func(o *Options) { o.ACME.Challenges = []string{"dns-01"} }), `challenge "dns-01"`},
		{"port out of range", acmeWith(func(o *Options) { o.ACME.TLSPort = 70000 }), "challenge port 70000"},
		{"wildcard by acme", acmeWith(func(o *Options) { o.Names = []string{"*.a.test"} }), "can not prove a wildcard"},
		{"address by acme", acmeWith(func(o *Options) { o.Names = []string{"192.0.2.1"} }), "IP addresses only with"},
		{"root file that is missing", acmeWith(func(o *Options) { o.ACME.RootFile = filepath.Join(dir, "none") }), "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Listener = "proxy"
			if _, err := New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v; want %q", err, c.want)
			}
		})
	}
}

func TestNormalNames(t *testing.T) {
	got, err := normalNames([]string{"A.Test.", "a.test", "*.B.test", "192.0.2.1", "::ffff:192.0.2.1", "2001:DB8::1", "localhost", "under_score.test"})
	want := []string{"a.test", "*.b.test", "192.0.2.1", "2001:db8::1", "localhost", "under_score.test"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for name, say := range map[string]string{
		"bücher.test": `A-label "xn--bcher-kva.test"`, "": "empty", "a..b": "empty", ".a": "empty", "*": "star", "a.*.b": "star", "w*.a": "star",
		"a b": "host name", "a/b": "host name", "fe80::1%eth0": "zone", strings.Repeat("a", 64) + ".test": "63", strings.Repeat("a.", 130) + "b": "253",
	} {
		if _, err := normalNames([]string{name}); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v; want %q", name, err, say)
		}
	}
}

func TestStorageLocksAreHeldByOneAndFreedWithTheirHolder(t *testing.T) {
	dir := t.TempDir()
	_, log := newJournal(t)
	a, err := openStorage(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	b, err := openStorage(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := a.Lock(ctx, "order"); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.TryLock(ctx, "order"); ok || err != nil {
		t.Errorf("a held lock was given away: %t, %v", ok, err)
	}
	if ok, err := a.TryLock(ctx, "order"); ok || err != nil {
		t.Errorf("a lock was given twice: %t, %v", ok, err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Lock(short, "order"); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting past the end of the context: %v", err)
	}
	got := make(chan error)
	go func() { got <- b.Lock(ctx, "order") }()
	if err := a.Unlock(ctx, "order"); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if err := a.Unlock(ctx, "order"); err == nil {
		t.Error("a lock that is not held was given back")
	}
	// What a crash leaves behind does not hold anybody up: the descriptor closes with its process.
	b.mu.Lock()
	b.held["order"].Close()
	b.mu.Unlock()
	if ok, err := a.TryLock(ctx, "order"); !ok || err != nil {
		t.Errorf("after a crash: %t, %v", ok, err)
	}
	a.Unlock(ctx, "order")
	var _ certmagic.Storage = a
}

func TestStorageThatIsOpenToOthersIsSaid(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	j, log := newJournal(t)
	if _, err := openStorage(dir, log); err != nil || !j.has("set mode 0700") {
		t.Errorf("error %v; want none, and a warning", err)
	}
}

func TestZapSpeaksThroughSlog(t *testing.T) {
	j, log := newJournal(t)
	z := zapOnto(log.With("listener", "proxy")).Named("obtain").With(zap.String("name", "a.test"))
	z.Info("step", zap.Int("n", 1))
	z.Error("attempt", zap.Error(errors.New("no")))
	for _, want := range []string{
		"level=DEBUG msg=step listener=proxy logger=obtain", "name=a.test", "n=1", "level=WARN msg=attempt", "error=no",
	} {
		if !j.has(want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestStatusAsJSON(t *testing.T) {
	b, err := json.Marshal(Status{Name: "a.test", Source: SourceACME, State: StateSelfSigned})
	if err != nil || strings.Contains(string(b), "last_error") || !strings.Contains(string(b), `"state":"self_signed"`) {
		t.Errorf("%s, %v", b, err)
	}
}
