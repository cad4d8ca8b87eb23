package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"sluice/gateway/admin"
	"sluice/gateway/config"
	"sluice/policy"
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
with what it wants. Nothing is looked up in DNS: an address that the name
resolves to can still be refused. Exit code 0: allowed, 1: denied, 2: wrong
question or configuration.`,
		Example: "  sluice explain hlg.tokbox.com\n  sluice explain --config config.yaml smtp.example.com:587 --from 10.2.0.7 --app smtp",
		Args:    arguments(1, 1, "say which host, such as hlg.tokbox.com or smtp.example.com:587"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			q.Host = args[0]
			query, err := admin.ParseQuestion(q, time.Now())
			if err != nil {
				return &usageError{err: err}
			}
			loaded, err := config.Load(in.input(env))
			if err != nil {
				return &configError{err}
			}
			p, err := loaded.Compile(time.Now())
			if err != nil {
				return &configError{err}
			}
			ex := p.Explain(&query)
			if format == "json" {
				err = writeJSON(env.Stdout, ex)
			} else {
				renderExplanation(env.Stdout, &ex, &query)
			}
			if err == nil && !ex.Allow {
				err = &silentError{exitFail}
			}
			return err
		},
	}
	in.addPolicy(cmd)
	outputFlag(cmd, &format)
	f := cmd.Flags()
	f.StringVar(&q.Port, "port", "", "destination port (default 443)")
	f.StringVar(&q.From, "from", "", "address of the client")
	f.StringVar(&q.Proto, "proto", "tcp", "tcp or udp")
	f.StringVar(&q.App, "app", "", "what the first bytes show: tls, tls-no-name, http, stun, opaque, silent")
	f.StringVar(&q.User, "user", "", "name of the user")
	return cmd
}

// renderExplanation prints the answer first, then what led to it.
func renderExplanation(w io.Writer, ex *policy.Explanation, q *policy.Query) {
	host := ex.Host
	if host == "" {
		host = ex.Address
	}
	verdict := "DENIED"
	switch {
	case ex.WouldDeny:
		verdict = fmt.Sprintf("ALLOWED (mode %s; would be denied)", ex.Mode)
	case ex.Allow:
		verdict = "ALLOWED"
	}
	if host == "" {
		fmt.Fprintf(w, "%q: %s\n", ex.Query, verdict)
	} else {
		fmt.Fprintf(w, "%s port %d: %s\n", host, q.Port, verdict)
	}
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	if ex.Reason != "" {
		row("reason", "%s", ex.Reason)
	}
	if ex.Detail != "" {
		row("detail", "%s", ex.Detail)
	}
	row("policy", "revision %s", ex.Revision)
	if ex.Next != nil {
		row("changes", "%s", ex.Next.Format(time.RFC3339))
	}
	for i := range ex.Named {
		renderNamed(w, &ex.Named[i])
	}
	if len(ex.Named) == 0 && host != "" {
		fmt.Fprintf(w, "  no rule names it\n")
	}
}

func renderNamed(w io.Writer, n *policy.NamedBy) {
	mark := " "
	if n.Decides {
		mark = "*"
	}
	does := "allows"
	if n.Action == "deny" {
		does = "denies"
	}
	fmt.Fprintf(w, "%s rule %q %s %s (%s)", mark, n.Rule, does, n.Pattern, n.Words)
	if n.File != "" {
		fmt.Fprintf(w, " at %s:%d", n.File, n.Line)
	}
	fmt.Fprintln(w)
	if n.Owner != "" {
		fmt.Fprintf(w, "    owner %s\n", n.Owner)
	}
	if !n.Matches {
		fmt.Fprintf(w, "    does not apply: %s: %s\n", n.Reason, n.Detail)
	}
	if n.MultiTenant {
		fmt.Fprintf(w, "    note: the name serves many customers; allowing it is not allowing only yours\n")
	}
}
