package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/internal/database"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/publisher"
)

func newMigrate() *cobra.Command {
	return group("migrate", "Bring the outbox into the database, and see how far it is",
		newMigrateUp(), newMigrateStatus(), newMigrateGrants())
}

func newMigrateUp() *cobra.Command {
	var accept bool
	cmd := &cobra.Command{
		Use: "up", Short: "Apply what is missing; safe while relays run, and to run again", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(config.Database)
			if err != nil {
				return err
			}
			opts := migrations.Options{Schema: c.Schema, Source: c.Source, Accept: accept}
			if len(c.KafkaBrokers) > 0 {
				opts.KafkaClusterID = clusterID(cmd.Context(), cmd.ErrOrStderr(), c)
			}
			if err := migrations.Up(cmd.Context(), c.Direct(), opts); err != nil {
				return explained(err)
			}
			return showMigrations(cmd, c)
		},
	}
	cmd.Flags().BoolVar(&accept, "accept", false,
		"this database is a copy that shall publish: take its system identifier, BATON_SOURCE and Kafka over")
	return cmd
}

// clusterID asks Kafka for its name. Brokers that are away are no reason not to migrate: the first relay
// stores it then.
func clusterID(ctx context.Context, stderr io.Writer, c config.Config) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	id, err := publisher.ClusterID(ctx, c.Publisher())
	if err != nil {
		fmt.Fprintf(stderr, "warning: Kafka's cluster id is not stored now, the first relay will store it: %v\n", err)
	}
	return id
}

func newMigrateStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "List the migrations, and which are applied", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(config.Database)
			if err != nil {
				return err
			}
			return showMigrations(cmd, c)
		},
	}
}

func showMigrations(cmd *cobra.Command, c config.Config) error {
	list, err := migrations.Status(cmd.Context(), c.Direct(), migrations.Options{Schema: c.Schema})
	if err != nil {
		return explained(err)
	}
	err = show(cmd, list, func(w io.Writer) {
		for _, m := range list {
			state := "missing"
			if m.Done {
				state = "applied"
			}
			row(w, m.Name, state)
		}
	})
	missing := func(m migrations.Applied) bool { return !m.Done }
	if err == nil && slices.ContainsFunc(list, missing) {
		return errPending
	}
	return err
}

// explained says what an error of connecting means; the migrations' other errors speak for themselves.
func explained(err error) error {
	if errors.Is(err, migrations.ErrConnect) {
		return database.Explain(err)
	}
	return err
}

func newMigrateGrants() *cobra.Command {
	var (
		writer, relay string
		apply         bool
	)
	cmd := &cobra.Command{
		Use: "grants", Short: "Print, or apply, the least rights that a writer's and a relay's role need", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if writer == "" && relay == "" {
				return usageError{fmt.Errorf("name a role: --writer ROLE, --relay ROLE or both")}
			}
			c, err := load(config.Database)
			if err != nil {
				return err
			}
			grants, err := migrations.Grants(c.Schema, writer, relay)
			if err != nil {
				return err
			}
			if apply {
				if err := migrations.Grant(cmd.Context(), c.Direct(), c.Schema, writer, relay); err != nil {
					return database.Explain(err)
				}
				fmt.Fprintln(cmd.ErrOrStderr(), "applied; to see what they are, run it without --apply")
				return nil
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), grants)
			return err
		},
	}
	cmd.Flags().StringVar(&writer, "writer", "", "role of the application, which writes events")
	cmd.Flags().StringVar(&relay, "relay", "", "role of the relays and of operators")
	cmd.Flags().BoolVar(&apply, "apply", false, "apply them instead of printing them")
	return cmd
}
