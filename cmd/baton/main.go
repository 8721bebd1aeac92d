// Command baton is the relay, and what surrounds it: migrations, topics, the operator's verbs, the demo.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/IBM/sarama"
	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/internal/database"
	"github.com/batonrelay/baton/internal/demo"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

// Exit codes. They are a contract with scripts.
const (
	exitUnexpected  = 1
	exitUsage       = 2 // arguments or environment
	exitUnreachable = 3 // database or brokers
	exitNotFound    = 4
	exitRefused     = 5
	exitProblem     = 6 // a check found something
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal drains; the second one kills
	err := newRoot().ExecuteContext(ctx)
	code := exitCode(ctx, err)
	switch code {
	case 0:
	case exitInterrupted:
		fmt.Fprintln(os.Stderr, "baton: interrupted")
	default:
		fmt.Fprintln(os.Stderr, "baton:", err)
	}
	os.Exit(code)
}

// usageError is a mistake in the arguments.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errPending: migrations of this build are not applied.
var errPending = errors.New("migrations are missing: run baton migrate up")

func exitCode(ctx context.Context, err error) int {
	var (
		mistakes *config.Error
		usage    usageError
		missing  *publisher.MissingError
		db       *database.Error
	)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	case errors.As(err, &usage), errors.As(err, &mistakes), errors.Is(err, outbox.ErrNoRecord):
		return exitUsage
	case errors.Is(err, outbox.ErrNoWork):
		return exitNotFound
	case errors.Is(err, migrations.ErrRefused):
		return exitRefused
	case errors.Is(err, database.ErrUnfit), errors.Is(err, demo.ErrBroken), errors.Is(err, errPending),
		errors.Is(err, migrations.ErrNotMigrated), errors.Is(err, outbox.ErrNotMigrated), errors.As(err, &missing):
		return exitProblem
	case errors.As(err, &db) && (db.Connect || db.Away), errors.Is(err, migrations.ErrConnect),
		errors.Is(err, sarama.ErrOutOfBrokers):
		return exitUnreachable
	}
	return exitUnexpected
}

func newRoot() *cobra.Command {
	root := group("baton", "Carries events from PostgreSQL to Kafka, in order, across instances that die",
		newRelay(), newMigrate(), newTopics(), newStatus(), newPark(), newUnpark(), newSkip(),
		newConfig(), newVersion(), newDemo())
	root.Long = "Baton carries the events of a transactional outbox from PostgreSQL to Kafka: at least once, in order\n" +
		"for each record, from any number of instances.\n" +
		"It is configured by the environment alone: see baton config show."
	root.SilenceUsage, root.SilenceErrors = true, true
	root.PersistentFlags().StringP("output", "o", "text", "form of what is printed: text or json")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if form := cmd.Flag("output").Value.String(); form != "text" && form != "json" {
			return usageError{fmt.Errorf("--output is %q, it must be text or json", form)}
		}
		return nil
	}
	return root
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	parent := &cobra.Command{Use: use, Short: short, Args: func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		text := fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0])
		for _, s := range cmd.SuggestionsFor(args[0]) {
			text += fmt.Sprintf(": is %q meant?", s)
		}
		return usageError{fmt.Errorf("%s: see %s --help", text, cmd.CommandPath())}
	}}
	parent.SuggestionsMinimumDistance = 2
	parent.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	parent.AddCommand(commands...)
	return parent
}

// exactly is cobra's ExactArgs with an exit code of its own.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w: usage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

// load reads the environment and says on standard error what in it looks like a slip.
func load(needs ...config.Need) (config.Config, error) {
	c, err := config.Load(os.Environ(), needs...)
	for _, w := range c.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	return c, err
}
