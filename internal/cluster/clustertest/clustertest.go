// Package clustertest gives tests the real servers of package cluster: one PostgreSQL and one Kafka per test process,
// started by the first test that asks, and a fresh database per test.
//
// It promises that after Main no server and no goroutine is left. The environment decides where servers come from:
// BATON_TEST_POSTGRES (a superuser's URL) and BATON_TEST_KAFKA (addresses, with commas) name running ones, so that
// many test processes share them; KAFKA=real|sim chooses between a real broker and kfake. A test that ran without a
// real broker says so on standard error, whatever go test's flags are. Tests that stop, kill or restart a server start
// their own by cluster.StartPostgres and cluster.StartKafka: these are shared.
package clustertest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/batonrelay/baton/internal/cluster"
)

const (
	startMax = 4 * time.Minute // a first run downloads
	dropMax  = 30 * time.Second
)

// shared holds the process's servers. It is a global because go test gives a package's tests no other place that they
// all see and that outlives each of them.
var shared struct {
	postgres once[*cluster.Postgres]
	kafka    once[*cluster.Kafka]

	mu        sync.Mutex
	simulated map[string]bool // the tests that did not see a real broker
}

// once starts a server when it is first asked for, and remembers failure too.
type once[T any] struct {
	mu      sync.Mutex
	started bool
	server  T
	err     error
}

func (o *once[T]) get(start func(context.Context) (T, error)) (T, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.started {
		// not the first test's context: the server outlives that test
		ctx, cancel := context.WithTimeout(context.Background(), startMax)
		defer cancel()
		o.started = true
		o.server, o.err = start(ctx)
	}
	return o.server, o.err
}

// stop applies f to the server, if there is one.
func (o *once[T]) stop(f func(T)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.started && o.err == nil {
		f(o.server)
	}
}

// Main runs a package's tests, stops the servers, checks that no goroutine is left, and exits.
//
//	func TestMain(m *testing.M) { clustertest.Main(m) }
func Main(m *testing.M, options ...goleak.Option) { os.Exit(Run(m, options...)) }

// Run is Main for a package with something of its own to clean up: it returns the exit status.
func Run(m *testing.M, options ...goleak.Option) int {
	code := m.Run()
	shared.postgres.stop((*cluster.Postgres).Stop)
	shared.kafka.stop((*cluster.Kafka).Stop)
	if n := len(shared.simulated); n > 0 {
		fmt.Fprintf(os.Stderr, "clustertest: %d test(s) did not see a real broker\n", n)
	}
	if err := goleak.Find(append(options, Background()...)...); code == 0 && err != nil {
		fmt.Fprintf(os.Stderr, "clustertest: goroutines left after the tests: %v\n", err)
		code = 1
	}
	return code
}

// Background are goroutines of libraries that nobody can end.
func Background() []goleak.Option {
	return []goleak.Option{
		// sarama's metrics: one ticker for the whole process, from the first meter on
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"),
		// sarama's circuit breaker: once it opened it sleeps for ten seconds, and ends
		goleak.IgnoreAnyFunction("github.com/eapache/go-resiliency/breaker.(*Breaker).timer"),
	}
}

// Postgres returns the test process's server.
func Postgres(t testing.TB) *cluster.Postgres {
	t.Helper()
	p, err := shared.postgres.get(func(ctx context.Context) (*cluster.Postgres, error) {
		if url := os.Getenv("BATON_TEST_POSTGRES"); url != "" {
			return cluster.AttachPostgres(ctx, url)
		}
		return cluster.StartPostgres(ctx, cluster.PostgresOptions{Log: log})
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Database returns the superuser's URL of an empty database, which is dropped after the test.
func Database(t testing.TB) string {
	t.Helper()
	p := Postgres(t)
	url, err := p.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dropMax) // t.Context() has ended
		defer cancel()
		if err := p.DropDatabase(ctx, url); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return url
}

// Kafka returns the test process's cluster. If it is a simulated one the test's name is printed, and appended to the
// file that BATON_SIMULATED_LOG names.
func Kafka(t testing.TB) *cluster.Kafka {
	t.Helper()
	k, err := shared.kafka.get(func(ctx context.Context) (*cluster.Kafka, error) {
		if addrs := os.Getenv("BATON_TEST_KAFKA"); addrs != "" {
			return cluster.AttachKafka(strings.Split(addrs, ","), os.Getenv("BATON_TEST_KAFKA_SIMULATED") == "1"), nil
		}
		return cluster.StartKafkaMode(ctx, os.Getenv("KAFKA"), cluster.KafkaOptions{Log: log})
	})
	if err != nil {
		t.Fatal(err)
	}
	if k.Simulated {
		reportSimulated(t)
	}
	return k
}

// OwnKafka starts a cluster for the test alone, and stops it after the test. A simulated one is reported as by Kafka.
func OwnKafka(t testing.TB) *cluster.Kafka {
	t.Helper()
	k, err := cluster.StartKafkaMode(t.Context(), os.Getenv("KAFKA"), cluster.KafkaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	if k.Simulated {
		reportSimulated(t)
	}
	return k
}

// BreakableKafka is OwnKafka for a test that kills or freezes brokers. Where only a simulated one can be had the test
// does not run: it is reported like those that ran on one.
func BreakableKafka(t testing.TB) *cluster.Kafka {
	t.Helper()
	k := OwnKafka(t)
	if k.Simulated {
		t.Skip("NOT RUN: a simulated Kafka cannot be killed or frozen; Java 17 and Maven bring a real one")
	}
	return k
}

func reportSimulated(t testing.TB) {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.simulated[t.Name()] {
		return
	}
	if shared.simulated == nil {
		shared.simulated = map[string]bool{}
	}
	shared.simulated[t.Name()] = true
	line := "did not see a real broker: " + t.Name() + "\n"
	fmt.Fprint(os.Stderr, line)
	path := os.Getenv("BATON_SIMULATED_LOG")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("open BATON_SIMULATED_LOG: %v", err)
	}
	defer f.Close()
	if _, err := f.WriteString(line); err != nil {
		t.Fatalf("write BATON_SIMULATED_LOG: %v", err)
	}
}

// log goes to standard error: a server outlives the test that started it, and t.Log after a test's end panics.
func log(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
