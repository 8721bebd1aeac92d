package main

import (
	"math/rand/v2"
	"os"

	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/demo"
)

func newDemo() *cobra.Command {
	opts := demo.Options{Kafka: os.Getenv("KAFKA"), Seed: rand.Uint64N(1_000_000)}
	cmd := &cobra.Command{
		Use: "demo", Short: "Show the whole way on this machine: write, kill a relay, read back, judge", Args: exactly(0),
		Long: "Starts PostgreSQL, Kafka, an order service and three relays as child processes, writes a few thousand\n" +
			"events, kills one relay with work in hand, reads the topics back and compares. KAFKA=real or KAFKA=sim\n" +
			"decides which broker; without it a real one is taken where Java and Maven are. The exit status follows\n" +
			"the verdict.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Out = cmd.OutOrStdout()
			return demo.Run(cmd.Context(), opts)
		},
	}
	cmd.Flags().Uint64Var(&opts.Seed, "seed", opts.Seed, "of what is written")
	cmd.Flags().IntVar(&opts.Events, "events", 6000, "events to write, about")
	return cmd
}
