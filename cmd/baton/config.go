package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newConfig() *cobra.Command {
	return group("config", "Look at the configuration", &cobra.Command{
		Use: "show", Short: "List every variable, its value and where that is from; secrets are hidden", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, mistakes := load()
			fields := c.Fields()
			err := show(cmd, fields, func(w io.Writer) {
				row(w, "VARIABLE", "VALUE", "FROM", "WHAT IT IS")
				for _, f := range fields {
					row(w, f.Name, f.Value, f.From, f.Is)
				}
			})
			if err != nil {
				return err
			}
			return mistakes
		},
	})
}
