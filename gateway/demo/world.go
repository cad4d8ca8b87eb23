package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sluice/gateway"
	"sluice/gateway/audit"
	"sluice/gateway/config"
)

// world is all that a tour runs: upstreams, DNS, an OTLP receiver, and a
// gateway between them.
type world struct {
	dir       string
	journal   string
	config    string // path of the file
	caFile    string
	ca        *authority
	https     *upstream
	http      *upstream
	mail      *upstream
	collector *collector
	names     *nameServer
	unnamed   map[string]bool // names that must never be looked up
	rules     int
	patterns  int

	proxy, router, admin string // host:port of the gateway's listeners

	closers []func() error // in the order they were opened
}

// newWorld starts everything. It cleans up when it fails.
func newWorld(ctx context.Context, o *Options) (w *world, err error) {
	w = &world{collector: &collector{}, unnamed: map[string]bool{nameUnnamed: true, nameNearMiss: true, nameOther: true}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("set up the tour: %w", err), w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "sluice-demo-"); err != nil {
		return w, err
	}
	w.onClose(func() error { return os.RemoveAll(w.dir) })
	w.journal = filepath.Join(w.dir, "audit")
	if err := w.startUpstreams(); err != nil {
		return w, err
	}
	receiver, err := serveWeb(w.collector, nil)
	if err != nil {
		return w, err
	}
	w.onClose(closer(receiver.close))
	answers := map[string]netip.Addr{nameMetadata: netip.MustParseAddr(metadataAddress)}
	for _, name := range []string{nameTokbox, nameOpentok, nameSquare, nameSoti, nameNexthink, nameMail, nameUnnamed, nameNearMiss, nameOther} {
		answers[name] = netip.MustParseAddr(loopback)
	}
	if w.names, err = newNameServer(answers); err != nil {
		return w, err
	}
	w.onClose(closer(w.names.close))
	w.config = filepath.Join(w.dir, "config.yaml")
	if err := os.WriteFile(w.config, []byte(w.configText(receiver.port)), 0o600); err != nil {
		return w, err
	}
	return w, w.startGateway(ctx, o)
}

func (w *world) onClose(f func() error) { w.closers = append(w.closers, f) }

func closer(f func()) func() error {
	return func() error { f(); return nil }
}

// close ends everything, the last opened first.
func (w *world) close() error {
	var errs []error
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i]())
	}
	w.closers = nil
	return errors.Join(errs...)
}

func (w *world) startUpstreams() error {
	var err error
	if w.ca, err = newAuthority(); err != nil {
		return err
	}
	w.caFile = filepath.Join(w.dir, "ca.pem")
	if err := os.WriteFile(w.caFile, w.ca.pem, 0o600); err != nil {
		return err
	}
	cert, err := w.ca.leaf(nameTokbox, nameOpentok, nameSquare, nameSoti, nameNexthink)
	if err != nil {
		return err
	}
	if w.https, err = serveWeb(site(), &cert); err != nil {
		return err
	}
	w.onClose(closer(w.https.close))
	if w.http, err = serveWeb(site(), nil); err != nil {
		return err
	}
	w.onClose(closer(w.http.close))
	if w.mail, err = serveMail(); err != nil {
		return err
	}
	w.onClose(closer(w.mail.close))
	return nil
}

// patterns are those of the embedded default.
var patterns = []string{"*.tokbox.com", "*.opentok.com", "*.supportsquare.io", "skinapi.soti.net", "agora.*.nexthink.cloud"}

