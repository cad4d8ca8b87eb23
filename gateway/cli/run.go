package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"sluice/gateway"
	"sluice/gateway/config"
	"sluice/gateway/flow"
	"sluice/policy"
)

func runCommand(env *Env) *cobra.Command {
	var in configFlags
	var quiet bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway (also without a command)",
		Long: `Run the gateway until SIGTERM or SIGINT, which let live flows end within
limits.drain_timeout; a second signal stops at once. SIGHUP reads the policy
again, as does a change of the file. A broken policy, and one that suddenly
allows nothing at all, leave the last good one in force. SIGUSR1 begins a new
journal file.

Every key of the file that is one value can be set by a variable, such as
SLUICE_POLICY_MODE=report or SLUICE_ADMIN_ADDRESS=127.0.0.1:9128.`,
		Args: arguments(0, 0, "name a file by --config"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runGateway(cmd.Context(), env, &in, quiet)
		},
	}
	in.add(cmd)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not print what listens and what to try")
	return cmd
}

// configFlags are the flags that say which configuration is meant.
type configFlags struct {
	path, listen, admin, mode, logLevel, logFormat string
}

// addPolicy adds those that a question about the policy needs.
func (c *configFlags) addPolicy(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&c.path, "config", "c", "", "configuration file (or $SLUICE_CONFIG); none: the embedded default")
	f.StringVar(&c.mode, "mode", "", "enforce, report or open, instead of the file's")
}

func (c *configFlags) add(cmd *cobra.Command) {
	c.addPolicy(cmd)
	f := cmd.Flags()
	f.StringVar(&c.listen, "listen", "", "address of the proxy listener, instead of the file's")
	f.StringVar(&c.admin, "admin", "", "address of the admin listener, instead of the file's")
	f.StringVar(&c.logLevel, "log-level", "", "debug, info, warn or error")
	f.StringVar(&c.logFormat, "log-format", "", "text or json")
}

// input is the configuration that the flags and the environment ask for.
func (c *configFlags) input(env *Env) config.Input {
	in := config.Input{Path: c.path, Environ: env.Environ, Set: map[string]string{}, ListenAddress: c.listen}
	if in.Path == "" {
		in.Path = env.getenv("SLUICE_CONFIG")
	}
	for key, value := range map[string]string{"admin.address": c.admin, "policy.mode": c.mode, "log.level": c.logLevel, "log.format": c.logFormat} {
		if value != "" {
			in.Set[key] = value
		}
	}
	return in
}

func runGateway(ctx context.Context, env *Env, flags *configFlags, quiet bool) error {
	in := flags.input(env)
	level := new(slog.LevelVar)
	loaded, err := config.Load(in)
	if err != nil {
		return &configError{err}
	}
	log := newLogger(env.Stderr, loaded.File.Log, level)
	opts, err := config.Options(loaded, log)
	if err != nil {
		return &configError{err}
	}
	opts.Version = version()
	opts.Telemetry.ServiceVersion = opts.Version
	opts.Load = config.Reloader(in, loaded)
	for _, w := range opts.Policy.Warnings() {
		level := slog.LevelWarn
		if w.Kind == policy.KindMultiTenant {
			level = slog.LevelInfo // worth knowing, and nothing to mend
		}
		log.Log(ctx, level, "policy", "warning", w.String())
	}
	opts.Opened = func(bound []gateway.Bound) {
		if !quiet {
			greet(env.Stdout, opts, bound)
		}
		daemon.SdNotify(false, daemon.SdNotifyReady)
	}
	gw, err := gateway.New(opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := config.Watch(ctx, in, loaded, log, func() { gw.ReloadLogged(ctx, "file changed") })
	defer func() { cancel(); <-watch }()
	stopSignals := onSignals(ctx, gw, log)
	defer stopSignals()
	floor := make([]byte, heapFloor)
	stopping := context.AfterFunc(ctx, func() { daemon.SdNotify(false, daemon.SdNotifyStopping) })
	defer stopping()
	err = gw.Run(ctx)
	runtime.KeepAlive(floor)
	return err
}

// heapFloor is memory that is never touched, and so costs none. It lets the
// garbage of short flows add up to as much before it is collected: the live
// heap is a few megabytes, and would be walked for every few hundred flows.
// GOGC and GOMEMLIMIT hold as ever.
const heapFloor = 16 << 20

// onSignals reloads on SIGHUP, reopens the journal on SIGUSR1, and cuts live
// flows on the second SIGTERM or SIGINT. The first of those ends the context
// of the command.
func onSignals(ctx context.Context, gw *gateway.Gateway, log *slog.Logger) (stop func()) {
	ch, ends := make(chan os.Signal, 4), make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGHUP, syscall.SIGUSR1)
	signal.Notify(ends, syscall.SIGTERM, os.Interrupt)
	done := make(chan struct{})
	// Not one goroutine: a signal to end must not wait for a reload.
	go func() {
		for n := 1; ; n++ {
			select {
			case <-done:
				return
			case <-ends:
				if n == 2 {
					log.Warn("second signal: cutting live flows")
					gw.Abort()
				}
			}
		}
	}()
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-ch:
				if s == syscall.SIGUSR1 {
					gw.ReopenJournal()
					continue
				}
				daemon.SdNotify(false, daemon.SdNotifyReloading)
				gw.ReloadLogged(ctx, "SIGHUP")
				daemon.SdNotify(false, daemon.SdNotifyReady)
			}
		}
	}()
	return func() { signal.Stop(ch); signal.Stop(ends); close(done) }
}

