package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/trial"
)

const (
	relays       = 3
	leaseSeconds = 3
	ordersTopic  = "shop.order.events"
	invoiceTopic = "shop.invoice.events"
	partitions   = 8
)

// ErrBroken: the promise did not hold. The verdict says how.
var ErrBroken = errors.New("demo: the promise did not hold")

// Options of a demo.
type Options struct {
	Kafka  string // real, sim or "": real where it can be had
	Seed   uint64
	Events int // to write, about
	Out    io.Writer
}

// demo is one run.
type demo struct {
	opts  Options
	print *printer
	dir   string
	baton trial.Program
	shop  trial.Program

	postgres  *cluster.Postgres
	broker    *cluster.Kafka
	kafka     trial.Kafka
	pool      *pgxpool.Pool
	url       string
	journal   *trial.Journal
	customers *customers
	relays    []*trial.Relay
	took      []phase
	takeover  time.Duration
}

type phase struct {
	name string
	time time.Duration
}

// Run runs the demo to its verdict. The error is ErrBroken when the promise did not hold, and another
// one when the demo could not be run.
func Run(ctx context.Context, opts Options) (err error) {
	if opts.Events < 100 || opts.Events > 1_000_000 {
		return fmt.Errorf("demo: --events is %d: it must be 100 to 1000000", opts.Events)
	}
	if opts.Kafka != "" && opts.Kafka != "real" && opts.Kafka != "sim" {
		return fmt.Errorf("demo: KAFKA is %q: it must be real or sim", opts.Kafka)
	}
	d := &demo{opts: opts, print: newPrinter(opts.Out), journal: trial.NewJournal()}
	if d.dir, err = os.MkdirTemp("", "baton-demo-"); err != nil {
		return fmt.Errorf("demo: make folder: %w", err)
	}
	defer func() {
		if err == nil || ctx.Err() != nil {
			os.RemoveAll(d.dir)
		} else {
			d.print.note("what the processes printed: %s", d.dir)
		}
	}()
	defer d.stop()
	for _, p := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"servers", d.startServers}, {"set-up", d.setUp}, {"write, kill, take over", d.work}, {"drain", d.drain},
	} {
		start := time.Now()
		if err := p.do(ctx); err != nil {
			return err
		}
		d.took = append(d.took, phase{p.name, time.Since(start)})
	}
	return d.judge(ctx)
}

// stop ends every child, in the order in which they depend on each other.
func (d *demo) stop() {
	for _, r := range d.relays {
		r.Kill()
	}
	if d.pool != nil {
		d.pool.Close()
	}
	if d.broker != nil {
		d.broker.Stop()
	}
	if d.postgres != nil {
		d.postgres.Stop()
	}
}

// startServers starts PostgreSQL and Kafka side by side.
func (d *demo) startServers(ctx context.Context) error {
	if err := d.findPrograms(); err != nil {
		return err
	}
	var (
		group      sync.WaitGroup
		pErr, kErr error
	)
	group.Go(func() { d.postgres, pErr = cluster.StartPostgres(ctx, cluster.PostgresOptions{Log: d.print.note}) })
	group.Go(func() {
		d.broker, kErr = cluster.StartKafkaMode(ctx, d.opts.Kafka, cluster.KafkaOptions{Log: d.print.note})
	})
	group.Wait()
	if err := errors.Join(pErr, kErr); err != nil {
		return err
	}
	d.url = d.postgres.URL()
	d.kafka = trial.Kafka{Brokers: d.broker.Addrs(), Topics: []string{ordersTopic, invoiceTopic}}
	d.print.good("%-18s %s", "PostgreSQL "+d.postgres.Version, d.url)
	d.print.good("%-18s %s  (acks=all, idempotent)", d.kafkaName(), d.kafka.Brokers[0])
	return nil
}

// kafkaName says on every line that matters whether the broker is real.
func (d *demo) kafkaName() string {
	if d.broker.Simulated {
		return "simulated Kafka"
	}
	return "Kafka"
}

// findPrograms: the demo's processes are binaries that stand beside this one.
func (d *demo) findPrograms() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("demo: find this program: %w", err)
	}
	d.baton.Path, d.shop.Path = self, filepath.Join(filepath.Dir(self), "shop-order-api")
	if _, err := os.Stat(d.shop.Path); err != nil {
		return fmt.Errorf("demo: the order service is not beside this program: build both, with make build: %w", err)
	}
	return nil
}

// setUp migrates, creates topics, and starts the service and the relays.
func (d *demo) setUp(ctx context.Context) (err error) {
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		return fmt.Errorf("demo: create log: %w", err)
	}
	d.baton.Log, d.shop.Log = log, log
	d.baton.Env = map[string]string{
		"DATABASE_URL": d.url, "BATON_KAFKA_BROKERS": d.kafka.Brokers[0], "BATON_SOURCE": "baton-demo",
		"BATON_LEASE": fmt.Sprintf("%ds", leaseSeconds), "BATON_SEND_TIMEOUT": "2s", "BATON_OPS_LISTEN": "127.0.0.1:0",
		"BATON_ROUTES": "shop.order=" + ordersTopic + ",shop.invoice=" + invoiceTopic,
	}
	if err := d.baton.Run(ctx, "migrate", "up"); err != nil {
		return err
	}
	err = d.baton.Run(ctx, "topics", "ensure", "--partitions", fmt.Sprint(partitions), "--replication-factor", "1")
	if err != nil {
		return err
	}
	if d.pool, err = pgxpool.New(ctx, d.url); err != nil {
		return fmt.Errorf("demo: open pool: %w", err)
	}
	d.print.good("%-18s schema baton, topics %s and %s", "outbox", ordersTopic, invoiceTopic)
	if err := d.startShop(ctx); err != nil {
		return err
	}
	for i := range relays {
		r, err := trial.StartRelay(ctx, d.baton, fmt.Sprintf("relay-%d", i+1))
		if err != nil {
			return err
		}
		d.relays = append(d.relays, r)
	}
	if err := d.seen(ctx, relays); err != nil {
		return err
	}
	d.print.good("%-18s %d processes, lease %d s", "relays", relays, leaseSeconds)
	return nil
}

