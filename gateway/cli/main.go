// Package cli holds the commands of the sluice program.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes of every command.
const (
	exitOK    = 0
	exitFail  = 1 // it failed, or the answer is no
	exitUsage = 2 // the command line or the configuration is wrong: to try again is no use
)

// System returns the process's own environment.
func System() Env {
	return Env{Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}
}

// Env is all that commands may take from the process, so that tests can run
// them inside their own.
type Env struct {
	Args    []string // without the program's name
	Environ []string
	Stdout  io.Writer
	Stderr  io.Writer
	Context context.Context // ends the command, as SIGTERM does; nil: none
}

// getenv returns the value of a variable of the Env.
func (e *Env) getenv(name string) string {
	value := ""
	for _, kv := range e.Environ {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			value = v
		}
	}
	return value
}

// silentError ends a command with an exit code; what there is to say was
// said already.
type silentError struct{ code int }

func (e *silentError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// usageError is a mistake in the command line.
type usageError struct {
	err error
	cmd string // whose help helps
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// configError is a mistake in the configuration.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

// Main runs a command and returns its exit code: 0 fine, 1 failed or denied,
// 2 wrong command line or configuration.
func Main(env Env) int {
	if env.Context == nil {
		env.Context = context.Background()
	}
	ctx, stop := signal.NotifyContext(env.Context, syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := root(&env).ExecuteContext(ctx)
	var silent *silentError
	var usage *usageError
	var conf *configError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &usage):
		sub := strings.TrimPrefix(usage.cmd, "sluice")
		say(env.Stderr, fmt.Sprintf("%v\nhint: `sluice%s --help` says how it is used", err, sub))
		return exitUsage
	case errors.As(err, &conf):
		say(env.Stderr, err.Error())
		return exitUsage
	}
	say(env.Stderr, err.Error())
	return exitFail
}

// say writes lines to the operator.
func say(w io.Writer, text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		fmt.Fprintf(w, "sluice: %s", line)
	}
}

func root(env *Env) *cobra.Command {
	run := runCommand(env)
	cmd := &cobra.Command{
		Use:   "sluice",
		Short: "An egress gateway: nothing leaves unless a rule names it",
		Long: `Sluice is an egress proxy gateway with domain allowlisting. Nothing leaves
unless a rule names it; what is refused gets a clear answer, and is recorded
with its name, its source and the reason.

Without a command, sluice runs the gateway; without --config, on its embedded
default: an explicit proxy on 127.0.0.1:3128.

Exit code 0: fine, 1: it failed or the answer is no, 2: the command line or the
configuration is wrong.`,
		Example: `  sluice                                   run on the embedded default
  sluice run --config config.yaml          run on a file
  sluice check config.yaml                 is the file right?
  sluice explain hlg.tokbox.com            may this leave, and why?
  sluice services                          which services can a policy name?
  sluice demo                              a tour that needs no network`,
		Args:          noSuchCommand,
		RunE:          run.RunE,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.Flags().AddFlagSet(run.Flags())
	cmd.SetArgs(env.Args)
	cmd.SetOut(env.Stdout)
	cmd.SetErr(env.Stderr)
	cmd.SuggestionsMinimumDistance = 2
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(run, demoCommand(env), checkCommand(env), explainCommand(env), servicesCommand(env), versionCommand(env))
	markUsage(cmd)
	return cmd
}

// noSuchCommand is the answer of the root command to any argument.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown command %q; did you mean %q?", args[0], near[0])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// arguments is cobra.RangeArgs, in words of our own: what is missing, or what
// to write instead.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return errors.New(what)
		case len(args) > most && what != "":
			return fmt.Errorf("%q is one argument too many; %s", args[most], what)
		case len(args) > most:
			return fmt.Errorf("%q is one argument too many", args[most])
		}
		return nil
	}
}

// markUsage makes mistakes in flags and arguments usage errors.
func markUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{err, c.CommandPath()} })
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, a []string) error {
			if err := args(c, a); err != nil {
				return &usageError{err, c.CommandPath()}
			}
			return nil
		}
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, a []string) error {
			err := run(c, a)
			if usage := (*usageError)(nil); errors.As(err, &usage) && usage.cmd == "" {
				usage.cmd = c.CommandPath()
			}
			return err
		}
	}
	for _, sub := range cmd.Commands() {
		markUsage(sub)
	}
}

// Version is set by packagers at link time; else it is that of the module.
var Version string

func version() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") && len(s.Value) >= 12 {
			v = "devel-" + s.Value[:12]
		}
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	return v
}
