package trial_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/internal/trial"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

const (
	frozenLease = 2 * time.Second
	// frozenTakeover is liveness: the lease, the end of a stuck session, 8 MB on a very busy machine.
	frozenTakeover = frozenLease + 30*time.Second
	// stuckWait is how long a writer may wait where a half sent transaction of ours holds locks: 2 s, and the second
	// until somebody looks.
	stuckWait = 6 * time.Second
	// freeWait is below the 2 s after which stuck sessions are ended: none may be needed where none can be.
	freeWait = 1500 * time.Millisecond

	frozenSites   = 5
	frozenRecords = 40
	frozenBytes   = 8_000_000
	slowEvents    = 20 // of a record: more than a relay sends of it at a time
	slowWrite     = 700 * time.Millisecond
)

// Feared: a frozen relay's transaction holds rows and gates for as long as it is frozen, since the
// server waits for its socket: writers hang, and nobody can take its records over.
func TestAFrozenRelayIsFeltByNobody(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	list := points()
	queue := make(chan point, len(list))
	for _, p := range list {
		queue <- p
	}
	close(queue)
	var (
		working sync.WaitGroup
		mu      sync.Mutex
		all     []frozenRun
	)
	for i := range frozenSites {
		site := newFrozenSite(t, i)
		working.Go(func() {
			for p := range queue {
				run, err := site.try(ctx, p)
				if err != nil {
					t.Errorf("frozen %v: %v", p, err)
				}
				mu.Lock()
				all = append(all, run)
				mu.Unlock()
			}
		})
	}
	working.Wait()
	judgeFrozen(t, all)
}

// frozenRun is what one point showed.
type frozenRun struct {
	point
	took     []time.Duration // Add and commit, each
	takeover time.Duration
	verdict  trial.Verdict
}

func (r frozenRun) p99() time.Duration { return r.took[len(r.took)*99/100] }
func (r frozenRun) max() time.Duration { return r.took[len(r.took)-1] }

