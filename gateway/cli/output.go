package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// outputFlag adds --output to a command whose answer a program may read.
func outputFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "output", "o", "text", "form of the answer: text or json")
}

// checkFormat refuses an unknown --output.
func checkFormat(format string) error {
	if format != "text" && format != "json" {
		return &usageError{err: fmt.Errorf("--output %q is neither text nor json", format)}
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
