package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/batonrelay/baton/lease"
)

// unleasedSQL finds records of a claim whose rows do not hold its token. $1 ids, $2 token.
const unleasedSQL = `
select count(*)
  from unnest($1::bigint[]) c(id) left join baton.record r on r.id = c.id
 where r.token is distinct from $2`

// positionsSQL reads what a claim named. $1 ids, $2 firsts, $3 lasts.
const positionsSQL = `
select e.record, array_agg(e.position order by e.position)
  from unnest($1::bigint[], $2::bigint[], $3::bigint[]) c(id, first, last)
  join baton.event e on e.record = c.id and e.position between c.first and c.last
 group by e.record`

// triesMax bounds how often an ack or a release is sent. No session locks a row for long, but there are many claims,
// and each locks the rows of leases that have run out.
const triesMax = 1000

// claimer is one relay's consumer, producer and worker in turn.
type claimer struct {
	*storm
	rng    *rand.Rand
	keeper *lease.Keeper
	alone  bool // the last claim told of suspects
}

// claim is one claimer's life.
func (s *storm) claim(ctx context.Context, rng *rand.Rand) error {
	keeper, err := lease.New(s.pool, lease.Config{Lease: s.cfg.Lease})
	if err != nil {
		return err
	}
	c := &claimer{storm: s, rng: rng, keeper: keeper}
	for !s.ended.Load() && ctx.Err() == nil {
		if err := c.turn(ctx); err != nil {
			return fmt.Errorf("claim: %w", err)
		}
	}
	return nil
}

// turn claims, publishes, and ends the leases in one way or another.
func (c *claimer) turn(ctx context.Context) error {
	limits := lease.Limits{
		Records: 1 + c.rng.IntN(12), Events: 1 + c.rng.IntN(60), Bytes: 1 + c.rng.Int64N(4000), Alone: c.alone,
	}
	claim, err := c.keeper.Claim(ctx, limits)
	if err != nil {
		return c.counted(err)
	}
	c.alone = claim.Suspects && !limits.Alone
	if len(claim.Records) == 0 {
		wait(ctx, time.Millisecond)
		return nil
	}
	c.judge.claimed(claim)
	positions, err := c.read(ctx, claim)
	if err != nil {
		return err
	}
	fate := c.rng.IntN(100)
	switch {
	case c.calm.Load():
		fate = 100
	case fate < 3: // dies with some of it published
		for _, r := range claim.Records[:c.rng.IntN(len(claim.Records))] {
			c.publish(r, positions[r.ID], c.rng.IntN(len(positions[r.ID])+1))
		}
		return nil
	case fate < 6: // freezes past its lease, and goes on as if nothing had happened
		wait(ctx, time.Until(claim.Until)+time.Duration(c.rng.IntN(30))*time.Millisecond)
	case fate < 12:
		if err := c.extend(ctx, claim); err != nil {
			return err
		}
	}
	return c.finish(ctx, claim, positions, fate < 100)
}

// read checks the claim against the rows, and reads its positions.
func (c *claimer) read(ctx context.Context, claim lease.Claim) (map[int64][]int64, error) {
	var ids, events, firsts, lasts []int64
	for _, r := range claim.Records {
		ids = append(ids, r.ID)
		if !r.Empty() {
			events, firsts, lasts = append(events, r.ID), append(firsts, r.First), append(lasts, r.Last)
		}
	}
	positions := make(map[int64][]int64)
	unleased := 0
	b := &pgx.Batch{}
	b.Queue(unleasedSQL, ids, claim.Token).QueryRow(func(row pgx.Row) error { return row.Scan(&unleased) })
	b.Queue(positionsSQL, events, firsts, lasts).Query(func(rows pgx.Rows) error {
		var id int64
		var list []int64
		_, err := pgx.ForEachRow(rows, []any{&id, &list}, func() error {
			positions[id], list = list, nil
			return nil
		})
		return err
	})
	if err := c.pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	if time.Now().Before(claim.Until) { // nobody may have claimed them again
		c.judge.n.unleased.Add(int64(unleased))
	}
	return positions, nil
}

