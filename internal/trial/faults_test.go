package trial_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/internal/trial"
	"github.com/batonrelay/baton/migrations"
)

const (
	faultLease = 2 * time.Second
	faultTime  = 6 * time.Second
)

// site is a place where relays run as processes: servers of its own, since they are broken on purpose.
type site struct {
	t        *testing.T
	postgres *cluster.Postgres
	broker   *cluster.Kafka
	kafka    trial.Kafka
	pool     *pgxpool.Pool
	program  trial.Program
	log      *os.File

	mu     sync.Mutex
	relays []*trial.Relay
	named  int
}

func newSite(t *testing.T, broker *cluster.Kafka) *site {
	t.Helper()
	ctx := t.Context()
	s := &site{t: t, broker: broker, kafka: trial.Kafka{Topics: []string{"shop.order.events", "shop.invoice.events"}}}
	var err error
	if s.postgres, err = cluster.StartPostgres(ctx, cluster.PostgresOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.postgres.Stop)
	s.kafka.Brokers = s.broker.Addrs()
	if err := migrations.Up(ctx, s.postgres.URL(), migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := s.kafka.CreateTopics(ctx, 8, 1, nil); err != nil {
		t.Fatal(err)
	}
	cfg, err := pgxpool.ParseConfig(s.postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 20
	if s.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	if s.log, err = os.CreateTemp(t.TempDir(), "relays"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.showLog() })
	s.program = trial.Program{Path: binary(t, "baton"), Log: s.log, Env: map[string]string{
		"DATABASE_URL": s.postgres.URL(), "BATON_KAFKA_BROKERS": strings.Join(s.kafka.Brokers, ","), "BATON_SOURCE": "trial",
		"BATON_LEASE": faultLease.String(), "BATON_SEND_TIMEOUT": "1500ms", "BATON_OPS_LISTEN": "off", "BATON_LOG_FORMAT": "text",
		"BATON_DRAIN": "10s",
	}}
	return s
}

func (s *site) showLog() {
	defer s.log.Close()
	if !s.t.Failed() {
		return
	}
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		s.t.Log(err)
	}
	s.t.Logf("the last of what the relays printed:\n%s", text[max(0, len(text)-6000):])
}

// start starts a relay under a name of its own.
func (s *site) start() *trial.Relay {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named++
	r, err := trial.StartRelay(s.t.Context(), s.program, fmt.Sprintf("relay-%d", s.named))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(r.Kill)
	s.relays = append(s.relays, r)
	return r
}

// replace puts a new relay in the place of the i-th.
func (s *site) replace(i int) {
	r := s.start()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relays[i] = r
	s.relays = s.relays[:len(s.relays)-1]
}

// end sends SIGTERM to a relay, and wants it gone with status 0 within its drain.
func (s *site) end(r *trial.Relay) {
	s.t.Helper()
	if err := r.Signal(syscall.SIGTERM); err != nil {
		s.t.Errorf("%s: %v", r.Name, err)
		return
	}
	select {
	case <-r.Done():
		if r.ExitCode() != 0 {
			s.t.Errorf("%s ended with %d after SIGTERM: %v", r.Name, r.ExitCode(), r.Err())
		}
	case <-time.After(12 * time.Second):
		s.t.Errorf("%s did not end within its drain", r.Name)
	}
}

// run lets writers write while fault breaks things, and judges.
func (s *site) run(seed uint64, fault func(ctx context.Context, r *rand.Rand)) trial.Verdict {
	s.t.Helper()
	s.t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(s.t.Context(), 90*time.Second)
	defer cancel()
	for range 3 {
		s.start()
	}
	journal := trial.NewJournal()
	w := trial.Writers{
		Pool: s.pool, Journal: journal, Seed: seed, Writers: 8, Records: 60, PerSecond: 500, Payload: 200,
		RecordType: "shop.order", InsertType: "shop.invoice",
	}
	writing, stop := context.WithTimeout(ctx, faultTime)
	defer stop()
	var writers sync.WaitGroup
	writers.Go(func() {
		if err := w.Run(writing); err != nil {
			s.t.Errorf("writers: %v", err)
		}
	})
	fault(writing, rand.New(rand.NewPCG(seed, 0)))
	writers.Wait()
	if err := trial.Drained(ctx, s.pool); err != nil {
		s.t.Fatal(err)
	}
	for _, r := range s.relays {
		s.end(r)
	}
	v, err := trial.Judge(ctx, s.pool, s.kafka, journal)
	if err != nil {
		s.t.Fatal(err)
	}
	if !v.OK() {
		s.t.Errorf("the promise did not hold: %+v", v)
	}
	s.t.Logf("%v; from rolled back %d, vanished %d", v.Report, v.FromRolledBack, v.Vanished)
	return v
}

