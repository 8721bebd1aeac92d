package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/schema"
)

// ApplicationName is how the names of relays' database sessions begin. Only such sessions are ended by EndStuck.
const ApplicationName = "baton relay"

// Config of a Keeper.
type Config struct {
	Schema   string        // of the outbox; "" is the default
	Lease    time.Duration // how long a claim holds its records
	Instance int64         // whose leases they are, for people: nothing is decided by it
}

// Keeper claims, extends and ends leases on the records of one outbox. It may be used by several
// goroutines at once.
type Keeper struct {
	pool     *pgxpool.Pool
	lease    time.Duration
	instance int64

	claim, claimAlone, extend, release, ack, abandon string
}

// New checks cfg and touches nothing.
func New(pool *pgxpool.Pool, cfg Config) (*Keeper, error) {
	if cfg.Schema == "" {
		cfg.Schema = schema.Default
	}
	if err := schema.Check(cfg.Schema); err != nil {
		return nil, err
	}
	if cfg.Lease < 100*time.Millisecond {
		return nil, fmt.Errorf("lease: Lease is %v, at least 100ms are needed", cfg.Lease)
	}
	in := func(sql string) string { return schema.In(sql, cfg.Schema) }
	return &Keeper{
		pool: pool, lease: cfg.Lease, instance: cfg.Instance,
		claim: in(claimSQL), claimAlone: in(claimAloneSQL), extend: in(extendSQL),
		release: in(releaseSQL), ack: in(ackSQL), abandon: in(abandonSQL),
	}, nil
}

// Claim takes leases on due records, oldest first, passing over those that others are claiming. It is
// flushed to disk before it returns: what it read may not have been durable yet. An error that leaves
// the outcome open is followed up by Abandon, with Claim.Token.
func (k *Keeper) Claim(ctx context.Context, limits Limits) (Claim, error) {
	sql := k.claim
	if limits.Alone {
		sql = k.claimAlone
	}
	// before the round trip: a slow reply must not stretch trust
	c := Claim{Token: newToken(), Until: time.Now().Add(k.lease)}
	err := k.transact(ctx, func(b *pgx.Batch) {
		b.Queue(sql, limits.Records, c.Token, k.lease, k.instance, limits.Events, limits.Bytes).Query(c.scan)
	})
	if err != nil {
		return Claim{Token: c.Token}, fmt.Errorf("lease: claim %d records: %w", limits.Records, err)
	}
	return c, nil
}

// scan reads claimed records; an empty claim is one row of nulls that tells of suspects.
func (c *Claim) scan(rows pgx.Rows) error {
	for rows.Next() {
		var (
			r                            Record
			id, next, first, last, bytes *int64
			attempts, claims             *int
			stale                        *bool
		)
		if err := rows.Scan(&c.Suspects, &id, &next, &attempts, &claims, &stale, &first, &last, &bytes); err != nil {
			return err
		}
		if id == nil {
			continue
		}
		r.ID, r.Attempts, r.Claims, r.Stale, r.Bytes, r.Last = *id, *attempts, *claims, *stale, *bytes, *next-1
		if first != nil {
			r.First, r.Last = *first, *last
		}
		c.Records = append(c.Records, r)
	}
	return rows.Err()
}

// Extend prolongs leases that are still alive and returns until when, on this process's clock. Those
// that are not are in a *LostError; the time holds for the others.
func (k *Keeper) Extend(ctx context.Context, held []Held) (time.Time, error) {
	until := time.Now().Add(k.lease)
	ids, tokens := columns(held)
	kept := make(map[Held]bool, len(held))
	err := k.transact(ctx, func(b *pgx.Batch) {
		b.Queue(k.extend, ids, tokens, k.lease).Query(func(rows pgx.Rows) error {
			var h Held
			_, err := pgx.ForEachRow(rows, []any{&h.ID, &h.Token}, func() error {
				kept[h] = true
				return nil
			})
			return err
		})
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("lease: extend %d leases: %w", len(held), err)
	}
	var lost []Held
	for _, h := range held {
		if !kept[h] {
			lost = append(lost, h)
		}
	}
	if len(lost) > 0 {
		return until, &LostError{Held: lost}
	}
	return until, nil
}

// Ack ends leases whose events are stored. The records move on, or go idle.
func (k *Keeper) Ack(ctx context.Context, acks []Ack) error {
	err := k.ackOnce(ctx, acks, false)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" { // lock_not_available: somebody holds a row; leave that one out
		err = k.ackOnce(ctx, acks, true)
	}
	return err
}

