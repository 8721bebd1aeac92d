package trial_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/trial"
)

// backlogSQL writes a backlog as one writer would, some thousand events a transaction: $1 events, $2
// records, $3 record type, $4 first event.
const backlogSQL = `
select count(baton.add(t, k, y, b)) from (
  select array_agg($3::text) t, array_agg('r-' || (i % $2)) k, array_agg('Updated'::text) y,
         array_agg(convert_to(rpad(i::text, 200, '.'), 'UTF8')) b
    from generate_series($4::bigint, $4::bigint + $1::bigint - 1) i) s`

func backlog(b testing.TB, pool *pgxpool.Pool, recordType string, events, records int) {
	b.Helper()
	const piece = 200
	if _, err := pool.Exec(b.Context(), `set baton_limits.gates = 1000`); err != nil {
		b.Fatal(err)
	}
	for from := 0; from < events; from += piece {
		if _, err := pool.Exec(b.Context(), backlogSQL, piece, records, recordType, from); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDrain drains a backlog by one relay with the default configuration, everything on this
// machine: PostgreSQL, Kafka and the relay.
func BenchmarkDrain(b *testing.B) {
	for _, c := range []struct{ events, records int }{{200_000, 66_667}, {100_000, 100_000}, {100_000, 100}} {
		b.Run(fmt.Sprintf("events=%d/records=%d", c.events, c.records), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				pool, kafka, _ := newOutbox(b)
				backlog(b, pool, recordType(kafka.Topics[0]), c.events, c.records)
				relay, _ := relayIn(b, pool, kafka, "bench", nil)
				ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
				b.StartTimer()
				done := make(chan error, 1)
				relaying, stop := context.WithCancel(ctx)
				go func() { done <- relay.Run(relaying) }()
				if err := trial.Drained(ctx, pool); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				stop()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				cancel()
				verdict, err := trial.Judge(b.Context(), pool, kafka, trial.NewJournal())
				if err != nil || !verdict.OK() {
					b.Fatal(verdict, err)
				}
			}
			b.ReportMetric(float64(c.events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
