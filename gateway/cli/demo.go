package cli

import "github.com/spf13/cobra"

func demoCommand(*Env) *cobra.Command {
	return &cobra.Command{Use: "demo", Short: "A tour that needs no network", Hidden: true}
}
