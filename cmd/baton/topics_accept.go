package main

import (
	"context"
	"errors"
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
		Use: "accept TOPIC --reason …", Short: "Let relays write a topic whose partition count has changed", Args: exactly(1),
		Long: "A topic whose partition count has changed is stopped, since its records would be in two partitions each. Consume\n" +
			"everything that is in it, then accept the count that it has now; relays go on within ten seconds.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usageError{errors.New("--reason is missing: it goes into the audit, as in --reason 'ticket 4711'")}
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
