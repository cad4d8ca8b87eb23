// Command standin stands for the gateway in tests of the image that need a
// program for several platforms, quickly.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	if len(os.Args) != 2 || os.Args[1] != "version" {
		os.Exit(2)
	}
	fmt.Println("standin", runtime.GOARCH, os.Getuid())
}
