package storm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/lease"
)

// Report is what happened, and what of it must not have.
type Report struct {
	Claimed    int // records, by all claims
	Reclaimed  int // of them, those whose lease before had not ended by an ack
	Stale      int // of them, those whose lease before had run out
	Empty      int // of them, those without an event
	Written    int // events committed
	RolledBack int // transactions
	Published  int // events, first copies
	Copies     int // further copies
	Lost       int // leases that an ack, a release or an extension found gone
	Busy       int // rows that another session was locking
	Deadlocks  int // of writers that call Add several times in a transaction
	Retries    int // acks and releases that PostgreSQL refused for a reason that passes

	Unleased      int // records handed out although their rows do not hold the claim's token
	Double        int // records with two leases alive
	GateShared    int // records that two transactions had numbered events of at once, or in the wrong order
	OutOfOrder    int // first copies after one of a higher position
	Phantom       int // published without being committed
	Stranded      int // committed, never published
	Left          int // records with work at the end
	Serialization int // errors 40001: nobody but Baton can have caused them
}

// Bad counts what must not have happened.
func (r Report) Bad() int {
	return r.Unleased + r.Double + r.GateShared + r.OutOfOrder + r.Phantom + r.Stranded + r.Left + r.Serialization
}

func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d records claimed (%d again, %d stale, %d empty), ", r.Claimed, r.Reclaimed, r.Stale, r.Empty)
	fmt.Fprintf(&b, "%d events committed, %d transactions rolled back, ", r.Written, r.RolledBack)
	fmt.Fprintf(&b, "%d published and %d further copies, %d leases lost, %d rows busy, %d deadlocks, %d retries; ",
		r.Published, r.Copies, r.Lost, r.Busy, r.Deadlocks, r.Retries)
	fmt.Fprintf(&b, "unleased %d, double %d, gate shared %d, out of order %d, phantom %d, stranded %d, left %d, 40001 %d",
		r.Unleased, r.Double, r.GateShared, r.OutOfOrder, r.Phantom, r.Stranded, r.Left, r.Serialization)
	return b.String()
}

// judge sees everything as the workers see it.
type judge struct {
	records map[int64]*record
	n       struct {
		claimed, reclaimed, stale, empty, written, rolledBack, published, copies, lost, busy, deadlocks, retries,
		unleased, double, gateShared, outOfOrder, serialization atomic.Int64
	}
}

// record is what is known of one record.
type record struct {
	mu        sync.Mutex
	writer    *transaction // that holds the gate
	numbered  int64        // the highest position that a writer was given
	committed []int64
	token     int64 // of the newest lease
	until     time.Time
	acked     bool    // the newest lease ended by an ack, or there was none
	first     []int64 // first copies as they came
	seen      map[int64]bool
}

func newJudge(ids []int64) *judge {
	j := &judge{records: make(map[int64]*record)}
	for _, id := range ids {
		j.records[id] = &record{acked: true, seen: make(map[int64]bool)}
	}
	return j
}

// entered: the transaction has numbered events of the record, and nothing but its end gives the gate back.
func (j *judge) entered(tx *transaction, id int64, positions []int64) {
	r := j.records[id]
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer != nil && r.writer != tx || slices.Min(positions) <= r.numbered {
		j.n.gateShared.Add(1)
	}
	r.writer, r.numbered = tx, slices.Max(positions)
}

// leaving: COMMIT or ROLLBACK is about to be sent.
func (j *judge) leaving(tx *transaction) {
	for id := range tx.numbered {
		r := j.records[id]
		r.mu.Lock()
		if r.writer == tx {
			r.writer = nil
		}
		r.mu.Unlock()
	}
}

func (j *judge) committed(tx *transaction) {
	for id, positions := range tx.numbered {
		r := j.records[id]
		r.mu.Lock()
		r.committed = append(r.committed, positions...)
		r.mu.Unlock()
		j.n.written.Add(int64(len(positions)))
	}
}

// claimed: a claim was answered.
func (j *judge) claimed(c lease.Claim) {
	now := time.Now()
	for _, l := range c.Records {
		r := j.records[l.ID]
		r.mu.Lock()
		if now.Before(r.until) && now.Before(c.Until) {
			j.n.double.Add(1)
		}
		j.n.claimed.Add(1)
		if !r.acked || l.Stale {
			j.n.reclaimed.Add(1)
		}
		if l.Stale {
			j.n.stale.Add(1)
		}
		if l.Empty() {
			j.n.empty.Add(1)
		}
		r.token, r.until, r.acked = c.Token, c.Until, false
		r.mu.Unlock()
	}
}

func (j *judge) extended(h lease.Held, until time.Time) {
	r := j.records[h.ID]
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.token == h.Token {
		r.until = until
	} else if now := time.Now(); now.Before(until) && now.Before(r.until) {
		j.n.double.Add(1)
	}
}

// ending: an ack or a release is about to be sent.
func (j *judge) ending(h lease.Held, ack bool) {
	r := j.records[h.ID]
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.token == h.Token {
		r.until, r.acked = time.Time{}, ack
	}
}

func (j *judge) publish(id, position int64) {
	r := j.records[id]
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[position] {
		j.n.copies.Add(1)
		return
	}
	if n := len(r.first); n > 0 && position < r.first[n-1] {
		j.n.outOfOrder.Add(1)
	}
	r.seen[position] = true
	r.first = append(r.first, position)
	j.n.published.Add(1)
}

// backlog is how many events are committed and not published.
func (j *judge) backlog() int { return int(j.n.written.Load() - j.n.published.Load()) }

func (j *judge) report() Report {
	n := &j.n
	get := func(c *atomic.Int64) int { return int(c.Load()) }
	return Report{
		Claimed: get(&n.claimed), Reclaimed: get(&n.reclaimed), Stale: get(&n.stale), Empty: get(&n.empty),
		Written: get(&n.written), RolledBack: get(&n.rolledBack), Published: get(&n.published), Copies: get(&n.copies),
		Lost: get(&n.lost), Busy: get(&n.busy), Deadlocks: get(&n.deadlocks), Retries: get(&n.retries),
		Unleased: get(&n.unleased), Double: get(&n.double), GateShared: get(&n.gateShared),
		OutOfOrder: get(&n.outOfOrder), Serialization: get(&n.serialization),
	}
}

// verdict compares the log with the table, and the table with what the writers committed.
func (j *judge) verdict(ctx context.Context, pool *pgxpool.Pool, left int) (Report, error) {
	r := j.report()
	r.Left = left
	rows, err := pool.Query(ctx, `select record, array_agg(position order by position) from baton.event group by record`)
	if err != nil {
		return r, fmt.Errorf("storm: read events: %w", err)
	}
	defer rows.Close()
	stored := make(map[int64][]int64)
	for rows.Next() {
		var id int64
		var positions []int64
		if err := rows.Scan(&id, &positions); err != nil {
			return r, fmt.Errorf("storm: read events: %w", err)
		}
		stored[id] = positions
	}
	if err := rows.Err(); err != nil {
		return r, fmt.Errorf("storm: read events: %w", err)
	}
	for id, rec := range j.records {
		slices.Sort(rec.committed)
		if !slices.Equal(rec.committed, stored[id]) {
			return r, fmt.Errorf("storm: record %d holds %d events, its writers committed %d",
				id, len(stored[id]), len(rec.committed))
		}
		for _, position := range rec.committed {
			if !rec.seen[position] {
				r.Stranded++
			}
			delete(rec.seen, position)
		}
		r.Phantom += len(rec.seen)
	}
	return r, nil
}