func (d *demo) startShop(ctx context.Context) error {
	port, err := cluster.FreePort()
	if err != nil {
		return err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	service, err := d.shop.With(map[string]string{"DATABASE_URL": d.url, "SHOP_LISTEN": listen}).Start(ctx)
	if err != nil {
		return err
	}
	d.customers = &customers{
		url: "http://" + listen, seed: d.opts.Seed, number: 8, orders: d.opts.Events / 2, pace: 20 * time.Millisecond,
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}},
	}
	err = until(ctx, service, func() error {
		resp, err := d.customers.client.Get(d.customers.url + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.print.good("%-18s %s", "shop-order-api", d.customers.url)
	return nil
}

// seen waits until n relays have written their heartbeat.
func (d *demo) seen(ctx context.Context, n int) error {
	return until(ctx, d.relays[0].Process, func() error {
		var seen int
		if err := d.pool.QueryRow(ctx, `select count(*) from baton.instance`).Scan(&seen); err != nil || seen >= n {
			return err
		}
		return fmt.Errorf("%d of %d relays are there", seen, n)
	})
}

// until tries again until it succeeds, or the process that it depends on ends.
func until(ctx context.Context, process *cluster.Process, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-process.Done():
			return fmt.Errorf("demo: a process ended: %w", process.Err())
		case <-ctx.Done():
			return fmt.Errorf("demo: %w: %w", err, ctx.Err())
		}
	}
}

// work lets customers and writers write, and kills a relay in the middle.
func (d *demo) work(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	writers := trial.Writers{
		Pool: d.pool, Journal: d.journal, Seed: d.opts.Seed, Writers: 6, Records: 40,
		RecordType: "shop.order", InsertType: "shop.invoice", Events: d.opts.Events / 2, PerSecond: 350, Payload: 200,
	}
	d.print.text("\nwriting about %d events: orders over HTTP, transactions that overlap, roll back "+
		"and INSERT into the outbox", d.opts.Events)
	var group sync.WaitGroup
	group.Go(func() {
		if err := d.customers.run(ctx); err != nil {
			cancel(err)
		}
	})
	group.Go(func() {
		if err := writers.Run(ctx); err != nil {
			cancel(err)
		}
	})
	group.Go(func() {
		if err := d.killOne(ctx); err != nil {
			cancel(err)
		}
	})
	watching, stopWatching := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { d.watch(watching) })
	group.Wait()
	stopWatching()
	watch.Wait()
	return context.Cause(ctx)
}

// killOne kills relay-1 when a third is written and it holds leases, and waits until others have them.
func (d *demo) killOne(ctx context.Context) error {
	for d.written() < int64(d.opts.Events)/3 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
	held, err := d.relays[0].KillWithWork(ctx, d.pool)
	if err != nil {
		return err
	}
	start := time.Now()
	d.print.bad("%s killed (SIGKILL) with %d records in hand", d.relays[0].Name, len(held))
	if err := trial.TakenOver(ctx, d.pool, held); err != nil {
		return err
	}
	d.takeover = time.Since(start)
	d.print.good("its records were taken over after %.1f s", d.takeover.Seconds())
	return nil
}

func (d *demo) written() int64 { return d.customers.accepted.Load() + d.journal.Confirmed() }

// watch draws progress until ctx ends.
func (d *demo) watch(ctx context.Context) {
	for {
		delivered, err := d.kafka.Messages()
		if err == nil {
			d.print.progress(delivered, max(delivered, int64(d.opts.Events)), "%s  %d rolled back  %d version conflicts",
				d.kafkaName(), d.journal.RolledBack(), d.customers.refused.Load())
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// drain waits until the outbox is empty, and lets the relays end as SIGTERM does.
func (d *demo) drain(ctx context.Context) error {
	draining, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := trial.Drained(draining, d.pool); err != nil {
		return err
	}
	for _, r := range d.relays[1:] {
		if err := r.Signal(syscall.SIGTERM); err != nil {
			return fmt.Errorf("demo: stop %s: %w", r.Name, err)
		}
	}
	for _, r := range d.relays[1:] {
		select {
		case <-r.Done():
			if r.ExitCode() != 0 {
				return fmt.Errorf("demo: %s ended with %d: %w", r.Name, r.ExitCode(), r.Err())
			}
		case <-draining.Done():
			return fmt.Errorf("demo: %s does not end: %w", r.Name, draining.Err())
		}
	}
	return nil
}
