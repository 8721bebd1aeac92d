package trial_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/trial"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

// BenchmarkLatency measures from a commit's confirmation to the broker's append, by the topic's
// LogAppendTime (whole milliseconds), at 600 commits a second of one event each, over 10,000 records.
func BenchmarkLatency(b *testing.B) {
	const perSecond, writers, records = 600, 6, 10_000
	pool, kafka, _ := newOutbox(b)
	appended := trial.Kafka{Brokers: kafka.Brokers, Topics: []string{"append." + kafka.Topics[0]}}
	atAppend := map[string]string{"message.timestamp.type": "LogAppendTime"}
	if err := appended.CreateTopics(b.Context(), 8, 1, atAppend); err != nil {
		b.Fatal(err)
	}
	relay, _ := relayIn(b, pool, kafka, "bench", nil)
	relaying, stop := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- relay.Run(relaying) }()

	var (
		mu        sync.Mutex
		committed = map[uuid.UUID]time.Time{}
		group     sync.WaitGroup
	)
	for w := range writers {
		group.Go(func() {
			next := time.Now()
			for i := range max(1, b.N*perSecond/writers) { // b.N seconds
				e := outbox.Event{
					ID: uuid.Must(uuid.NewV7()), Type: outbox.Updated, Payload: make([]byte, 200),
					Record: outbox.Record{Type: recordType(appended.Topics[0]), Key: fmt.Sprint((i*writers + w) % records)},
				}
				err := pgx.BeginFunc(b.Context(), pool, func(tx pgx.Tx) error {
					_, err := outbox.Add(b.Context(), tx, e)
					return err
				})
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				committed[e.ID] = time.Now()
				mu.Unlock()
				next = next.Add(time.Second * writers / perSecond)
				time.Sleep(time.Until(next))
			}
		})
	}
	group.Wait()
	if err := trial.Drained(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	err := appended.Read(b.Context(), func(m publisher.Message) {
		took = append(took, m.SentAt.Sub(committed[m.Event.ID]))
	})
	if err != nil || len(took) < len(committed) {
		b.Fatalf("read back %d of %d: %v", len(took), len(committed), err)
	}
	slices.Sort(took)
	for _, p := range []int{50, 95, 99} {
		b.ReportMetric(float64(took[len(took)*p/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
	}
}
