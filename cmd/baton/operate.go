package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/outbox"
)

// acted is what a verb did, for programs.
type acted struct {
	Action     string `json:"action"`
	RecordType string `json:"record_type"`
	RecordKey  string `json:"record_key"`
	Position   int64  `json:"position,omitempty"`
	Reason     string `json:"reason"`
}

var errNoReason = usageError{errors.New("--reason is missing: it goes into the audit, as in --reason 'ticket 4711'")}

// verb is a command that acts on one record, with a reason for the audit.
func verb(use, short, done string,
	act func(context.Context, *outbox.Operator, outbox.Record, string) (position int64, err error)) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: use + " TYPE KEY --reason …", Short: short, Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return errNoReason
			}
			a := acted{Action: use, RecordType: args[0], RecordKey: args[1], Reason: reason}
			return withOperator(cmd, func(ctx context.Context, o *outbox.Operator) (err error) {
				if a.Position, err = act(ctx, o, outbox.Record{Type: a.RecordType, Key: a.RecordKey}, reason); err != nil {
					return err
				}
				return show(cmd, a, func(w io.Writer) {
					at := ""
					if a.Position > 0 {
						at = fmt.Sprintf(" at position %d", a.Position)
					}
					fmt.Fprintf(w, "%s %s: %s%s\n", a.RecordType, a.RecordKey, done, at)
				})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	return cmd
}

func newPark() *cobra.Command {
	return verb("park", "Stop a record where it is; its later events wait behind", "parked",
		func(ctx context.Context, o *outbox.Operator, r outbox.Record, reason string) (int64, error) {
			return 0, o.Park(ctx, r, reason)
		})
}

func newUnpark() *cobra.Command {
	cmd := verb("unpark", "Let a parked or backing-off record go on at once", "goes on",
		func(ctx context.Context, o *outbox.Operator, r outbox.Record, reason string) (int64, error) {
			return 0, o.Unpark(ctx, r, reason)
		})
	cmd.AddCommand(newUnparkAll())
	return cmd
}

// unparked is what unpark all did, for programs.
type unparked struct {
	RecordType string `json:"record_type"`
	Records    int64  `json:"records"`
	Reason     string `json:"reason"`
}

func newUnparkAll() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "all TYPE --reason …", Short: "Let all parked records of a type go on, as after their topic was mended", Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return errNoReason
			}
			return withOperator(cmd, func(ctx context.Context, o *outbox.Operator) error {
				n, err := o.UnparkAll(ctx, args[0], reason)
				if err != nil {
					return err
				}
				return show(cmd, unparked{args[0], n, reason}, func(w io.Writer) {
					fmt.Fprintf(w, "%s: %d records go on\n", args[0], n)
				})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	return cmd
}

func newSkip() *cobra.Command {
	return verb("skip", "Give up a record's next event for ever; the one after it says so in baton_gap", "event skipped",
		func(ctx context.Context, o *outbox.Operator, r outbox.Record, reason string) (int64, error) {
			return o.Skip(ctx, r, reason)
		})
}
