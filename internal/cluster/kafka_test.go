package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

func saramaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V3_6_0_0
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Return.Successes = true
	c.Metadata.Retry.Max, c.Metadata.Retry.Backoff = 100, 100*time.Millisecond
	c.Producer.Retry.Max = 100
	return c
}

func createTopic(t *testing.T, addrs []string, topic string, replicas int16) {
	t.Helper()
	admin, err := sarama.NewClusterAdmin(addrs, saramaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	detail := &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: replicas}
	if err := admin.CreateTopic(topic, detail, false); err != nil {
		t.Fatal(err)
	}
}

func produce(t *testing.T, addrs []string, topic, value string) {
	t.Helper()
	producer, err := sarama.NewSyncProducer(addrs, saramaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	message := &sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(value)}
	if _, _, err := producer.SendMessage(message); err != nil {
		t.Fatal(err)
	}
}

func firstValue(t *testing.T, addrs []string, topic string) string {
	t.Helper()
	consumer, err := sarama.NewConsumer(addrs, saramaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(topic, 0, sarama.OffsetOldest)
	if err != nil {
		t.Fatal(err)
	}
	defer partition.Close()
	select {
	case m := <-partition.Messages():
		return string(m.Value)
	case <-time.After(20 * time.Second):
		t.Fatal("no record after 20 s")
		return ""
	}
}

func startRealKafka(t *testing.T, o KafkaOptions) *Kafka {
	t.Helper()
	if ok, why := KafkaAvailable(); !ok {
		t.Skipf("NOT RUN: no real Kafka here: %s; %s", why, kafkaCure)
	}
	o.Log = t.Logf
	k, err := StartKafka(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	return k
}

func TestKafkaKeepsRecordsOverKillAndRestart(t *testing.T) {
	k := startRealKafka(t, KafkaOptions{})
	createTopic(t, k.Addrs(), "kept", 1)
	produce(t, k.Addrs(), "kept", "before")
	for _, kill := range []bool{true, false} {
		pid := k.PID(0)
		if err := k.Restart(t.Context(), 0, kill); err != nil {
			t.Fatal(err)
		}
		if k.PID(0) == pid {
			t.Errorf("kill %t: pid = %d as before", kill, pid)
		}
		if got, want := firstValue(t, k.Addrs(), "kept"), "before"; got != want {
			t.Errorf("kill %t: first record = %q, want %q", kill, got, want)
		}
	}
	another := &Kafka{ClusterID: "another", brokers: k.brokers}
	if err := another.answers(0, 1); err == nil {
		t.Error("a broker of another cluster id was taken for ours")
	}
	addr := k.Addrs()[0]
	k.Stop()
	k.Stop()
	checkRefused(t, addr)
}

func TestPausedBrokerIsSilentUntilResumed(t *testing.T) {
	k := startRealKafka(t, KafkaOptions{})
	createTopic(t, k.Addrs(), "silent", 1)
	if err := k.Pause(0); err != nil {
		t.Fatal(err)
	}
	config := saramaConfig()
	config.Net.ReadTimeout = 300 * time.Millisecond
	b := sarama.NewBroker(k.Addrs()[0])
	if err := b.Open(config); err != nil {
		t.Fatal(err)
	}
	if _, err := b.GetMetadata(&sarama.MetadataRequest{}); err == nil {
		t.Error("paused broker answered")
	}
	b.Close()
	if err := k.Resume(0); err != nil {
		t.Fatal(err)
	}
	produce(t, k.Addrs(), "silent", "after")
}

func TestThreeBrokersSurviveTheLossOfOne(t *testing.T) {
	k := startRealKafka(t, KafkaOptions{Brokers: 3})
	createTopic(t, k.Addrs(), "replicated", 3)
	if err := k.Kill(0); err != nil {
		t.Fatal(err)
	}
	produce(t, k.Addrs()[1:], "replicated", "kept")
	if err := k.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got, want := firstValue(t, k.Addrs(), "replicated"), "kept"; got != want {
		t.Errorf("first record = %q, want %q", got, want)
	}
}

func TestSimulatedKafkaCreatesNoTopicByItself(t *testing.T) {
	k, err := StartSimulatedKafka(t.Context(), KafkaOptions{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	config := saramaConfig()
	config.Metadata.Retry.Max, config.Producer.Retry.Max = 0, 0
	producer, err := sarama.NewSyncProducer(k.Addrs(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	message := &sarama.ProducerMessage{Topic: "missing", Value: sarama.StringEncoder("x")}
	if _, _, err := producer.SendMessage(message); err == nil {
		t.Error("a topic that nobody created took a record")
	}
	createTopic(t, k.Addrs(), "made", 1)
	produce(t, k.Addrs(), "made", "kept")
	if got, want := firstValue(t, k.Addrs(), "made"), "kept"; got != want {
		t.Errorf("first record = %q, want %q", got, want)
	}
	if err := k.Kill(0); err == nil {
		t.Error("Kill on a simulated Kafka succeeded, want an error")
	}
}

func TestKafkaModeFallsBackOnlyWhenNothingWasAsked(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	k, err := StartKafkaMode(t.Context(), "", KafkaOptions{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	k.Stop()
	if !k.Simulated {
		t.Error("a Kafka that claims to be real runs without Java")
	}
	for mode, want := range map[string]string{"real": kafkaCure, "other": "KAFKA=other"} {
		if _, err := StartKafkaMode(t.Context(), mode, KafkaOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("KAFKA=%s: error = %v, want one with %q", mode, err, want)
		}
	}
}

func newClient(t *testing.T, addrs []string, config *sarama.Config) sarama.Client {
	t.Helper()
	client, err := sarama.NewClient(addrs, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}
