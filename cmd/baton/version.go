package main

import (
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/migrations"
)

// build is what is known of this binary.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	Schema  int    `json:"schema"` // that it was written for
}

func thisBuild() build {
	b := build{Version: "devel", Go: runtime.Version(), Schema: migrations.Version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Commit = s.Value
		}
	}
	return b
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which build this is, and for which schema", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := thisBuild()
			return show(cmd, b, func(w io.Writer) {
				row(w, "baton", b.Version)
				row(w, "commit", b.Commit)
				row(w, "go", b.Go)
				row(w, "schema", b.Schema)
			})
		},
	}
}
