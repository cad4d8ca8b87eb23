// Sluice is a transparent egress proxy gateway with domain allowlisting:
// nothing leaves unless a rule names it.
package main

import (
	"os"

	"sluice/gateway/cli"
)

func main() {
	os.Exit(cli.Main(cli.System()))
}
