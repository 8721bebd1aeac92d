package publisher

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/outbox"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

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

// ownKafka starts a real broker that the test may freeze and kill.
func ownKafka(t *testing.T) *cluster.Kafka {
	t.Helper()
	return clustertest.BreakableKafka(t)
}

func config(brokers []string) Config {
	c := DefaultConfig()
	c.Brokers = brokers
	c.Source = "shop-order-api"
	return c
}

// newTopic makes a topic of the test's own and routes the record type shop.order to it.
func newTopic(t testing.TB, c *Config, partitions int32, settings map[string]string) string {
	t.Helper()
	topic := strings.ToLower(t.Name()[:min(len(t.Name()), 60)]) + "." + uuid.NewString()[:8]
	topic = strings.NewReplacer("/", ".", "=", ".", "#", ".").Replace(topic)
	spec := TopicSpec{Name: topic, Partitions: partitions, ReplicationFactor: 1, Config: settings}
	if _, err := Ensure(t.Context(), *c, []TopicSpec{spec}); err != nil {
		t.Fatal(err)
	}
	readAll(t, c.Brokers, topic) // it has leaders when it can be read
	var err error
	if c.Routes, err = ParseRouting("shop.order="+topic, ""); err != nil {
		t.Fatal(err)
	}
	return topic
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
