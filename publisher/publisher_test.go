package publisher

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/batonrelay/baton/outbox"
)

func TestMain(m *testing.M) {
	// go-metrics, which sarama counts with, starts one goroutine for the whole process and has no way to end it.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// simulated starts a Kafka in this process, for what only it can inject.
func simulated(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func config(brokers []string) Config {
	c := DefaultConfig()
	c.Brokers = brokers
	c.Source = "shop-order-api"
	return c
}

func newWaves(t testing.TB, c Config) *Waves {
	t.Helper()
	w, err := NewWaves(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close error = %v", err)
		}
	})
	return w
}

// newRun makes a run of one record: positions base+1, base+2, ... and payloads that name them.
func newRun(recordType, key string, base int64, events int) outbox.Run {
	run := outbox.Run{Token: 77, Epoch: "7301234567890123456.1", Deadline: time.Now().Add(time.Minute)}
	for i := range events {
		position := base + int64(i) + 1
		run.Events = append(run.Events, outbox.Event{
			ID: uuid.Must(uuid.NewV7()), Record: outbox.Record{Type: recordType, Key: key}, Type: outbox.Updated,
			Payload:  fmt.Appendf(nil, `{"position":%d}`, position),
			Position: position, CreatedAt: time.Date(2026, 11, 24, 10, 0, 0, 123456000, time.UTC),
		})
	}
	return run
}

// readAll reads topics to their end with a client of another make.
func readAll(t testing.TB, brokers []string, want int, topics ...string) []*kgo.Record {
	t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var all []*kgo.Record
	for len(all) < want {
		fetches := reader.PollFetches(t.Context())
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		all = append(all, fetches.Records()...)
	}
	return all
}