func judgeFrozen(t *testing.T, all []frozenRun) {
	t.Helper()
	bound := 500 * time.Millisecond // liveness, on a machine that may be very busy
	for _, r := range all {
		slices.Sort(r.took)
		if len(r.took) > 0 && r.String() == "nowhere" {
			bound = max(bound, 5*r.p99())
		}
	}
	for _, r := range all {
		if len(r.took) == 0 {
			continue // told already
		}
		t.Logf("%-60v p99 %6.1f ms, longest %6.1f ms of %d; taken over in %.1f s, %d copies", r.point, milliseconds(r.p99()),
			milliseconds(r.max()), len(r.took), r.takeover.Seconds(), r.verdict.Duplicates)
		if !r.verdict.OK() {
			t.Errorf("frozen %v: %+v", r.point, r.verdict)
		}
		longest := freeWait
		if r.place == within && r.sql != "" {
			longest = stuckWait
		} else if r.p99() > bound {
			t.Errorf("frozen %v: writers' p99 = %v, want at most %v", r.point, r.p99(), bound)
		}
		if r.max() > longest {
			t.Errorf("frozen %v: a writer waited %v, want at most %v", r.point, r.max(), longest)
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// frozenSite is a database of its own, for one point after the other.
type frozenSite struct {
	url     string
	pool    *pgxpool.Pool
	brokers []string
	name    string
	tries   int
}

func newFrozenSite(t *testing.T, i int) *frozenSite {
	t.Helper()
	s := &frozenSite{
		url: clustertest.Database(t), brokers: clustertest.Kafka(t).Addrs(),
		name: fmt.Sprintf("frozen%d-%d", i, time.Now().UnixNano()),
	}
	if err := migrations.Up(t.Context(), s.url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.pool, err = open(t.Context(), s.url, "trial", 8, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	return s
}

// open makes a pool whose connections change may alter.
func open(ctx context.Context, url, app string, conns int32, change func(*pgx.ConnConfig)) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = conns
	cfg.ConnConfig.RuntimeParams["application_name"] = app
	if change != nil {
		change(cfg.ConnConfig)
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

// try freezes a relay at a point, with 8 MB due, and lets a healthy relay and writers go on beside it. At
// the end the frozen one thaws, and what it does late is judged too.
func (s *frozenSite) try(ctx context.Context, p point) (run frozenRun, err error) {
	run.point = p
	s.tries++
	kafka := trial.Kafka{Brokers: s.brokers, Topics: []string{fmt.Sprintf("%s.n%d.events", s.name, s.tries)}}
	if err := kafka.CreateTopics(ctx, 2, 1, nil); err != nil {
		return run, err
	}
	if _, err := s.pool.Exec(ctx, `truncate baton.event, baton.record`); err != nil {
		return run, err
	}
	last, err := s.backlog(ctx, p, recordType(kafka.Topics[0]))
	if err != nil {
		return run, err
	}
	f := newFreezer(p)
	cold, err := s.relay(ctx, kafka, f)
	if err != nil {
		return run, err
	}
	err = s.beside(ctx, kafka, f, last, &run)
	f.thaw()
	if err := errors.Join(err, cold.end()); err != nil {
		return run, fmt.Errorf("%w; the frozen relay: %+v", err, cold.relay.Stats())
	}
	if run.verdict, err = trial.Judge(ctx, s.pool, kafka, trial.NewJournal()); err != nil {
		return run, err
	}
	return run, nil
}

// backlog is 8 MB, due before any relay is there. It returns the last position.
func (s *frozenSite) backlog(ctx context.Context, p point, recordType string) (last int64, err error) {
	for i := range p.events() {
		events := make([]outbox.Event, frozenRecords)
		for k := range events {
			events[k] = outbox.Event{
				Record: outbox.Record{Type: recordType, Key: fmt.Sprint("r-", k)}, Type: outbox.Updated,
				Payload: []byte(strings.Repeat(string(rune('a'+i)), p.payload())),
			}
		}
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			positions, err := outbox.Add(ctx, tx, events...)
			if err == nil {
				last = positions[len(positions)-1]
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return last, nil
}

// relay starts a relay all of whose traffic goes through f.
func (s *frozenSite) relay(ctx context.Context, kafka trial.Kafka, f *freezer) (*inProcess, error) {
	pool, err := open(ctx, s.url, lease.ApplicationName+" trial", 8, func(c *pgx.ConnConfig) {
		c.DefaultQueryExecMode = cmp.Or(f.at.mode, pgx.QueryExecModeCacheStatement)
		c.DialFunc = f.dialDatabase
	})
	if err != nil {
		return nil, err
	}
	cfg := outbox.DefaultRelayConfig()
	cfg.Lease, cfg.Drain, cfg.Log = frozenLease, 10*time.Second, slog.New(slog.DiscardHandler)
	if f.at.change != nil {
		f.at.change(&cfg)
	}
	named := outbox.PostgresConfig{Lease: cfg.Lease, Name: "trial", Version: "test", Pooler: "none"}
	repo, err := outbox.NewPostgres(pool, named)
	if err != nil {
		return nil, err
	}
	pub := publisher.DefaultConfig()
	pub.Brokers, pub.Source, pub.Dial = kafka.Brokers, "trial", f.dialKafka
	pub.Lease, pub.SendTimeout = cfg.Lease, cfg.Lease*3/4
	waves, err := publisher.NewWaves(pub)
	if err != nil {
		return nil, err
	}
	relay, err := outbox.NewRelay(cfg, repo, waves)
	if err != nil {
		return nil, err
	}
	return run(ctx, relay, repo, func() { _ = waves.Close() }, pool.Close), nil
}

// beside waits until the relay is frozen, and lets writers and a healthy relay work until all of the
// backlog is delivered.
func (s *frozenSite) beside(ctx context.Context, kafka trial.Kafka, f *freezer, last int64, run *frozenRun) error {
	if f.at.String() != "nowhere" {
		select {
		case <-f.frozen:
		case <-time.After(20 * time.Second):
			return errors.New("it never got there")
		}
		if err := s.digested(ctx); err != nil {
			return err
		}
	}
	start := time.Now()
	warm, err := s.relay(ctx, kafka, newFreezer(point{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, warm.end()) }()
	writing, stop := context.WithCancel(ctx)
	defer stop()
	written := make(chan error, 1)
	go func() { written <- s.write(writing, recordType(kafka.Topics[0]), run) }()
	taking, cancel := context.WithTimeout(ctx, frozenTakeover)
	defer cancel()
	err = s.delivered(taking, last)
	run.takeover = time.Since(start)
	if left := 2500*time.Millisecond - run.takeover; left > 0 { // enough writes to tell a p99
		<-time.After(left)
	}
	stop()
	if err := errors.Join(err, <-written); err != nil {
		return err
	}
	draining, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return trial.Drained(draining, s.pool)
}

// busySQL counts sessions of relays that are neither idle nor waiting for their relay.
const busySQL = `
select count(*) from pg_stat_activity
 where datname = current_database() and starts_with(application_name, $1) and wait_event_type is distinct from 'Client'`

// digested waits until the server has done all that the frozen relay had sent: else the healthy one might be
// first. A session that has just been sent something may look idle yet, so it looks a few times.
func (s *frozenSite) digested(ctx context.Context) error {
	for quiet := 0; quiet < 5; {
		var busy int
		if err := s.pool.QueryRow(ctx, busySQL, lease.ApplicationName).Scan(&busy); err != nil {
			return err
		}
		if quiet++; busy > 0 {
			quiet = 0
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// behindSQL: an event of the backlog is not acknowledged yet. $1 the backlog's last position.
const behindSQL = `
select exists (select from baton.record r join baton.event e on e.record = r.id and e.position >= r.next_position
                where e.position <= $1)`

func (s *frozenSite) delivered(ctx context.Context, last int64) error {
	for behind := true; ; {
		err := s.pool.QueryRow(ctx, behindSQL, last).Scan(&behind)
		if err == nil && !behind {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("its records were not taken over: %w (%v)", ctx.Err(), err)
		}
	}
}

// write adds small events, half of them to the records of the backlog, 100 a second, until ctx ends, and
// notes how long each Add and commit took.
func (s *frozenSite) write(ctx context.Context, recordType string, run *frozenRun) error {
	const writers, perSecond = 4, 100
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		errs  error
	)
	for range writers {
		group.Go(func() {
			tick := time.NewTicker(writers * time.Second / perSecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				start := time.Now()
				record := outbox.Record{Type: recordType, Key: fmt.Sprint("r-", rand.IntN(2*frozenRecords))}
				err := s.add(context.WithoutCancel(ctx), record)
				mu.Lock()
				run.took = append(run.took, time.Since(start))
				errs = errors.Join(errs, err)
				mu.Unlock()
				<-tick.C
			}
		})
	}
	group.Wait()
	return errs
}

func (s *frozenSite) add(ctx context.Context, r outbox.Record) error {
	ctx, cancel := context.WithTimeout(ctx, 2*stuckWait)
	defer cancel()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := outbox.Add(ctx, tx, outbox.Event{Type: outbox.Updated, Record: r, Payload: []byte("small")})
		return err
	})
}
