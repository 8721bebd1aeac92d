package main

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/internal/telemetry"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

// closeTimeout bounds the publisher's end: after a drain nothing is in it.
const closeTimeout = 2 * time.Second

func newRelay() *cobra.Command {
	return &cobra.Command{
		Use: "relay", Short: "Carry events from the outbox to Kafka until a signal comes", Args: exactly(0),
		Long: "Claims events and publishes them. Any number may run on one outbox. The first SIGINT or SIGTERM drains:\n" +
			"what is in flight is finished and acknowledged, the rest released. The second one exits at once.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(config.Database, config.Kafka)
			if err != nil {
				return err
			}
			return (&relay{config: c, log: newLog(c)}).run(cmd.Context())
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

// relay is a running instance. It starts in the order in which its parts depend on each other: whoever
// watches it, PostgreSQL, Kafka, and then the engine, which claims.
type relay struct {
	config config.Config
	log    *slog.Logger

	pool   *pgxpool.Pool
	pooler string
	repo   *outbox.Postgres
	topics *topicBook

	starting waiting
	engine   atomic.Pointer[outbox.Relay]
}

// run carries events until ctx ends. Readiness ends first, the heartbeat last.
func (r *relay) run(ctx context.Context) error {
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	defer func() {
		end()
		work.Wait()
		if r.pool != nil {
			r.pool.Close()
		}
	}()
	if err := r.listen(ctx, background, &work); err != nil {
		return err
	}
	err := r.start(ctx, background, &work)
	if err != nil && ctx.Err() != nil {
		r.log.Info("relay ended before it claimed anything")
		return nil
	}
	if err != nil {
		return err
	}
	return r.carry(ctx)
}

// listen lets the relay be watched, from before it has reached anything.
func (r *relay) listen(ctx, background context.Context, work *sync.WaitGroup) error {
	if r.config.OpsListen == "off" {
		return nil
	}
	checks := []telemetry.Check{
		{Name: "postgres", Ready: func() error { return r.problem(&r.starting.postgres, repoProblem) }},
		{Name: "kafka", Ready: func() error { return r.problem(&r.starting.kafka, logProblem) }},
	}
	ops, err := telemetry.Listen(r.config.OpsListen, checks, telemetry.RelayMetrics{Stats: r.stats})
	if err != nil {
		return err
	}
	r.log.Info("ops server", "addr", ops.Addr())
	context.AfterFunc(ctx, ops.Leave)
	work.Go(func() {
		if err := ops.Run(background); err != nil {
			r.log.Error("ops server ended", "err", err)
		}
	})
	return nil
}

// carry runs the engine to the end of its drain.
func (r *relay) carry(ctx context.Context) error {
	cfg := r.config.Publisher()
	cfg.Partitions = r.topics.partitions
	waves, err := publisher.NewWaves(cfg)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = waves.CloseCtx(ctx)
	}()
	engine, err := outbox.NewRelay(r.config.Relay(r.log), r.repo, waves)
	if err != nil {
		return err
	}
	r.engine.Store(engine)
	r.log.Info("relay runs", "instance", r.config.Instance, "version", thisBuild().Version, "pooler", r.pooler,
		"lease", r.config.Lease.String(), "brokers", r.config.KafkaBrokers)
	err = engine.Run(ctx)
	s := engine.Stats()
	r.log.Info("relay ended",
		"published", s.Published, "acked", s.Acked, "released", s.Released, "lost", s.Lost, "err", err)
	return err
}

func (r *relay) stats() outbox.RelayStats {
	if engine := r.engine.Load(); engine != nil {
		return engine.Stats()
	}
	return outbox.RelayStats{}
}

func repoProblem(s outbox.RelayStats) error { return s.RepoProblem }
func logProblem(s outbox.RelayStats) error  { return s.LogProblem }
