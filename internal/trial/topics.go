package trial

import (
	"context"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"github.com/batonrelay/baton/internal/checker"
	"github.com/batonrelay/baton/publisher"
)

// Kafka is where events go: the brokers, and the topics by name.
type Kafka struct {
	Brokers []string
	Topics  []string
}

// CreateTopics creates the topics, each with so many partitions and replicas.
func (k Kafka) CreateTopics(ctx context.Context, partitions int32, replicas int16, settings map[string]string) error {
	cfg := publisher.DefaultConfig()
	cfg.Brokers, cfg.Source = k.Brokers, "trial"
	specs := make([]publisher.TopicSpec, len(k.Topics))
	for i, t := range k.Topics {
		specs[i] = publisher.TopicSpec{Name: t, Partitions: partitions, ReplicationFactor: replicas, Config: settings}
	}
	_, err := publisher.Ensure(ctx, cfg, specs)
	return err
}

// client speaks to the brokers as a reader.
func (k Kafka) client() (sarama.Client, error) {
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V3_6_0_0
	cfg.Metadata.AllowAutoTopicCreation = false
	cfg.Consumer.MaxWaitTime = 50 * time.Millisecond
	cfg.Consumer.Fetch.Default = 4 << 20
	client, err := sarama.NewClient(k.Brokers, cfg)
	if err != nil {
		return nil, fmt.Errorf("trial: connect to Kafka: %w", err)
	}
	return client, nil
}

// Messages counts what the topics hold.
func (k Kafka) Messages() (n int64, err error) {
	client, err := k.client()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	err = k.eachPartition(client, func(topic string, partition int32) error {
		end, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
		n += end
		return err
	})
	return n, err
}

func (k Kafka) eachPartition(client sarama.Client, do func(topic string, partition int32) error) error {
	for _, topic := range k.Topics {
		partitions, err := client.Partitions(topic)
		if err != nil {
			return fmt.Errorf("trial: partitions of %s: %w", topic, err)
		}
		for _, p := range partitions {
			if err := do(topic, p); err != nil {
				return fmt.Errorf("trial: %s/%d: %w", topic, p, err)
			}
		}
	}
	return nil
}

// Read reads every partition from its beginning to its end as of now, and passes what was read on, in
// the order of offsets within a partition. One partition after the other.
func (k Kafka) Read(ctx context.Context, each func(publisher.Message)) error {
	client, err := k.client()
	if err != nil {
		return err
	}
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return fmt.Errorf("trial: consume: %w", err)
	}
	defer consumer.Close()
	return k.eachPartition(client, func(topic string, partition int32) error {
		end, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
		if err != nil || end == 0 {
			return err
		}
		from, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
		if err != nil {
			return err
		}
		defer from.Close()
		for {
			select {
			case read := <-from.Messages():
				m, err := publisher.Decode(read)
				if err != nil {
					return err
				}
				each(m)
				if read.Offset >= end-1 {
					return nil
				}
			case <-ctx.Done():
				return fmt.Errorf("read to offset %d: %w", end, ctx.Err())
			}
		}
	})
}

// Delivered turns a message into what the checker compares.
func Delivered(m publisher.Message) checker.Delivered {
	return checker.Delivered{
		Topic: m.Topic, Partition: m.Partition, Offset: m.Offset,
		RecordType: m.Event.Record.Type, RecordKey: m.Event.Record.Key, EventID: m.Event.ID, Type: m.Event.Type,
		Hash: checker.Hash(m.Event.Payload), Position: m.Event.Position, Token: m.Token, Epoch: m.Epoch, Gap: m.Gap,
	}
}