// configText is the gateway's configuration. Everything is on loopback, which
// the guard refuses: each rule permits it for its own names.
func (w *world) configText(collectorPort string) string {
	quoted := make([]string, len(patterns))
	for i, p := range patterns {
		quoted[i] = strconv.Quote(p)
	}
	return fmt.Sprintf(`# Made by sluice demo. Ports are free ones of loopback, where the tour's upstreams listen.
version: 1
listeners:
  - {name: proxy, address: "127.0.0.1:0", doors: [connect, http, socks5]}
  - {name: router, address: "127.0.0.1:0", doors: [tls], port: %[1]s}
resolver: {servers: ["udp://%[2]s"]}
limits: {drain_timeout: 1s}
policy:
  mode: enforce
  rules:
    - name: mission
      owner: demo
      to:
        hosts: [%[3]s]
        ports: [%[1]s]
        app: [https, wss]
      private: [127.0.0.0/8]
    - name: plain-http
      owner: demo
      to: {hosts: ["*.supportsquare.io"], ports: [%[4]s], app: [http]}
      private: [127.0.0.0/8]
    - name: mail
      owner: demo
      to: {hosts: [%[5]s], ports: [%[6]s], app: [smtp]}
      private: [127.0.0.0/8]
audit: {dir: %[7]q}
telemetry: {endpoint: "http://127.0.0.1:%[8]s", protocol: http/protobuf, service_name: sluice-demo}
admin: {address: "127.0.0.1:0"}
log: {flows: none}
`, w.https.port, w.names.conn.LocalAddr(), strings.Join(quoted, ", "), w.http.port, nameMail, w.mail.port, w.journal, collectorPort)
}

// startGateway runs a gateway on the file, and waits until it listens.
func (w *world) startGateway(ctx context.Context, o *Options) error {
	in := config.Input{Path: w.config}
	loaded, err := config.Load(in)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(o.Log, &slog.HandlerOptions{Level: slog.LevelError}))
	opts, err := config.Options(loaded, log)
	if err != nil {
		return err
	}
	opts.Version, opts.Load = o.Version, config.Reloader(in, loaded)
	w.rules, w.patterns = len(opts.Policy.Rules()), opts.Policy.Patterns()
	bound := make(chan []gateway.Bound, 1)
	opts.Opened = func(b []gateway.Bound) { bound <- b }
	restore := unsetOTEL()
	gw, err := gateway.New(opts)
	restore()
	if err != nil {
		return err
	}
	// The gateway outlives ctx, so that it is stopped in order, before its
	// upstreams.
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	watch := config.Watch(run, in, loaded, log, func() { gw.ReloadLogged(run, "file changed") })
	ended := make(chan error, 1)
	go func() { ended <- gw.Run(run) }()
	select {
	case list := <-bound:
		w.note(list)
		w.onClose(func() error { stop(); <-watch; return <-ended })
		return nil
	case err := <-ended:
		stop()
		<-watch
		return err
	}
}

// unsetOTEL takes the OTEL_* variables away until restore is called: with them
// the tour's metrics could go to a real receiver.
func unsetOTEL() (restore func()) {
	kept := map[string]string{}
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OTEL_") {
			kept[name] = value
			os.Unsetenv(name)
		}
	}
	return func() {
		for name, value := range kept {
			os.Setenv(name, value)
		}
	}
}

func (w *world) note(list []gateway.Bound) {
	for _, b := range list {
		switch b.Name {
		case "proxy":
			w.proxy = b.Address.String()
		case "router":
			w.router = b.Address.String()
		default:
			w.admin = b.Address.String()
		}
	}
}

func (w *world) places() *Places {
	return &Places{
		Proxy: w.proxy, Router: w.router, Admin: w.admin, HTTPS: w.https.port, HTTP: w.http.port,
		CACert: w.caFile, Config: w.config, Journal: w.journal,
	}
}

// records reads the journal as it is on disk now.
func (w *world) records() (list []audit.Record) {
	files, err := audit.Files(w.journal)
	if err != nil {
		return nil
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			var r audit.Record
			if json.Unmarshal(line, &r) == nil { // the last line may be under way
				list = append(list, r)
			}
		}
	}
	return list
}

// denials are the records of denied flows.
func (w *world) denials() (list []audit.Record) {
	for _, r := range w.records() {
		if r.Event == audit.EventDecision && r.Denied() {
			list = append(list, r)
		}
	}
	return list
}
