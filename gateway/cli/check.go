package cli

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"sluice/gateway/config"
)

func checkCommand(env *Env) *cobra.Command {
	var format string
	var strict, schema bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration, and say what is wrong or odd in it",
		Long: `Check a configuration with all that it includes: every error with its file,
line and what to write instead; then warnings, such as rules that can never
match. Without FILE that of $SLUICE_CONFIG is checked, else the embedded
default. SLUICE_* variables count, as they do for run. Exit code 0: fine,
1: not.`,
		Example: "  sluice check config.yaml\n  sluice check --schema > sluice.schema.json   # for editors",
		Args:    arguments(0, 1, ""),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			if schema {
				_, err := env.Stdout.Write(config.Schema)
				return err
			}
			path := env.getenv("SLUICE_CONFIG")
			if len(args) > 0 {
				path = args[0]
			}
			return checkConfig(env, path, format, strict)
		},
	}
	outputFlag(cmd, &format)
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings fail too")
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of the file instead")
	return cmd
}

// checkReport is the answer of `check --output json`.
type checkReport struct {
	File     string   `json:"file"`
	OK       bool     `json:"ok"`
	Revision string   `json:"revision,omitempty"`
	Mode     string   `json:"mode,omitempty"`
	Rules    int      `json:"rules"`
	Patterns int      `json:"patterns"`
	Errors   []string `json:"errors"`
	Warnings []string `json:"warnings"`
}

func checkConfig(env *Env, path, format string, strict bool) error {
	rep := checkReport{File: path, Errors: []string{}, Warnings: []string{}}
	if path == "" {
		rep.File = config.EmbeddedName
	}
	loaded, err := config.Load(config.Input{Path: path, Environ: env.Environ})
	if err == nil {
		opts, buildErr := config.Options(loaded, slog.New(slog.DiscardHandler))
		err = buildErr
		if err == nil {
			p := opts.Policy
			rep.Revision, rep.Mode, rep.Rules, rep.Patterns = p.Revision(), p.Mode().String(), len(p.Rules()), p.Patterns()
			for _, w := range p.Warnings() {
				rep.Warnings = append(rep.Warnings, w.String())
			}
		}
	}
	if err != nil {
		rep.Errors = strings.Split(err.Error(), "\n")
	}
	rep.OK = err == nil && !(strict && len(rep.Warnings) > 0)
	if format == "json" {
		if err := writeJSON(env.Stdout, rep); err != nil {
			return err
		}
	} else {
		printCheck(env, &rep)
	}
	if !rep.OK {
		return &silentError{exitFail}
	}
	return nil
}

func printCheck(env *Env, rep *checkReport) {
	for _, e := range rep.Errors {
		fmt.Fprintf(env.Stderr, "error: %s\n", e)
	}
	for _, w := range rep.Warnings {
		fmt.Fprintf(env.Stderr, "warning: %s\n", w)
	}
	if len(rep.Errors) > 0 {
		fmt.Fprintf(env.Stderr, "%s: not in order: %s\n", rep.File, count(len(rep.Errors), "error"))
		return
	}
	if !rep.OK {
		fmt.Fprintf(env.Stderr, "%s: not in order: %s, and --strict\n", rep.File, count(len(rep.Warnings), "warning"))
		return
	}
	fmt.Fprintf(env.Stdout, "%s: in order: mode %s, %s, %s, %s, revision %s\n", rep.File, rep.Mode,
		count(rep.Patterns, "pattern"), count(rep.Rules, "rule"), count(len(rep.Warnings), "warning"), rep.Revision)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
