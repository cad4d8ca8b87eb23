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
	exitUsage = 2
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
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

// Main runs a command and returns its exit code: 0 fine, 1 failed or denied,
// 2 usage.
func Main(env Env) int {
	if env.Context == nil {
		env.Context = context.Background()
	}
	ctx, stop := signal.NotifyContext(env.Context, syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := root(&env).ExecuteContext(ctx)
	var silent *silentError
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &usage):
		fmt.Fprintf(env.Stderr, "sluice: %v\nsluice: hint: `sluice help` lists the commands and flags\n", err)
		return exitUsage
	}
	for line := range strings.Lines(strings.TrimRight(err.Error(), "\n") + "\n") {
		fmt.Fprintf(env.Stderr, "sluice: %s", line)
	}
	return exitFail
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
default: an explicit proxy on 127.0.0.1:3128.`,
		Example: `  sluice                                   run on the embedded default
  sluice run --config config.yaml          run on a file
  sluice check config.yaml                 is the file right?
  sluice explain hlg.tokbox.com            may this leave, and why?
  sluice demo                              a tour that needs no network`,
		Args:          cobra.NoArgs,
		RunE:          run.RunE,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.Flags().AddFlagSet(run.Flags())
	cmd.SetArgs(env.Args)
	cmd.SetOut(env.Stdout)
	cmd.SetErr(env.Stderr)
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(run, demoCommand(env), checkCommand(env), explainCommand(env), servicesCommand(env), versionCommand(env))
	markUsage(cmd)
	return cmd
}

// markUsage makes mistakes in flags and arguments usage errors.
func markUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, a []string) error {
			if err := args(c, a); err != nil {
				return &usageError{fmt.Errorf("%w\n%s", err, strings.TrimRight(c.UseLine(), "\n"))}
			}
			return nil
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
