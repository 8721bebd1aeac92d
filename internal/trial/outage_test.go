package trial_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/internal/trial"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
)

// outage is two relays and writers at work, on a server of their own that goes away.
type outage struct {
	t       *testing.T
	ctx     context.Context
	pool    *pgxpool.Pool // the writers', and ours
	kafka   trial.Kafka
	journal *trial.Journal
	relays  []*inProcess

	stopWriting context.CancelFunc
	written     chan error
}

// newOutage starts relays with that lease, and writers.
func newOutage(t *testing.T, url string, brokers []string, lasting time.Duration) *outage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	o := &outage{t: t, ctx: ctx, journal: trial.NewJournal(), written: make(chan error, 1)}
	suffix := time.Now().UnixNano()
	o.kafka = trial.Kafka{Brokers: brokers}
	for _, name := range []string{"order", "note"} {
		o.kafka.Topics = append(o.kafka.Topics, fmt.Sprintf("o%d.%s.events", suffix, name))
	}
	if err := o.kafka.CreateTopics(ctx, 4, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(ctx, url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	o.pool = o.open(url, "writers")
	for i := range 2 {
		pool := o.open(url, lease.ApplicationName+" outage")
		relay, repo := relayIn(t, pool, o.kafka, fmt.Sprint("outage-", i), func(c *outbox.RelayConfig) {
			c.Lease, c.Log = lasting, slog.New(slog.DiscardHandler)
		})
		o.relays = append(o.relays, run(ctx, relay, repo))
	}
	o.write(100)
	return o
}

func (o *outage) open(url, application string) *pgxpool.Pool {
	o.t.Helper()
	pool, err := open(o.ctx, url, application, 10, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(pool.Close)
	return pool
}

func (o *outage) write(perSecond int) {
	w := trial.Writers{
		Pool: o.pool, Journal: o.journal, Seed: 1, Writers: 4, Records: 60, PerSecond: perSecond, Payload: 200,
		RecordType: recordType(o.kafka.Topics[0]), InsertType: recordType(o.kafka.Topics[1]),
	}
	var ctx context.Context
	ctx, o.stopWriting = context.WithCancel(o.ctx)
	go func() { o.written <- w.Run(ctx) }()
}

// goOn lets everything work for a while, and returns whether it did.
func (o *outage) goOn(d time.Duration) {
	o.t.Helper()
	before := o.journal.Confirmed()
	select {
	case <-time.After(d):
	case <-o.ctx.Done():
		o.t.Fatal(o.ctx.Err())
	}
	if o.journal.Confirmed() == before {
		o.t.Errorf("the writers wrote nothing in %v", d)
	}
}

// stats adds what counts here of the relays.
func (o *outage) stats() (sum outbox.RelayStats) {
	for _, r := range o.relays {
		s := r.relay.Stats()
		sum.Claims += s.Claims
		sum.ClaimErrors += s.ClaimErrors
		sum.Parked += s.Parked
		sum.Published += s.Published
		sum.FailedWorld += s.FailedWorld
		sum.FailedTopic += s.FailedTopic
		sum.FailedEvent += s.FailedEvent
	}
	return sum
}

// spent asks for attempts and parked records.
func (o *outage) spent() (attempts, parked int) {
	o.t.Helper()
	const sql = `select coalesce(max(attempts), 0), count(*) filter (where ready_at = 'infinity') from baton.record`
	if err := o.pool.QueryRow(o.ctx, sql).Scan(&attempts, &parked); err != nil {
		o.t.Fatal(err)
	}
	return attempts, parked
}

// finish stops the writers, waits until all is delivered, and judges. It returns how long that took.
func (o *outage) finish() (took time.Duration, v trial.Verdict) {
	o.t.Helper()
	o.stopWriting()
	if err := <-o.written; err != nil {
		o.t.Errorf("writers: %v", err)
	}
	start := time.Now()
	if err := trial.Drained(o.ctx, o.pool); err != nil {
		o.t.Fatal(err)
	}
	took = time.Since(start)
	for _, r := range o.relays {
		if err := r.end(); err != nil {
			o.t.Errorf("relay ended: %v", err)
		}
	}
	v, err := trial.Judge(o.ctx, o.pool, o.kafka, o.journal)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Log(v.Report)
	if !v.OK() {
		o.t.Errorf("verdict: %+v", v)
	}
	if s := o.stats(); s.Parked > 0 || s.FailedTopic > 0 || s.FailedEvent > 0 {
		o.t.Errorf("the outage was taken for somebody's fault: %+v", s)
	}
	return took, v
}

// ownBroker starts a broker that the test may take away.
func ownBroker(t *testing.T) *cluster.Kafka {
	t.Helper()
	return clustertest.BreakableKafka(t)
}

// Feared: an outage spends attempts until everything is parked, or churns the whole outbox through
// claims that come to nothing.
func TestABrokerThatIsAwaySpendsNoAttemptAndParksNothing(t *testing.T) {
	t.Parallel()
	away := 30 * time.Second
	if os.Getenv("BATON_LONG") != "" {
		away = 120 * time.Second
	}
	broker := ownBroker(t)
	o := newOutage(t, clustertest.Database(t), broker.Addrs(), 3*time.Second)
	o.goOn(2 * time.Second)
	before := o.stats()
	if before.Published == 0 {
		t.Errorf("nothing was published before the outage: %+v", before)
	}
	if err := broker.Kill(0); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(away); time.Now().Before(end); {
		o.goOn(time.Second)
		if attempts, parked := o.spent(); attempts > 0 || parked > 0 {
			t.Fatalf("in the outage: attempts = %d, parked = %d", attempts, parked)
		}
	}
	during := o.stats()
	if err := broker.Start(o.ctx, 0); err != nil {
		t.Fatal(err)
	}
	took, _ := o.finish()
	claims := during.Claims - before.Claims
	t.Logf("away %v: %d claims, %d failed sends of runs; %d events were confirmed, all delivered %.1f s after "+
		"the broker was back", away, claims, during.FailedWorld-before.FailedWorld, o.journal.Confirmed(), took.Seconds())
	// four consumers that pause up to 5 s between probes; without a pause they would claim some hundred times a second
	if most := int64(20 * away / time.Second); claims > most {
		t.Errorf("claims in the outage = %d, want at most %d", claims, most)
	}
	if during.FailedWorld == before.FailedWorld {
		t.Error("no send failed: there was no outage")
	}
	if took > 45*time.Second {
		t.Errorf("all was delivered %v after the broker was back", took)
	}
}

// Feared: a broker that says nothing for two send time-outs is taken for one that refused, and the next
// event is sent while the first may still land.
func TestAFrozenBrokerDelaysAndReordersNothing(t *testing.T) {
	t.Parallel()
	broker := ownBroker(t)
	o := newOutage(t, clustertest.Database(t), broker.Addrs(), 3*time.Second)
	for range 2 {
		o.goOn(2 * time.Second)
		before := o.stats()
		if err := broker.Pause(0); err != nil {
			t.Fatal(err)
		}
		o.goOn(4 * time.Second) // relayIn's send time-out is 2 s
		attempts, parked := o.spent()
		if err := broker.Resume(0); err != nil {
			t.Fatal(err)
		}
		if attempts > 0 || parked > 0 {
			t.Errorf("while the broker was frozen: attempts = %d, parked = %d", attempts, parked)
		}
		if o.stats().FailedWorld == before.FailedWorld {
			t.Error("no send was undecided: the broker was not frozen")
		}
	}
	took, v := o.finish()
	t.Logf("all delivered %.1f s after the broker went on, %d copies came again", took.Seconds(), v.Duplicates)
}

// Feared: acknowledgements and claims whose answers were lost with the database leave their records to
// wait for the end of long leases.
func TestADatabaseThatComesBackFindsItsLeasesReleased(t *testing.T) {
	t.Parallel()
	const lasting = 60 * time.Second
	postgres, err := cluster.StartPostgres(t.Context(), cluster.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(postgres.Stop)
	o := newOutage(t, postgres.URL(), clustertest.Kafka(t).Addrs(), lasting)
	for range 2 {
		o.goOn(2 * time.Second)
		before := o.stats()
		if err := postgres.Kill(); err != nil {
			t.Fatal(err)
		}
		<-time.After(5 * time.Second)
		if err := postgres.Restart(o.ctx, true); err != nil {
			t.Fatal(err)
		}
		if o.stats().ClaimErrors == before.ClaimErrors {
			t.Error("no claim failed: there was no outage")
		}
		o.goOn(2 * time.Second)
	}
	took, v := o.finish()
	t.Logf("all delivered within %.1f s, %d copies came again", took.Seconds(), v.Duplicates)
	if took > lasting/2 {
		t.Errorf("all was delivered after %v, a lease is %v: its end was waited for", took, lasting)
	}
	var held int
	err = o.pool.QueryRow(o.ctx, `select count(*) from baton.record where token is not null`).Scan(&held)
	if err != nil || held > 0 {
		t.Errorf("leases left = %d (%v), want none", held, err)
	}
}

// Feared: a relay that is told to end while nothing can be sent waits for what will not come.
func TestARelayEndsWithinItsDrainWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	broker := ownBroker(t)
	o := newOutage(t, clustertest.Database(t), broker.Addrs(), 3*time.Second)
	o.goOn(time.Second)
	if err := broker.Kill(0); err != nil {
		t.Fatal(err)
	}
	o.goOn(2 * time.Second)
	var ending sync.WaitGroup
	start := time.Now()
	for _, r := range o.relays {
		ending.Go(func() {
			if err := r.end(); err != nil {
				t.Errorf("a relay that could settle everything ended with %v", err)
			}
		})
	}
	ending.Wait()
	if took := time.Since(start); took > outbox.DefaultRelayConfig().Drain {
		t.Errorf("ending took %v", took)
	}
	o.stopWriting()
	if err := <-o.written; err != nil {
		t.Error(err)
	}
	var held int
	const sql = `select count(*) from baton.record where token is not null and locked_until > clock_timestamp()`
	if err := o.pool.QueryRow(o.ctx, sql).Scan(&held); err != nil || held > 0 {
		t.Errorf("leases left = %d (%v), want none", held, err)
	}
}
