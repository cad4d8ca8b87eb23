package cli

import (
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"sluice/gateway/admin"
	"sluice/gateway/config"
)

func explainCommand(env *Env) *cobra.Command {
	var in configFlags
	var q admin.Question
	var format string
	cmd := &cobra.Command{
		Use:   "explain HOST[:PORT]",
		Short: "Say whether a destination may be reached, and which rule says so",
		Long: `Say whether the policy lets a client reach HOST, and why: the normal form of
the name, the rule that decides, and every rule that names the destination
with what it wants. Nothing is looked up in DNS. Exit code 0: allowed,
1: denied.`,
		Example: "  sluice explain hlg.tokbox.com\n  sluice explain --config config.yaml smtp.example.com:587 --from 10.2.0.7 --app smtp",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			q.Host = args[0]
			query, err := admin.ParseQuestion(q, time.Now())
			if err != nil {
				return &usageError{err}
			}
			loaded, err := config.Load(in.input(env))
			if err != nil {
				return err
			}
			opts, err := config.Options(loaded, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			ex := opts.Policy.Explain(&query)
			if format == "json" {
				err = writeJSON(env.Stdout, ex)
			} else {
				err = ex.Render(env.Stdout)
			}
			if err == nil && !ex.Decision.Allow {
				err = &silentError{exitFail}
			}
			return err
		},
	}
	in.add(cmd)
	outputFlag(cmd, &format)
	f := cmd.Flags()
	f.StringVar(&q.Port, "port", "", "destination port (default 443)")
	f.StringVar(&q.From, "from", "", "address of the client")
	f.StringVar(&q.Proto, "proto", "tcp", "tcp or udp")
	f.StringVar(&q.App, "app", "", "what the first bytes show: tls, tls-no-name, http, stun, opaque, silent")
	f.StringVar(&q.User, "user", "", "name of the user")
	return cmd
}