// every does something about each period until ctx ends, and returns how often.
func every(ctx context.Context, r *rand.Rand, period time.Duration, do func()) (n int) {
	for {
		select {
		case <-time.After(period/2 + rand.N(period)):
		case <-ctx.Done():
			return n
		}
		do()
		n++
	}
}

func seeds() uint64 {
	if os.Getenv("BATON_LONG") != "" {
		return 20
	}
	return 5
}

// eachSeed runs a trial for each seed, one after the other; the kinds of trial run side by side.
func eachSeed(t *testing.T, broker func(testing.TB) *cluster.Kafka, fault func(s *site, ctx context.Context, r *rand.Rand)) {
	t.Parallel()
	for seed := uint64(1); seed <= seeds(); seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := newSite(t, broker(t))
			s.run(seed, func(ctx context.Context, r *rand.Rand) { fault(s, ctx, r) })
		})
	}
}

// Feared: a killed relay's events are acknowledged by nobody, or its later events overtake its earlier ones.
func TestOrderSurvivesKilledRelays(t *testing.T) {
	eachSeed(t, clustertest.OwnKafka, func(s *site, ctx context.Context, r *rand.Rand) {
		every(ctx, r, 700*time.Millisecond, func() {
			i := r.IntN(3)
			s.relays[i].Kill()
			s.replace(i)
		})
	})
}

// Feared: a relay that slept past its lease goes on with events that another has sent meanwhile.
func TestOrderSurvivesFreezesPastTheLease(t *testing.T) {
	eachSeed(t, clustertest.OwnKafka, func(s *site, ctx context.Context, r *rand.Rand) {
		every(ctx, r, 500*time.Millisecond, func() {
			relay := s.relays[r.IntN(3)]
			if err := relay.Signal(syscall.SIGSTOP); err != nil {
				s.t.Error(err)
			}
			<-time.After(faultLease/2 + rand.N(faultLease))
			if err := relay.Signal(syscall.SIGCONT); err != nil {
				s.t.Error(err)
			}
		})
	})
}

// Feared: an event that a relay has read and sent is not there any more after the crash, or an
// acknowledgement that was lost with it leaves a record behind.
func TestOrderSurvivesACrashedDatabase(t *testing.T) {
	eachSeed(t, clustertest.OwnKafka, func(s *site, ctx context.Context, r *rand.Rand) {
		every(ctx, r, 1500*time.Millisecond, func() {
			if err := s.postgres.Restart(s.t.Context(), true); err != nil {
				s.t.Error(err)
			}
		})
	})
}

// Feared: an event whose answer was lost is taken for sent, or the next one is sent before it.
func TestOrderSurvivesAKilledBroker(t *testing.T) {
	eachSeed(t, clustertest.BreakableKafka, func(s *site, ctx context.Context, r *rand.Rand) {
		every(ctx, r, 1500*time.Millisecond, func() {
			if err := s.broker.Restart(s.t.Context(), 0, true); err != nil {
				s.t.Error(err)
			}
		})
	})
}

// Feared: a relay that is told to end leaves sends unacknowledged, which others repeat.
func TestRollingRestartUnderLoadSendsNothingTwice(t *testing.T) {
	t.Parallel()
	s := newSite(t, clustertest.OwnKafka(t))
	// leases are out of play: on a busy machine one of two seconds runs out by itself, and its events come again
	s.program = s.program.With(map[string]string{"BATON_LEASE": "20s", "BATON_SEND_TIMEOUT": "10s"})
	v := s.run(1, func(ctx context.Context, r *rand.Rand) {
		every(ctx, r, 500*time.Millisecond, func() {
			i := r.IntN(3)
			old := s.relays[i]
			s.replace(i)
			s.end(old)
		})
	})
	if v.Duplicates > 0 {
		t.Errorf("duplicates = %d, want 0", v.Duplicates)
	}
}

// binaries are built once for the process; TestMain removes them.
var binaries struct {
	sync.Mutex
	dir   string
	paths map[string]string
}

func binary(t testing.TB, name string) string {
	t.Helper()
	binaries.Lock()
	defer binaries.Unlock()
	if path := binaries.paths[name]; path != "" {
		return path
	}
	path, err := trial.Build(t.Context(), binaries.dir, "github.com/batonrelay/baton/cmd/"+name)
	if err != nil {
		t.Fatal(err)
	}
	binaries.paths[name] = path
	return path
}
