package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"sluice/policy/catalog"
)

func servicesCommand(env *Env) *cobra.Command {
	var format string
	list := &cobra.Command{
		Use:   "services",
		Short: "List the built-in services that a policy can name",
		Long: `List the built-in services: named presets of rules for the systems that run
through an egress gateway. A policy names one with

  policy:
    services: [vonage-video, {name: coturn, params: {turn_host: turn.corp.example}}]`,
		Args: arguments(0, 0, "for one of them use `sluice services show`"),
		RunE: func(*cobra.Command, []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			services := catalog.Builtin().Services()
			if format == "json" {
				return writeJSON(env.Stdout, services)
			}
			return catalog.RenderList(env.Stdout, services)
		},
	}
	outputFlag(list, &format)
	show := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show what a service opens, with its sources and parameters",
		Example: "  sluice services show vonage-video",
		Args:    arguments(1, 1, "say which service; `sluice services` lists them"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			s, err := catalog.Builtin().Get(args[0])
			if err != nil {
				return fmt.Errorf("%w\nhint: `sluice services` lists them all", err)
			}
			if format == "json" {
				return writeJSON(env.Stdout, s)
			}
			return catalog.Render(env.Stdout, s)
		},
	}
	outputFlag(show, &format)
	list.AddCommand(show)
	return list
}
