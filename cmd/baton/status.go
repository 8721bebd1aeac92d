package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/internal/database"
	"github.com/batonrelay/baton/outbox"
)

// operatorTimeout bounds an operator's command.
const operatorTimeout = 30 * time.Second

// withOperator connects as an operator does.
func withOperator(cmd *cobra.Command, do func(context.Context, *outbox.Operator) error) error {
	c, err := load(config.Database)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
	defer cancel()
	pool, _, err := database.Open(ctx, database.Options{
		URL: string(c.DatabaseURL), Pooler: c.Pooler, Application: "baton " + cmd.Name(), Connections: 2,
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	o, err := outbox.NewOperator(pool, c.Schema)
	if err != nil {
		return err
	}
	return do(ctx, o)
}

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "What waits, who works on it, and what is stuck", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withOperator(cmd, func(ctx context.Context, o *outbox.Operator) error {
				s, err := o.Status(ctx)
				if err != nil {
					return err
				}
				return show(cmd, s, func(w io.Writer) { printStatus(w, s, time.Now()) })
			})
		},
	}
}

func printStatus(w io.Writer, s outbox.Status, now time.Time) {
	stale := ""
	if s.Stale > 0 {
		stale = fmt.Sprintf("%d of them after a lease that ran out", s.Stale)
	}
	row(w, "deferred", s.Deferred, "records are due", stale)
	row(w, "leased", s.Leased, "records are being published", "")
	row(w, "backing off", s.BackingOff, "records wait after a failure", "")
	row(w, "parked", s.Parked, "records wait for an operator", "")
	row(w, "oldest", age(time.Duration(s.OldestSeconds*float64(time.Second))), "is the oldest event waiting", "")
	fmt.Fprintln(w)
	if len(s.Instances) == 0 {
		fmt.Fprintln(w, "no relay is running: baton relay")
	} else {
		row(w, "RELAY", "VERSION", "POOLER", "UP", "SEEN", "LEASES")
		for _, i := range s.Instances {
			row(w, i.Name, i.Version, i.Pooler, age(now.Sub(i.StartedAt)), age(now.Sub(i.SeenAt))+" ago", i.Leases)
		}
	}
	if len(s.ParkedRecords) == 0 {
		return
	}
	fmt.Fprintln(w)
	row(w, "PARKED", "KEY", "POSITION", "EVENT", "ATTEMPTS", "LAST ERROR")
	for _, p := range s.ParkedRecords {
		row(w, p.RecordType, p.RecordKey, p.Position, p.Type, p.Attempts, p.LastError)
	}
	first := s.ParkedRecords[0]
	fmt.Fprintf(w, "\nmend the cause, then: baton unpark %s %s --reason …   or give the event up: baton skip %s %s --reason …\n",
		first.RecordType, first.RecordKey, first.RecordType, first.RecordKey)
}

// age is a duration as people say it.
func age(d time.Duration) string {
	switch {
	case d <= 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}
