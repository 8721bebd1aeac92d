// Package storm lets many writers and claimers loose on one outbox in a real PostgreSQL and judges what they saw.
//
// Writers use every isolation level, savepoints, rollbacks, long transactions and plain INSERT; claimers use
// lease.Keeper as a relay does, keep leases past their end, die with them, and give records back half done. Publishing
// is an append to a log in this process, one event of a record at a time (the order lemma), so that whatever breaks is
// the SQL's doing. The judge believes only what is certain: a lease is alive from the claim's answer until its ack is
// sent or until it ends on our clock, which is never later than in truth; a gate is held from Add's answer until COMMIT
// is sent.
//
// What is random follows the seed; how the transactions fall between each other does not. It proves nothing about
// brokers, networks or processes that die.
package storm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config of a storm.
type Config struct {
	URL      string // a superuser's, of a migrated database whose outbox is empty
	Seed     uint64
	Writers  int
	Claimers int
	Deep     int           // records that get many events each
	Shallow  int           // records that get few
	Width    int           // at most so many of them in one step of a writer
	Claims   int           // it blows until so many records were claimed
	Lease    time.Duration // of each claim
	Backlog  int           // writers wait while more events are unpublished
	// Until ends the storm early, when the judge has seen enough. nil: never.
	Until func(Report) bool
	// Plant changes the claimers' statements on their way. The zero value changes nothing.
	Plant *Plant
}

// drainMax bounds the calm after the storm: every lease has run out by then, every back-off has ended.
const drainMax = 30 * time.Second

// storm is one run.
type storm struct {
	cfg     Config
	pool    *pgxpool.Pool
	judge   *judge
	keys    []string    // the deep ones first
	ids     []int64     // of the keys
	stopped atomic.Bool // no new transactions of writers
	calm    atomic.Bool // claimers do only good
	ended   atomic.Bool // no new claims
}

// Run blows until cfg.Claims records were claimed, lets everything be published, and reports. An error means that the
// storm could not be judged; what the judge found is in the report.
func Run(ctx context.Context, cfg Config) (Report, error) {
	pool, err := connect(ctx, cfg)
	if err != nil {
		return Report{}, err
	}
	defer pool.Close()
	s := &storm{cfg: cfg, pool: pool}
	if err := s.prepare(ctx); err != nil {
		return Report{}, fmt.Errorf("storm: prepare: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var writers, claimers sync.WaitGroup
	start := func(wg *sync.WaitGroup, n int, stream uint64, run func(context.Context, *rand.Rand) error) {
		for i := range n {
			wg.Go(func() {
				if err := run(ctx, rand.New(rand.NewPCG(cfg.Seed, stream+uint64(i)))); err != nil {
					cancel(err)
				}
			})
		}
	}
	start(&writers, cfg.Writers, 1<<32, s.write)
	start(&claimers, cfg.Claimers, 2<<32, s.claim)
	s.blow(ctx)
	s.stopped.Store(true)
	writers.Wait()
	s.calm.Store(true)
	left, err := s.drain(ctx)
	s.ended.Store(true)
	claimers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return s.judge.report(), fmt.Errorf("storm: %w", cause)
	}
	if err != nil {
		return s.judge.report(), fmt.Errorf("storm: drain: %w", err)
	}
	return s.judge.verdict(ctx, pool, left)
}

func connect(ctx context.Context, cfg Config) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("storm: parse URL: %w", err)
	}
	pc.MaxConns = int32(cfg.Writers + cfg.Claimers + 2)
	pc.ConnConfig.RuntimeParams["deadlock_timeout"] = "20ms" // multi-call writers cause deadlocks, on purpose
	if cfg.Plant != nil {
		pc.ConnConfig.Tracer = cfg.Plant
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("storm: connect: %w", err)
	}
	return pool, nil
}

// prepare names the records and gives the deep ones a backlog.
func (s *storm) prepare(ctx context.Context) error {
	for i := range s.cfg.Deep + s.cfg.Shallow {
		s.keys = append(s.keys, fmt.Sprint(i))
	}
	err := s.pool.QueryRow(ctx, `
select array_agg(baton.record_id('storm', k) order by o)
  from unnest($1::text[]) with ordinality u(k, o)`, s.keys).Scan(&s.ids)
	if err != nil {
		return err
	}
	s.judge = newJudge(s.ids)
	rng := rand.New(rand.NewPCG(s.cfg.Seed, 0))
	for key := range s.cfg.Deep {
		keys := make([]int, s.cfg.Backlog/2/s.cfg.Deep)
		for i := range keys {
			keys[i] = key
		}
		if err := s.transact(ctx, rng, transaction{level: pgx.ReadCommitted, steps: []step{{keys: keys}}}); err != nil {
			return err
		}
	}
	return nil
}

// blow waits until enough records were claimed, the judge has seen enough, or something failed.
func (s *storm) blow(ctx context.Context) {
	for ctx.Err() == nil {
		r := s.judge.report()
		if r.Claimed >= s.cfg.Claims || s.cfg.Until != nil && s.cfg.Until(r) {
			return
		}
		wait(ctx, 20*time.Millisecond)
	}
}

// drain waits until no record has work, and returns how many still have when it gives up.
func (s *storm) drain(ctx context.Context) (left int, err error) {
	for deadline := time.Now().Add(drainMax); ; wait(ctx, 20*time.Millisecond) {
		err = s.pool.QueryRow(ctx, `select count(*) from baton.record`).Scan(&left)
		if err != nil || left == 0 || time.Now().After(deadline) {
			return left, err
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
