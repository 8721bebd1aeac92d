package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sethvargo/go-retry"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/internal/database"
	"github.com/batonrelay/baton/internal/telemetry"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

func newRelay() *cobra.Command {
	return &cobra.Command{
		Use: "relay", Short: "Carry events from the outbox to Kafka until a signal comes", Args: exactly(0),
		Long: "Claims events and publishes them. Any number may run on one outbox. The first SIGINT or SIGTERM drains: what is\n" +
			"in flight is finished and acknowledged, the rest released. The second one exits at once.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(config.Database, config.Kafka)
			if err != nil {
				return err
			}
			return runRelay(cmd.Context(), c, newLog(c))
		},
	}
}

// newLog writes text on a terminal and JSON elsewhere.
func newLog(c config.Config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "text" || c.LogFormat == "auto" && term.IsTerminal(int(os.Stderr.Fd())) {
		return slog.New(slog.NewTextHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, opts))
}

// relay is what a running instance consists of.
type relay struct {
	config    config.Config
	log       *slog.Logger
	publisher publisher.Config
	pool      *pgxpool.Pool
	pooler    string
}

func runRelay(ctx context.Context, c config.Config, log *slog.Logger) error {
	slog.SetDefault(log)
	r := &relay{config: c, log: log, publisher: c.Publisher()}
	if err := r.open(ctx); err != nil {
		return err
	}
	defer r.pool.Close()
	r.lookAtTopics(ctx)
	waves, err := publisher.NewWaves(r.publisher)
	if err != nil {
		return err
	}
	defer waves.Close()
	repo, err := outbox.NewPostgres(r.pool, c.Postgres(thisBuild().Version, r.pooler))
	if err != nil {
		return err
	}
	engine, err := outbox.NewRelay(c.Relay(log), repo, waves)
	if err != nil {
		return err
	}
	return r.run(ctx, engine, repo)
}

// run carries events until ctx ends; readiness goes first, the heartbeat last.
func (r *relay) run(ctx context.Context, engine *outbox.Relay, repo *outbox.Postgres) error {
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	defer work.Wait()
	defer end()
	ops, err := r.watch(engine)
	if err != nil {
		return err
	}
	if ops != nil {
		stop := context.AfterFunc(ctx, ops.Leave)
		defer stop()
		work.Go(func() {
			if err := ops.Run(background); err != nil {
				r.log.Error("ops server ended", "err", err)
			}
		})
	}
	work.Go(func() {
		if err := repo.Maintain(background); err != nil {
			r.log.Warn("this instance stays on the list of instances for a while", "err", err)
		}
	})
	r.log.Info("relay runs", "instance", r.config.Instance, "pooler", r.pooler, "lease", r.config.Lease)
	err = engine.Run(ctx)
	s := engine.Stats()
	r.log.Info("relay ended", "published", s.Published, "acked", s.Acked, "released", s.Released, "lost", s.Lost, "err", err)
	return err
}

// watch starts to listen for whoever watches the relay.
func (r *relay) watch(engine *outbox.Relay) (*telemetry.Ops, error) {
	if r.config.OpsListen == "off" {
		return nil, nil
	}
	checks := []telemetry.Check{
		{Name: "postgres", Ready: func() error { return engine.Stats().RepoProblem }},
		{Name: "kafka", Ready: func() error { return engine.Stats().LogProblem }},
	}
	ops, err := telemetry.Listen(r.config.OpsListen, checks, telemetry.RelayMetrics{Stats: engine.Stats})
	if err != nil {
		return nil, err
	}
	r.log.Info("ops server", "addr", ops.Addr())
	return ops, nil
}

// open connects and checks that this relay may publish from this outbox. A server that is away is waited
// for; what will not mend itself ends the relay.
func (r *relay) open(ctx context.Context) error {
	b := retry.WithJitterPercent(20, retry.WithCappedDuration(5*time.Second, retry.NewExponential(100*time.Millisecond)))
	return retry.Do(ctx, b, func(ctx context.Context) error {
		err := r.openOnce(ctx)
		if err == nil || !errors.Is(err, database.ErrConnect) || errors.Is(err, database.ErrFatal) {
			return err
		}
		r.log.Warn("the database is away, trying again", "err", err)
		return retry.RetryableError(err)
	})
}

func (r *relay) openOnce(ctx context.Context) (err error) {
	c := r.config
	r.pool, r.pooler, err = database.Open(ctx, database.Options{
		URL: string(c.DatabaseURL), Pooler: c.Pooler, Application: database.ApplicationName(c.Instance), Connections: c.Consumers + c.Workers + 3,
	})
	if err != nil {
		return err
	}
	if err := r.mayPublish(ctx); err != nil {
		r.pool.Close()
		return err
	}
	return nil
}

// mayPublish compares schema and identity, and looks at rights and at the sequence.
func (r *relay) mayPublish(ctx context.Context) error {
	meta, err := migrations.ReadMeta(ctx, r.pool, r.config.Schema)
	if err != nil {
		return err
	}
	cluster := r.clusterID(ctx)
	if err := errors.Join(meta.Check(r.config.Source, cluster), database.Check(ctx, r.pool, r.config.Schema)); err != nil {
		return err
	}
	return migrations.Adopt(ctx, r.pool, r.config.Schema, meta, r.config.Source, cluster)
}

func (r *relay) clusterID(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	id, err := publisher.ClusterID(ctx, r.publisher)
	if err != nil {
		r.log.Warn("Kafka does not answer yet: which cluster it is could not be compared", "err", err)
	}
	return id
}

// lookAtTopics says at start what would otherwise show with the first event.
func (r *relay) lookAtTopics(ctx context.Context) {
	topics := r.publisher.Routes.Topics()
	if len(topics) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reports, err := publisher.Check(ctx, r.publisher, topics)
	for _, t := range reports {
		for _, w := range t.Warnings {
			r.log.Warn("topic", "topic", t.Name, "warning", w)
		}
	}
	var missing *publisher.MissingError
	switch {
	case errors.As(err, &missing):
		r.log.Error("topics do not exist: their events wait", "topics", missing.Topics, "hint", fmt.Sprintf("baton topics ensure %s", missing.Topics[0]))
	case err != nil:
		r.log.Warn("topics could not be looked at", "err", err)
	}
}
