// Sluice is a transparent egress proxy gateway with domain allowlisting:
// nothing leaves unless a rule names it.
package main

import (
	"os"
	_ "time/tzdata" // time windows of rules name zones; a container may have no list of them

	"sluice/gateway/cli"
)

func main() {
	os.Exit(cli.Main(cli.System()))
}
