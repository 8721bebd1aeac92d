package trial

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/checker"
	"github.com/batonrelay/baton/publisher"
)

// committedSQL reads all that was ever committed: retention must not have come by yet.
const committedSQL = `
select position, event_id, record_type, record_key, type, payload from baton.event order by position`

// Committed reads what the outbox holds.
func Committed(ctx context.Context, pool *pgxpool.Pool) ([]checker.Committed, error) {
	rows, err := pool.Query(ctx, committedSQL)
	if err != nil {
		return nil, fmt.Errorf("trial: read outbox: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c checker.Committed, err error) {
		var payload []byte
		err = row.Scan(&c.Position, (*[16]byte)(&c.EventID), &c.RecordType, &c.RecordKey, &c.Type, &payload)
		c.Hash = checker.Hash(payload)
		return c, err
	})
}

// Drained waits until no record has work left, but those that are parked.
func Drained(ctx context.Context, pool *pgxpool.Pool) error {
	for {
		waiting := true
		err := pool.QueryRow(ctx, `select exists (select from baton.record where ready_at < 'infinity')`).Scan(&waiting)
		if err == nil && !waiting {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("trial: records still have work: %w (%w)", ctx.Err(), err)
		}
	}
}

// Verdict is what a trial found.
type Verdict struct {
	checker.Report
	// FromRolledBack counts delivered events of transactions that were rolled back. They are phantoms.
	FromRolledBack int
	// Vanished counts commits that the database had confirmed and does not have any more.
	Vanished int
}

// OK reports that nothing was lost, invented or out of order.
func (v Verdict) OK() bool { return v.Report.OK() && v.FromRolledBack == 0 && v.Vanished == 0 }

// Judge reads both sides and compares them.
func Judge(ctx context.Context, pool *pgxpool.Pool, kafka Kafka, journal *Journal) (Verdict, error) {
	committed, err := Committed(ctx, pool)
	if err != nil {
		return Verdict{}, err
	}
	c := checker.New()
	c.Commit(committed...)
	var v Verdict
	v.Vanished = journal.vanished(committed)
	err = kafka.Read(ctx, func(m publisher.Message) {
		c.Deliver(Delivered(m))
		if journal.rolledBack(m.Event.ID) {
			v.FromRolledBack++
		}
	})
	if err != nil {
		return Verdict{}, err
	}
	v.Report = c.Judge()
	return v, nil
}

// rolledBack reports that a writer rolled the event back.
func (j *Journal) rolledBack(id uuid.UUID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, ok := j.gone[id]
	return ok
}

// vanished counts the confirmed events that are not among the committed ones.
func (j *Journal) vanished(committed []checker.Committed) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	missing := len(j.confirmed)
	for _, c := range committed {
		if _, ok := j.confirmed[c.EventID]; ok {
			missing--
		}
	}
	return missing
}