func newLogger(w io.Writer, l config.Log, level *slog.LevelVar) *slog.Logger {
	level.UnmarshalText([]byte(l.Level)) // checked by config.Options
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// greet prints what listens, which policy is in force, and what to try.
func greet(w io.Writer, o gateway.Options, bound []gateway.Bound) {
	fmt.Fprintf(w, "sluice %s\n", o.Version)
	for _, b := range bound {
		if len(b.Doors) == 0 {
			fmt.Fprintf(w, "  admin   %s://%s\n", webScheme(b.TLS), b.Address)
			continue
		}
		words := make([]string, len(b.Doors))
		for i, d := range b.Doors {
			words[i] = string(d)
		}
		secure := ""
		if b.TLS {
			secure = " over TLS"
		}
		fmt.Fprintf(w, "  listen  %-10s %s  (%s%s)\n", b.Name, b.Address, strings.Join(words, ", "), secure)
	}
	for _, b := range bound {
		if b.Trust != "" {
			fmt.Fprintf(w, "  trust   %s  (clients of %s need it)\n", b.Trust, b.Name)
		}
	}
	p := o.Policy
	fmt.Fprintf(w, "  policy  %s, %s: %s in %s, revision %s\n", o.Loaded, p.Mode(), count(p.Patterns(), "pattern"), count(len(p.Rules()), "rule"), p.Revision())
	if o.Journal != nil {
		fmt.Fprintf(w, "  audit   %s\n", o.Journal.Dir)
	}
	for _, b := range bound {
		if try := tryLine(b); try != "" {
			fmt.Fprintf(w, "try\n%s", try)
			break
		}
	}
	fmt.Fprintf(w, "  sluice explain hlg.tokbox.com\n")
}

// tryLine returns commands that go through a listener, one allowed by the
// embedded default and one denied by nearly every policy.
func tryLine(b gateway.Bound) string {
	addr := b.Address
	if addr.Addr().IsUnspecified() {
		addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port())
	}
	switch {
	case slices.Contains(b.Doors, flow.DoorConnect):
		return fmt.Sprintf("  curl -x %[1]s://%[2]s https://hlg.tokbox.com/\n  curl -x %[1]s://%[2]s https://example.com/     # denied: no rule names it\n", webScheme(b.TLS), addr)
	case slices.Contains(b.Doors, flow.DoorTLS):
		return fmt.Sprintf("  curl --connect-to ::%s https://hlg.tokbox.com/\n", net.JoinHostPort(addr.Addr().String(), fmt.Sprint(addr.Port())))
	}
	return ""
}

func webScheme(secure bool) string {
	if secure {
		return "https"
	}
	return "http"
}