// publish hands the first n events to the log one by one.
func (c *claimer) publish(r lease.Record, positions []int64, n int) {
	for _, p := range positions[:n] {
		c.judge.publish(r.ID, p)
	}
}

func (c *claimer) extend(ctx context.Context, claim lease.Claim) error {
	var held []lease.Held
	for _, r := range claim.Records {
		held = append(held, lease.Held{ID: r.ID, Token: claim.Token})
	}
	until, err := c.keeper.Extend(ctx, held)
	lost := make(map[lease.Held]bool)
	var l *lease.LostError
	if errors.As(err, &l) {
		for _, h := range l.Held {
			lost[h] = true
		}
	} else if err != nil {
		return c.counted(err)
	}
	for _, h := range held {
		if !lost[h] {
			c.judge.extended(h, until)
		}
	}
	return nil
}

// finish publishes and acks; wild, it gives some records back half done.
func (c *claimer) finish(ctx context.Context, claim lease.Claim, positions map[int64][]int64, wild bool) error {
	var acks []lease.Ack
	var releases []lease.Release
	for _, r := range claim.Records {
		held, list := lease.Held{ID: r.ID, Token: claim.Token}, positions[r.ID]
		if !wild || r.Empty() || c.rng.IntN(3) > 0 {
			c.publish(r, list, len(list))
			acks = append(acks, lease.Ack{Held: held, Last: r.Last})
			continue
		}
		n := c.rng.IntN(len(list) + 1)
		c.publish(r, list, n)
		delay := time.Duration(c.rng.IntN(20)) * time.Millisecond
		release := lease.Release{Held: held, Attempts: r.Attempts + 1, Delay: delay, Err: "storm"}
		if n > 0 {
			release.Stored, release.Attempts = list[n-1], 0
		}
		releases = append(releases, release)
	}
	c.rng.Shuffle(len(acks), func(i, j int) { acks[i], acks[j] = acks[j], acks[i] })
	for _, a := range acks {
		c.judge.ending(a.Held, true)
	}
	for _, r := range releases {
		c.judge.ending(r.Held, false)
	}
	if err := end(ctx, c, acks, func(a lease.Ack) lease.Held { return a.Held }, c.keeper.Ack); err != nil {
		return err
	}
	return end(ctx, c, releases, func(r lease.Release) lease.Held { return r.Held }, c.keeper.Release)
}

// end sends acks or releases until each was written or its lease is lost.
func end[T any](ctx context.Context, c *claimer, list []T, held func(T) lease.Held,
	send func(context.Context, []T) error) error {
	for range triesMax {
		if len(list) == 0 {
			return nil
		}
		err := send(ctx, list)
		var lost *lease.LostError
		var busy *lease.BusyError
		if errors.As(err, &lost) {
			c.judge.n.lost.Add(int64(len(lost.Held)))
		}
		if !errors.As(err, &busy) {
			if err == nil || lost != nil {
				return nil
			}
			if err := c.counted(err); err != nil {
				return err
			}
			continue // all of it again
		}
		c.judge.n.busy.Add(int64(len(busy.Held)))
		list = slices.DeleteFunc(list, func(item T) bool { return !slices.Contains(busy.Held, held(item)) })
		wait(ctx, time.Duration(c.rng.IntN(5))*time.Millisecond)
	}
	return fmt.Errorf("%d leases could not be ended in %d tries", len(list), triesMax)
}

// counted passes on errors that no storm explains.
func (c *claimer) counted(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case "40001":
		c.judge.n.serialization.Add(1)
	case "40P01", "55P03", "57014": // deadlock, lock_timeout, statement_timeout
		c.judge.n.retries.Add(1)
	default:
		return err
	}
	return nil
}
