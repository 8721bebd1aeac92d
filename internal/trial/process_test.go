package trial_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/internal/trial"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

// relayIn builds a relay in this process, with the configuration that change makes of the default.
func relayIn(t testing.TB, pool *pgxpool.Pool, kafka trial.Kafka, name string,
	change func(*outbox.RelayConfig)) (*outbox.Relay, *outbox.Postgres) {
	t.Helper()
	cfg := outbox.DefaultRelayConfig()
	cfg.Lease = 3 * time.Second
	if change != nil {
		change(&cfg)
	}
	named := outbox.PostgresConfig{Lease: cfg.Lease, Name: name, Version: "test", Pooler: "none"}
	repo, err := outbox.NewPostgres(pool, named)
	if err != nil {
		t.Fatal(err)
	}
	pub := publisher.DefaultConfig()
	pub.Brokers, pub.Source, pub.Lease, pub.SendTimeout = kafka.Brokers, "trial", cfg.Lease, 2*time.Second
	waves, err := publisher.NewWaves(pub)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = waves.Close() })
	relay, err := outbox.NewRelay(cfg, repo, waves)
	if err != nil {
		t.Fatal(err)
	}
	return relay, repo
}

// inProcess is a relay that runs in this process.
type inProcess struct {
	relay *outbox.Relay
	stop  context.CancelFunc
	done  chan error
	close []func()
}

// run starts a relay and its upkeep; close is done at its end.
func run(ctx context.Context, relay *outbox.Relay, repo *outbox.Postgres, close ...func()) *inProcess {
	ctx, stop := context.WithCancel(ctx)
	r := &inProcess{relay: relay, stop: stop, done: make(chan error, 1), close: close}
	go func() {
		var upkeep sync.WaitGroup
		upkeep.Go(func() { _ = repo.Maintain(ctx) })
		err := relay.Run(ctx)
		upkeep.Wait()
		r.done <- err
	}()
	return r
}

// end stops the relay and waits for it.
func (r *inProcess) end() error {
	r.stop()
	err := <-r.done
	for _, c := range r.close {
		c()
	}
	return err
}

// newOutbox is a migrated database of its own, and topics of its own.
func newOutbox(t testing.TB) (*pgxpool.Pool, trial.Kafka, string) {
	t.Helper()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 60
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	suffix := time.Now().UnixNano()
	kafka := trial.Kafka{
		Brokers: clustertest.Kafka(t).Addrs(),
		Topics:  []string{fmt.Sprintf("t%d.order.events", suffix), fmt.Sprintf("t%d.note.events", suffix)},
	}
	if err := kafka.CreateTopics(t.Context(), 8, 1, nil); err != nil {
		t.Fatal(err)
	}
	return pool, kafka, url
}

// recordType is the one that routing sends to the topic.
func recordType(topic string) string { return topic[:len(topic)-len(".events")] }

func TestThreeRelaysInOneProcessKeepTheOrderOfOverlappingWriters(t *testing.T) {
	pool, kafka, _ := newOutbox(t)
	journal := trial.NewJournal()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	var running sync.WaitGroup
	relaying, stop := context.WithCancel(ctx)
	for i := range 3 {
		relay, repo := relayIn(t, pool, kafka, fmt.Sprintf("relay-%d", i), nil)
		running.Go(func() {
			if err := relay.Run(relaying); err != nil {
				t.Errorf("relay ended: %v", err)
			}
			t.Logf("%+v", relay.Stats())
		})
		running.Go(func() { _ = repo.Maintain(relaying) })
	}
	w := trial.Writers{
		Pool: pool, Journal: journal, Seed: 1, Writers: 8, Records: 50, Events: 5000, Payload: 200,
		RecordType: recordType(kafka.Topics[0]), InsertType: recordType(kafka.Topics[1]),
	}
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := trial.Drained(ctx, pool); err != nil {
		t.Fatal(err)
	}
	stop()
	running.Wait()
	verdict, err := trial.Judge(ctx, pool, kafka, journal)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(verdict.Report)
	if !verdict.OK() || verdict.Duplicates > 0 {
		t.Errorf("verdict: %+v", verdict)
	}
}
