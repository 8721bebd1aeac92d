package storm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const addSQL = `
select baton.add(array_fill('storm'::text, array[cardinality($1::text[])]), $1::text[],
                 array_fill('Updated'::text, array[cardinality($1::text[])]), $2::bytea[])`

// step is one call of Add, or one INSERT, within a transaction.
type step struct {
	keys      []int // of the records, one for each event
	insert    bool  // plain INSERT into the view, a row for each event
	savepoint bool
	undone    bool // the savepoint is rolled back
}

// transaction is what one writer does between BEGIN and its end.
type transaction struct {
	level    pgx.TxIsoLevel
	early    time.Duration // its snapshot is so much older than its first event
	late     time.Duration // from the last event to the end
	rollback bool
	steps    []step

	numbered map[int64][]int64 // positions that stand, by record
}

var levels = []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}

// write is one writer's life.
func (s *storm) write(ctx context.Context, rng *rand.Rand) error {
	for !s.stopped.Load() && ctx.Err() == nil {
		if s.judge.backlog() > s.cfg.Backlog {
			wait(ctx, time.Millisecond)
			continue
		}
		if err := s.transact(ctx, rng, s.plan(rng)); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// plan makes up a transaction.
func (s *storm) plan(rng *rand.Rand) transaction {
	tx := transaction{level: levels[rng.IntN(len(levels))], rollback: rng.IntN(10) == 0}
	if rng.IntN(4) == 0 {
		tx.early = time.Duration(rng.IntN(10)) * time.Millisecond
	}
	if rng.IntN(6) == 0 {
		tx.late = time.Duration(rng.IntN(20)) * time.Millisecond
	}
	n := 1
	if rng.IntN(6) == 0 {
		n = 2 + rng.IntN(2)
	}
	for range n {
		st := step{keys: s.pick(rng), insert: rng.IntN(4) == 0}
		st.savepoint = rng.IntN(4) == 0
		st.undone = st.savepoint && rng.IntN(2) == 0
		tx.steps = append(tx.steps, st)
	}
	return tx
}

// pick chooses the records of a step's events.
func (s *storm) pick(rng *rand.Rand) (keys []int) {
	if s.cfg.Deep > 0 && rng.IntN(8) == 0 {
		key := rng.IntN(s.cfg.Deep)
		for range 2 + rng.IntN(8) {
			keys = append(keys, key)
		}
	}
	for range 1 + rng.IntN(s.cfg.Width) {
		keys = append(keys, s.cfg.Deep+rng.IntN(s.cfg.Shallow))
	}
	slices.SortFunc(keys, func(a, b int) int { return cmp.Compare(s.ids[a], s.ids[b]) })
	return keys
}

// transact runs one transaction. A deadlock is the doing of writers that call Add several times.
func (s *storm) transact(ctx context.Context, rng *rand.Rand, tx transaction) error {
	tx.numbered = make(map[int64][]int64)
	err := s.steps(ctx, rng, &tx)
	var pg *pgconn.PgError
	switch {
	case err == nil && tx.rollback:
		s.judge.n.rolledBack.Add(1)
	case err == nil:
		s.judge.committed(&tx)
	case errors.As(err, &pg) && pg.Code == "40P01":
		s.judge.n.deadlocks.Add(1)
		return nil
	case errors.As(err, &pg) && pg.Code == "40001":
		s.judge.n.serialization.Add(1)
		return nil
	}
	return err
}

func (s *storm) steps(ctx context.Context, rng *rand.Rand, tx *transaction) error {
	db, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: tx.level})
	if err != nil {
		return err
	}
	defer db.Rollback(context.WithoutCancel(ctx)) // after an error; else the transaction has ended
	if tx.early > 0 {
		if _, err := db.Exec(ctx, `select pg_current_snapshot()`); err != nil {
			return err
		}
		wait(ctx, tx.early)
	}
	for _, st := range tx.steps {
		if err := s.step(ctx, db, tx, st); err != nil {
			return err
		}
	}
	// only now: a transaction that fails on the way has given its gates back before we hear of it
	for id, positions := range tx.numbered {
		s.judge.entered(tx, id, positions)
	}
	if tx.late > 0 {
		wait(ctx, tx.late)
	}
	s.judge.leaving(tx)
	if tx.rollback {
		return db.Rollback(ctx)
	}
	return db.Commit(ctx)
}

func (s *storm) step(ctx context.Context, db pgx.Tx, tx *transaction, st step) error {
	if !st.savepoint {
		return s.add(ctx, db, tx, st)
	}
	inner, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	if !st.undone {
		return errors.Join(s.add(ctx, inner, tx, st), inner.Commit(ctx))
	}
	undone := &transaction{numbered: make(map[int64][]int64)}
	if err := s.add(ctx, inner, undone, st); err != nil {
		return err
	}
	return inner.Rollback(ctx)
}

// add writes the step's events and remembers their positions.
func (s *storm) add(ctx context.Context, db pgx.Tx, tx *transaction, st step) error {
	keys, payloads := make([]string, len(st.keys)), make([][]byte, len(st.keys))
	for i, k := range st.keys {
		keys[i], payloads[i] = s.keys[k], []byte(fmt.Sprintf("%*d", 10+k%50, k))
	}
	var positions []int64
	if st.insert {
		rows, err := db.Query(ctx, insertSQL(len(keys)), args(keys, payloads)...)
		if err == nil {
			positions, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		}
		if err != nil {
			return err
		}
	} else if err := db.QueryRow(ctx, addSQL, keys, payloads).Scan(&positions); err != nil {
		return err
	}
	if len(positions) != len(keys) {
		return fmt.Errorf("%d events got %d positions", len(keys), len(positions))
	}
	for i, k := range st.keys {
		tx.numbered[s.ids[k]] = append(tx.numbered[s.ids[k]], positions[i])
	}
	return nil
}

// insertSQL inserts n events through the view. Its rows come sorted by record: each takes its gate by itself.
func insertSQL(n int) string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf("('storm', $%d, 'Updated', $%d)", 2*i+1, 2*i+2)
	}
	return "insert into baton.outbox (aggregatetype, aggregateid, type, payload) values " +
		strings.Join(rows, ", ") + " returning position"
}

func args(keys []string, payloads [][]byte) (list []any) {
	for i := range keys {
		list = append(list, keys[i], string(payloads[i]))
	}
	return list
}
