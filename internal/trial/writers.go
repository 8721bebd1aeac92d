package trial

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/outbox"
)

// Journal is what writers know of what they wrote.
type Journal struct {
	mu        sync.Mutex
	confirmed map[uuid.UUID]struct{}
	gone      map[uuid.UUID]struct{}
	events    atomic.Int64 // confirmed
	rolled    atomic.Int64 // rolled back
}

// NewJournal returns an empty one.
func NewJournal() *Journal {
	return &Journal{confirmed: map[uuid.UUID]struct{}{}, gone: map[uuid.UUID]struct{}{}}
}

// Confirm notes events whose commit was confirmed.
func (j *Journal) Confirm(ids ...uuid.UUID) { j.note(j.confirmed, &j.events, ids) }

// RollBack notes events that were rolled back.
func (j *Journal) RollBack(ids ...uuid.UUID) { j.note(j.gone, &j.rolled, ids) }

// Confirmed and RolledBack count events.
func (j *Journal) Confirmed() int64  { return j.events.Load() }
func (j *Journal) RolledBack() int64 { return j.rolled.Load() }

func (j *Journal) note(in map[uuid.UUID]struct{}, count *atomic.Int64, ids []uuid.UUID) {
	j.mu.Lock()
	for _, id := range ids {
		in[id] = struct{}{}
	}
	j.mu.Unlock()
	count.Add(int64(len(ids)))
}

// Writers write events about overlapping records in transactions of every kind.
type Writers struct {
	Pool       *pgxpool.Pool
	Journal    *Journal
	Seed       uint64
	Writers    int
	Records    int    // over which they overlap
	RecordType string // of what is written through Add
	InsertType string // of what is written by plain INSERT; "" is none
	Events     int    // stop after so many; 0 is never
	PerSecond  int    // of all together; 0 is as fast as they can
	Payload    int    // bytes, about
}

// Run writes until the events are written or ctx ends. A database that is away is waited for; what of a
// commit is not known is in nobody's journal.
func (w Writers) Run(ctx context.Context) error {
	var (
		written atomic.Int64
		group   sync.WaitGroup
		start   = time.Now()
		errs    = make(chan error, w.Writers)
	)
	for i := range w.Writers {
		group.Go(func() {
			r := rand.New(rand.NewPCG(w.Seed, uint64(i)))
			for ctx.Err() == nil && (w.Events == 0 || written.Load() < int64(w.Events)) {
				n, err := w.transact(ctx, r)
				written.Add(int64(n))
				if err != nil && !passing(err) && ctx.Err() == nil {
					errs <- err
					return
				}
				if err != nil {
					pause(ctx, 20*time.Millisecond)
				}
				if w.PerSecond > 0 {
					ahead := time.Duration(written.Load())*time.Second/time.Duration(w.PerSecond) - time.Since(start)
					pause(ctx, ahead)
				}
			}
		})
	}
	group.Wait()
	close(errs)
	return <-errs
}

var isolations = []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}

// transact writes 1 to 5 events about 1 to 3 records; one in ten is rolled back, some by plain INSERT,
// some behind a savepoint, some dawdle before their commit.
func (w Writers) transact(ctx context.Context, r *rand.Rand) (written int, err error) {
	tx, err := w.Pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: isolations[r.IntN(len(isolations))]})
	if err != nil {
		return 0, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	events := w.events(r)
	if r.IntN(8) == 0 { // written behind a savepoint that is rolled back: never there
		if err := w.savepoint(ctx, tx, w.events(r)); err != nil {
			return 0, err
		}
	}
	if w.InsertType != "" && r.IntN(5) == 0 {
		err = insert(ctx, tx, w.InsertType, events)
	} else {
		_, err = outbox.Add(ctx, tx, events...)
	}
	if err != nil {
		return 0, err
	}
	if r.IntN(10) == 0 {
		pause(ctx, time.Duration(r.IntN(30))*time.Millisecond)
	}
	ids := make([]uuid.UUID, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	if r.IntN(10) == 0 {
		w.Journal.RollBack(ids...)
		return 0, tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, err
	}
	w.Journal.Confirm(ids...)
	return len(events), nil
}

func (w Writers) events(r *rand.Rand) []outbox.Event {
	keys := make([]int, 1+r.IntN(3))
	for i := range keys {
		keys[i] = r.IntN(w.Records)
	}
	events := make([]outbox.Event, 1+r.IntN(5))
	for i := range events {
		id := uuid.Must(uuid.NewV7())
		events[i] = outbox.Event{
			ID:      id,
			Record:  outbox.Record{Type: w.RecordType, Key: fmt.Sprintf("r-%d", keys[r.IntN(len(keys))])},
			Type:    []string{outbox.Created, outbox.Updated, outbox.Removed}[r.IntN(3)],
			Payload: fmt.Appendf(nil, `{"id":%q,"filler":"%0*d"}`, id, max(1, w.Payload-60), r.IntN(1000)),
		}
	}
	return events
}

func (w Writers) savepoint(ctx context.Context, tx pgx.Tx, events []outbox.Event) error {
	for _, e := range events {
		w.Journal.RollBack(e.ID)
	}
	inner, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := outbox.Add(ctx, inner, events...); err != nil {
		return err
	}
	return inner.Rollback(ctx)
}

const insertSQL = `
insert into baton.outbox (id, aggregatetype, aggregateid, type, payload) values ($1, $2, $3, $4, $5)`

// insert is what an application in another language does. Rows are in the order of their keys, so that
// the gates are taken in one order.
func insert(ctx context.Context, tx pgx.Tx, recordType string, events []outbox.Event) error {
	key := events[0].Record.Key
	for i := range events {
		events[i].Record = outbox.Record{Type: recordType, Key: key}
		e := events[i]
		_, err := tx.Exec(ctx, insertSQL,
			e.ID.String(), e.Record.Type, e.Record.Key, e.Type, string(e.Payload))
		if err != nil {
			return err
		}
	}
	return nil
}

// passing reports errors that a writer lives with: it lost a deadlock, or the server was away.
func passing(err error) bool {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		switch state.SQLState() {
		case "40P01", "57P01", "57P02", "57P03", "53300", "08006":
			return true
		}
		return false
	}
	return true // no answer at all
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
