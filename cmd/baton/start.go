package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sethvargo/go-retry"

	"github.com/batonrelay/baton/internal/database"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

const (
	startPauseMin = 100 * time.Millisecond
	startPauseMax = 5 * time.Second
	askTimeout    = 5 * time.Second // for one question to a server that may be away
)

// waiting is what a relay that starts still waits for; nil for what it has reached.
type waiting struct{ postgres, kafka atomic.Pointer[error] }

var errNotAsked = errors.New("not asked yet: the relay is starting")

// problem is the check of readiness: what the start waits for, later what the engine knows.
func (r *relay) problem(starting *atomic.Pointer[error], running func(outbox.RelayStats) error) error {
	if engine := r.engine.Load(); engine != nil {
		return running(engine.Stats())
	}
	if p := starting.Load(); p != nil {
		return *p
	}
	return errNotAsked
}

// start reaches PostgreSQL and Kafka, and makes sure that this relay may carry events from the one to the
// other. A server that is away is waited for; what does not mend itself is an error.
func (r *relay) start(ctx, background context.Context, work *sync.WaitGroup) error {
	err := r.reach(ctx, &r.starting.postgres, "PostgreSQL", r.openDatabase, database.Away)
	if err != nil {
		return err
	}
	repo := r.config.Postgres(thisBuild().Version, r.pooler, r.log)
	if r.repo, err = outbox.NewPostgres(r.pool, repo); err != nil {
		return err
	}
	work.Go(func() {
		if err := r.repo.Maintain(background); err != nil {
			r.log.Warn("this instance stays on the list of instances for a while", "err", err)
		}
	})
	var cluster string
	askKafka := func(ctx context.Context) (err error) {
		cluster, err = publisher.ClusterID(ctx, r.config.Publisher())
		return err
	}
	always := func(error) bool { return true }
	if err := r.reach(ctx, &r.starting.kafka, "Kafka", askKafka, always); err != nil {
		return err
	}
	if err := r.mayPublish(ctx, cluster); err != nil {
		return err
	}
	r.topics = newTopicBook(r)
	r.topics.lookAtStart(ctx)
	work.Go(func() { r.topics.run(background) })
	return nil
}

// reach tries until it succeeds. It logs once that it must; readiness always says so.
func (r *relay) reach(ctx context.Context, starting *atomic.Pointer[error], server string,
	try func(context.Context) error, again func(error) bool) error {
	b := retry.WithJitterPercent(20, retry.WithCappedDuration(startPauseMax, retry.NewExponential(startPauseMin)))
	tries := 0
	err := retry.Do(ctx, b, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		err := try(ctx)
		if err == nil || !again(err) {
			return err
		}
		starting.Store(&err)
		if tries++; tries == 1 {
			r.log.Warn(server+" is away, trying again; nothing is claimed until then", "err", err)
		}
		return retry.RetryableError(err)
	})
	if err != nil {
		return err
	}
	starting.Store(new(error))
	if tries > 0 {
		r.log.Info(server + " answers now")
	}
	return nil
}

// openDatabase connects, and reports everything that is wrong with the outbox but for what Kafka must tell.
func (r *relay) openDatabase(ctx context.Context) (err error) {
	c := r.config
	r.pool, r.pooler, err = database.Open(ctx, database.Options{
		URL: string(c.DatabaseURL), Pooler: c.Pooler, Application: database.ApplicationName(c.Instance),
		Connections: c.Consumers + c.Workers + 3,
	})
	if err != nil {
		return err
	}
	err = database.Check(ctx, r.pool, c.Schema)
	if _, refused := r.compare(ctx, ""); err == nil || errors.Is(refused, migrations.ErrRefused) {
		err = errors.Join(err, refused)
	}
	if err != nil {
		r.pool.Close()
		r.pool = nil
	}
	return err
}

// mayPublish compares once more, with what Kafka says; a first relay completes the identity.
func (r *relay) mayPublish(ctx context.Context, cluster string) error {
	meta, err := r.compare(ctx, cluster)
	if err != nil {
		return err
	}
	return migrations.Adopt(ctx, r.pool, r.config.Schema, meta, r.config.Source, cluster)
}

// compare holds version and identity of the outbox against ours.
func (r *relay) compare(ctx context.Context, cluster string) (migrations.Meta, error) {
	meta, err := migrations.ReadMeta(ctx, r.pool, r.config.Schema)
	if err != nil {
		return meta, database.Explain(err)
	}
	return meta, meta.Check(r.config.Source, cluster)
}