func (k *Keeper) ackOnce(ctx context.Context, acks []Ack, careful bool) error {
	ids, lasts, tokens := make([]int64, len(acks)), make([]int64, len(acks)), make([]int64, len(acks))
	for i, a := range acks {
		ids[i], lasts[i], tokens[i] = a.ID, a.Last, a.Token
	}
	var missed missedLeases
	err := k.transact(ctx, func(b *pgx.Batch) {
		b.Queue(k.ack, ids, lasts, tokens, careful).Query(missed.scan)
	})
	if err != nil {
		return fmt.Errorf("lease: ack %d records: %w", len(acks), err)
	}
	return missed.err()
}

// Release ends leases with work left.
func (k *Keeper) Release(ctx context.Context, releases []Release) error {
	n := len(releases)
	ids, tokens, stored, delays := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	attempts, park, errs := make([]int32, n), make([]bool, n), make([]string, n)
	for i, r := range releases {
		ids[i], tokens[i], stored[i], delays[i] = r.ID, r.Token, r.Stored, r.Delay.Milliseconds()
		attempts[i], park[i], errs[i] = int32(r.Attempts), r.Park, r.Err
	}
	var missed missedLeases
	err := k.transact(ctx, func(b *pgx.Batch) {
		b.Queue(k.release, ids, tokens, stored, delays, attempts, park, errs).Query(missed.scan)
	})
	if err != nil {
		return fmt.Errorf("lease: release %d records: %w", n, err)
	}
	return missed.err()
}

// Abandon releases whatever a claim with this token took, when its outcome is not known.
func (k *Keeper) Abandon(ctx context.Context, token int64) error {
	err := k.transact(ctx, func(b *pgx.Batch) { b.Queue(k.abandon, token) })
	if err != nil {
		return fmt.Errorf("lease: abandon claim: %w", err)
	}
	return nil
}

// EndStuck ends the sessions of relays, of this role, that have been in one transaction for longer than
// the bound. No transaction of a healthy relay lasts that long.
func (k *Keeper) EndStuck(ctx context.Context, longer time.Duration) (ended int, err error) {
	if err := k.pool.QueryRow(ctx, endStuckSQL, longer, ApplicationName).Scan(&ended); err != nil {
		return 0, fmt.Errorf("lease: end stuck sessions: %w", err)
	}
	return ended, nil
}

// transact sends BEGIN, the bounds, the statements and COMMIT in one flush: the server never waits for
// us while it holds our locks.
func (k *Keeper) transact(ctx context.Context, queue func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	b.Queue(beginSQL)
	b.Queue(boundsSQL)
	queue(b)
	b.Queue(`commit`)
	return k.pool.SendBatch(ctx, b).Close()
}

// missedLeases are those that a write passed over.
type missedLeases struct{ busy, lost []Held }

func (m *missedLeases) scan(rows pgx.Rows) error {
	var (
		h    Held
		busy bool
	)
	_, err := pgx.ForEachRow(rows, []any{&h.ID, &h.Token, &busy}, func() error {
		if busy {
			m.busy = append(m.busy, h)
		} else {
			m.lost = append(m.lost, h)
		}
		return nil
	})
	return err
}

func (m *missedLeases) err() error {
	var errs []error
	if len(m.lost) > 0 {
		errs = append(errs, &LostError{Held: m.lost})
	}
	if len(m.busy) > 0 {
		errs = append(errs, &BusyError{Held: m.busy})
	}
	return errors.Join(errs...)
}

func columns(held []Held) (ids, tokens []int64) {
	ids, tokens = make([]int64, len(held)), make([]int64, len(held))
	for i, h := range held {
		ids[i], tokens[i] = h.ID, h.Token
	}
	return ids, tokens
}

func newToken() int64 {
	for {
		if t := rand.Int64(); t != 0 {
			return t
		}
	}
}
