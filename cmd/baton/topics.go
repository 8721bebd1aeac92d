package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/publisher"
)

const topicsTimeout = 30 * time.Second

func newTopics() *cobra.Command {
	return group("topics", "Create the topics that events go to, and look at them",
		newTopicsEnsure(), newTopicsCheck(), newTopicsAccept())
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
			return withTopics(cmd, args, func(ctx context.Context, c publisher.Config, topics []string) (topicReports, error) {
				specs := make([]publisher.TopicSpec, len(topics))
				for i, t := range topics {
					specs[i] = publisher.TopicSpec{Name: t, Partitions: partitions, ReplicationFactor: replication}
				}
				return publisher.Ensure(ctx, c, specs)
			})
		},
	}
	cmd.Flags().Int32Var(&partitions, "partitions", 8,
		"partitions of a topic that is created; this can never be changed without moving records")
	cmd.Flags().Int16Var(&replication, "replication-factor", -1,
		"replicas of a topic that is created; -1 is the brokers' default")
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

type topicReports = []publisher.TopicReport

// withTopics does something about the topics of the configuration and the arguments, and shows the reports.
func withTopics(cmd *cobra.Command, args []string,
	do func(context.Context, publisher.Config, []string) (topicReports, error)) error {
	c, err := load(config.Kafka)
	if err != nil {
		return err
	}
	p := c.Publisher()
	topics := slices.Compact(slices.Sorted(slices.Values(append(p.Routes.Topics(), args...))))
	if len(topics) == 0 {
		return usageError{errors.New("no topic: name some, as in baton topics check shop.order.events, " +
			"or list record types in BATON_ROUTES or BATON_ALLOW")}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), topicsTimeout)
	defer cancel()
	reports, err := do(ctx, p, topics)
	if len(reports) > 0 {
		if err := showTopics(cmd, reports); err != nil {
			return err
		}
	}
	if err != nil && ctx.Err() != nil && cmd.Context().Err() == nil {
		return fmt.Errorf("%w: %w", sarama.ErrOutOfBrokers, err) // nobody answered in time
	}
	return err
}

// topic is a report for programs.
type topic struct {
	Name              string   `json:"name"`
	Created           bool     `json:"created"`
	Partitions        int32    `json:"partitions"`
	ReplicationFactor int16    `json:"replication_factor"`
	MinInSyncReplicas int      `json:"min_in_sync_replicas"`
	UncleanElection   bool     `json:"unclean_election"`
	CleanupPolicy     string   `json:"cleanup_policy"`
	MaxMessageBytes   int      `json:"max_message_bytes"`
	Warnings          []string `json:"warnings"`
}

// showTopics prints a table, and its warnings apart from it.
func showTopics(cmd *cobra.Command, reports []publisher.TopicReport) error {
	list := make([]topic, len(reports))
	for i, r := range reports {
		list[i] = topic(r)
	}
	return show(cmd, list, func(w io.Writer) {
		row(w, "TOPIC", "PARTITIONS", "REPLICAS", "MIN ISR", "MAX BYTES")
		for _, t := range list {
			cells := []any{t.Name, t.Partitions, t.ReplicationFactor, t.MinInSyncReplicas, t.MaxMessageBytes}
			if t.Created {
				cells = append(cells, "created")
			}
			row(w, cells...)
			for _, warning := range t.Warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: topic %s: %s\n", t.Name, warning)
			}
		}
	})
}
