package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/schema"
)

// heartbeatSQL says that this instance is there. $1 id, $2 name, $3 version, $4 pooler.
const heartbeatSQL = `
insert into baton.instance (id, name, version, pooler) values ($1, $2, $3, $4)
on conflict (id) do update set seen_at = clock_timestamp()`

// departSQL takes this instance off the list, and those that have not been seen for an hour. $1 id.
const departSQL = `delete from baton.instance where id = $1 or seen_at < clock_timestamp() - interval '1 hour'`

// retainSQL runs one step of retention. $1 keep, $2 first page, $3 pages.
const retainSQL = `select deleted, coalesce(wrapped, false) from baton.retain($1::interval, $2::bigint, $3::int)`

const (
	upkeepEvery   = time.Second
	stuckAfter    = 2 * time.Second
	retentionStep = 200 * time.Millisecond
	retainPages   = 64 // 512 kB of table a step: milliseconds
)

// upkeep is what a Postgres does beside carrying events.
type upkeep struct {
	mu        sync.Mutex
	abandoned []abandoned // claims whose outcome is open, to be released when the database is back

	stuckEnded atomic.Int64
	retained   atomic.Int64

	retentionFails atomic.Bool
}

// Maintain keeps the outbox in order until ctx ends: it writes this instance's heartbeat, ends stuck
// sessions of relays, releases claims whose answers were lost, and deletes published events that are
// older than the retention, one instance at a time. Run it beside a Relay.
func (p *Postgres) Maintain(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { p.retain(ctx) })
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := p.maintainOnce(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.DebugContext(ctx, "upkeep", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	work.Wait()
	return p.depart(ctx)
}

func (p *Postgres) maintainOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stuckAfter)
	defer cancel()
	_, err := p.pool.Exec(ctx, schema.In(heartbeatSQL, p.cfg.Schema), p.id, p.cfg.Name, p.cfg.Version, p.cfg.Pooler)
	if err != nil {
		return fmt.Errorf("outbox: heartbeat: %w", err)
	}
	ended, err := p.keeper.EndStuck(ctx, stuckAfter)
	p.upkeep.stuckEnded.Add(int64(ended))
	return errors.Join(err, p.releaseAbandoned(ctx))
}

// depart takes the instance off the list, within a second: it may be the database that ended us.
func (p *Postgres) depart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := p.pool.Exec(ctx, schema.In(departSQL, p.cfg.Schema), p.id); err != nil {
		return fmt.Errorf("outbox: depart: %w", err)
	}
	return nil
}

// abandoned is a claim whose outcome is open.
type abandoned struct {
	token int64
	at    time.Time
}

// abandonedFor is how long such a claim is looked for: its server process may still be at work on it, and
// commit, after we gave it up. Statement time-out and a good deal more.
const abandonedFor = 2 * repoTimeout

// abandonedMax bounds the tokens kept for release; the records of one dropped wait for their leases to end.
const abandonedMax = 256

// abandon gives back what a claim with an open outcome may have taken, now or when the database is
// back. Without it the records would wait for their leases to end.
func (p *Postgres) abandon(ctx context.Context, token int64) {
	p.upkeep.mu.Lock()
	if len(p.upkeep.abandoned) < abandonedMax {
		p.upkeep.abandoned = append(p.upkeep.abandoned, abandoned{token: token, at: time.Now()})
	}
	p.upkeep.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := p.releaseAbandoned(ctx); err != nil {
		p.cfg.Log.DebugContext(ctx, "release abandoned claims", "err", err)
	}
}

func (p *Postgres) releaseAbandoned(ctx context.Context) error {
	p.upkeep.mu.Lock()
	claims := slices.Clone(p.upkeep.abandoned)
	p.upkeep.mu.Unlock()
	for _, a := range claims {
		if err := p.keeper.Abandon(ctx, a.token); err != nil {
			return err
		}
		if time.Since(a.at) < abandonedFor {
			continue
		}
		p.upkeep.mu.Lock()
		p.upkeep.abandoned = slices.DeleteFunc(p.upkeep.abandoned, func(b abandoned) bool { return b == a })
		p.upkeep.mu.Unlock()
	}
	return nil
}

// retain walks the event table by pages, round and round, at a bounded rate. A step that another
// instance is taking, or that fails, is taken again after a pause.
func (p *Postgres) retain(ctx context.Context) {
	sql := schema.In(retainSQL, p.cfg.Schema)
	page, pause := int64(0), retentionStep
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		var (
			deleted int64
			wrapped bool
		)
		err := pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, sql, p.cfg.Retention, page, retainPages).Scan(&deleted, &wrapped)
		})
		p.retentionWent(ctx, err)
		switch {
		case err != nil || deleted < 0:
			pause = 10 * retentionStep
		case wrapped:
			page, pause = 0, 10*retentionStep
		default:
			page += retainPages
			pause = p.retentionPause(deleted)
		}
		p.upkeep.retained.Add(max(0, deleted))
	}
}

// retentionWent says once when retention begins to fail: the outbox grows until it goes again.
func (p *Postgres) retentionWent(ctx context.Context, err error) {
	failed := err != nil && ctx.Err() == nil
	if p.upkeep.retentionFails.Swap(failed) != failed && failed {
		p.cfg.Log.WarnContext(ctx, "published events are not deleted", "err", err)
	}
}

// retentionPause keeps the deletes below the bounded rate.
func (p *Postgres) retentionPause(deleted int64) time.Duration {
	return max(retentionStep, time.Duration(deleted)*time.Second/time.Duration(p.cfg.RetentionEventsPerSecond))
}
