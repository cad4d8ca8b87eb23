package cli

import (
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sluice/gateway/demo"
)

func demoCommand(env *Env) *cobra.Command {
	var keep bool
	var format string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "A tour that needs no network",
		Long: `Run a gateway with upstreams, DNS and an OTLP receiver of its own, all on
loopback, and send flows through it: some that a rule names, some that none
does. For each it shows what the client saw; for each denial also the audit
record and the span. Nothing leaves this machine, and nothing is left behind.
Exit code 0: every flow did what it should, 1: not.`,
		Example: "  sluice demo\n  sluice demo --keep      # and then try it by hand\n  sluice demo --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			// A terminal that is closed must not leave the files of --keep.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
			defer stop()
			rep, err := demo.Run(ctx, demo.Options{
				Out: env.Stdout, Log: env.Stderr, Version: version(), JSON: format == "json", Keep: keep,
				Color: isTerminal(env.Stdout) && env.getenv("NO_COLOR") == "" && env.getenv("TERM") != "dumb",
			})
			if err == nil && !rep.OK {
				err = &silentError{exitFail}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the gateway running afterwards, until interrupted")
	outputFlag(cmd, &format)
	return cmd
}

// isTerminal reports whether what is written to w goes to a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
