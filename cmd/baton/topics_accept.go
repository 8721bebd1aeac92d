package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

// accepted is what topics accept did, for programs.
type accepted struct {
	Topic  string `json:"topic"`
	Before int32  `json:"before"` // 0: none was stored
	Now    int32  `json:"now"`
	Reason string `json:"reason"`
}

func newTopicsAccept() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "accept TOPIC --reason …", Args: exactly(1),
		Short: "Let relays write a topic whose partition count has changed",
		Long: "A topic whose partition count has changed is stopped, since its records would be in two partitions each.\n" +
			"Consume everything that is in it, then accept the count that it has now; relays go on within ten seconds.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return errNoReason
			}
			c, err := load(config.Database, config.Kafka)
			if err != nil {
				return err
			}
			return withOperator(cmd, func(ctx context.Context, o *outbox.Operator) error {
				reports, err := publisher.Check(ctx, c.Publisher(), args)
				if err != nil {
					return err
				}
				a := accepted{Topic: args[0], Now: reports[0].Partitions, Reason: reason}
				if a.Before, err = o.AcceptTopic(ctx, a.Topic, a.Now, reason); err != nil {
					return err
				}
				return show(cmd, a, func(w io.Writer) {
					fmt.Fprintf(w, "%s: %d partitions, were %d\n", a.Topic, a.Now, a.Before)
				})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	return cmd
}
