package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/publisher"
)

const topicsTimeout = 30 * time.Second

func newTopics() *cobra.Command {
	parent := &cobra.Command{Use: "topics", Short: "Create the topics that events go to, and look at them"}
	parent.AddCommand(newTopicsEnsure(), newTopicsCheck())
	return parent
}

func newTopicsEnsure() *cobra.Command {
	var (
		partitions  int32
		replication int16
	)
	cmd := &cobra.Command{
		Use: "ensure [TOPIC ...]", Short: "Create the topics that do not exist; those that do stay as they are",
		Long: "Creates the topics of BATON_ROUTES and BATON_ALLOW, and those named, where they do not exist.\n" +
			"A topic that exists is never changed: another partition count would move records in the middle of their lives.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withTopics(cmd, args, func(ctx context.Context, c publisher.Config, topics []string) ([]publisher.TopicReport, error) {
				specs := make([]publisher.TopicSpec, len(topics))
				for i, t := range topics {
					specs[i] = publisher.TopicSpec{Name: t, Partitions: partitions, ReplicationFactor: replication}
				}
				return publisher.Ensure(ctx, c, specs)
			})
		},
	}
	cmd.Flags().Int32Var(&partitions, "partitions", 8, "partitions of a topic that is created; this can never be changed without moving records")
	cmd.Flags().Int16Var(&replication, "replication-factor", -1, "replicas of a topic that is created; -1 is the brokers' default")
	return cmd
}

func newTopicsCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check [TOPIC ...]", Short: "Say which topics are missing, and what is dangerous about the others",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withTopics(cmd, args, publisher.Check)
		},
	}
}

// withTopics does something about the topics of the configuration and the arguments, and shows the reports.
func withTopics(cmd *cobra.Command, args []string,
	do func(context.Context, publisher.Config, []string) ([]publisher.TopicReport, error)) error {
	c, err := load(config.Kafka)
	if err != nil {
		return err
	}
	p := c.Publisher()
	topics := slices.Compact(slices.Sorted(slices.Values(append(p.Routes.Topics(), args...))))
	if len(topics) == 0 {
		return usageError{fmt.Errorf("no topic: name some, as in baton topics check shop.order.events, or list record types in BATON_ROUTES or BATON_ALLOW")}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), topicsTimeout)
	defer cancel()
	reports, err := do(ctx, p, topics)
	if len(reports) > 0 {
		if err := show(cmd, reports, func(w io.Writer) { printTopics(w, reports) }); err != nil {
			return err
		}
	}
	return err
}

func printTopics(w io.Writer, reports []publisher.TopicReport) {
	row(w, "TOPIC", "PARTITIONS", "REPLICAS", "MIN ISR", "MAX BYTES", "")
	for _, r := range reports {
		note := ""
		if r.Created {
			note = "created"
		}
		row(w, r.Name, r.Partitions, r.ReplicationFactor, r.MinInSyncReplicas, r.MaxMessageBytes, note)
	}
	for _, r := range reports {
		for _, warning := range r.Warnings {
			fmt.Fprintf(w, "warning: %s: %s\n", r.Name, strings.TrimPrefix(warning, r.Name+": "))
		}
	}
}
