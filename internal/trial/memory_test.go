package trial_test

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/batonrelay/baton/internal/trial"
	"github.com/batonrelay/baton/outbox"
)

// largeSQL writes one event of nearly 1 MB about each of some records. $1 first, $2 last, $3 record type.
const largeSQL = `
select count(baton.add(array[$3::text], array['r-' || i], array['Updated'::text],
                       array[convert_to(rpad(i::text, 999000, '.'), 'UTF8')]))
  from generate_series($1::int, $2::int) i`

// Feared: claims, or what waits behind them, hold more payloads than the relay may have in flight. It is
// not parallel: the heap is the process's.
func TestTheHeapStaysFlatWithPayloadsOfOneMegabyte(t *testing.T) {
	const records, batch = 300, 50
	pool, kafka, _ := newOutbox(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for from := 1; from <= records; from += batch {
		if _, err := pool.Exec(ctx, largeSQL, from, from+batch-1, recordType(kafka.Topics[0])); err != nil {
			t.Fatal(err)
		}
	}
	var cfg outbox.RelayConfig
	relay, repo := relayIn(t, pool, kafka, "large", func(c *outbox.RelayConfig) {
		c.Lease, c.Log = 20*time.Second, slog.New(slog.DiscardHandler)
		cfg = *c
	})
	runtime.GC()
	before := heap()
	r := run(ctx, relay, repo)
	drained := make(chan error, 1)
	go func() { drained <- trial.Drained(ctx, pool) }()
	var most uint64
	var inFlight int64
	for done := false; !done; {
		select {
		case err := <-drained:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		case <-time.After(5 * time.Millisecond):
		}
		most = max(most, heap())
		inFlight = max(inFlight, relay.Stats().BytesInFlight)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	// A payload in flight is there, again in sarama's request, and once more in the read from the database; the
	// collector lets the heap grow to twice what lives.
	bound := before + 2*3*uint64(cfg.InFlightBytes)
	t.Logf("heap %d MB before, at most %d MB for a backlog of %d MB; in flight at most %d MB",
		before>>20, most>>20, records, inFlight>>20)
	if most > bound {
		t.Errorf("the heap grew to %d MB, want at most %d MB", most>>20, bound>>20)
	}
	if inFlight > cfg.InFlightBytes {
		t.Errorf("bytes in flight = %d, want at most %d", inFlight, cfg.InFlightBytes)
	}
	verdict, err := trial.Judge(ctx, pool, kafka, trial.NewJournal())
	if err != nil || !verdict.OK() || verdict.Delivered != records {
		t.Errorf("verdict: %+v (%v)", verdict, err)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
