package publisher

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// readAll reads a topic up to where it ends now, with a client of another make.
func readAll(t testing.TB, brokers []string, topic string) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reader, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	left := ends(ctx, t, reader, topic)
	var all []*kgo.Record
	for len(left) > 0 {
		fetches := reader.PollFetches(ctx) // errors that pass are the client's to step over
		if ctx.Err() != nil {
			t.Fatalf("read %s: %v, %v", topic, ctx.Err(), fetches.Err())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			all = append(all, r)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return all
}

// ends returns the next offset of every partition that has records, as soon as every partition has a leader.
func ends(ctx context.Context, t testing.TB, client *kgo.Client, topic string) map[int32]int64 {
	t.Helper()
	for {
		offsets, err := tryEnds(ctx, client, topic)
		if err == nil {
			return offsets
		}
		if !kerr.IsRetriable(err) {
			t.Fatalf("end of topic %s: %v", topic, err)
		}
		wait(ctx, 10*time.Millisecond)
	}
}

func tryEnds(ctx context.Context, client *kgo.Client, topic string) (map[int32]int64, error) {
	metadata := kmsg.NewPtrMetadataRequest()
	asked := kmsg.NewMetadataRequestTopic()
	asked.Topic = &topic
	metadata.Topics = append(metadata.Topics, asked)
	known, err := metadata.RequestWith(ctx, client)
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(known.Topics[0].ErrorCode); err != nil {
		return nil, err
	}
	offsets := map[int32]int64{}
	for _, partition := range known.Topics[0].Partitions {
		end, err := endOf(ctx, client, topic, partition.Partition)
		if err != nil {
			return nil, err
		}
		if end > 0 {
			offsets[partition.Partition] = end
		}
	}
	return offsets, nil
}

func endOf(ctx context.Context, client *kgo.Client, topic string, partition int32) (int64, error) {
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID = -1
	asked := kmsg.NewListOffsetsRequestTopicPartition()
	asked.Partition, asked.Timestamp = partition, -1
	of := kmsg.NewListOffsetsRequestTopic()
	of.Topic = topic
	of.Partitions = append(of.Partitions, asked)
	request.Topics = append(request.Topics, of)
	answer, err := request.RequestWith(ctx, client)
	if err != nil {
		return 0, err
	}
	found := answer.Topics[0].Partitions[0]
	return found.Offset, kerr.ErrorForCode(found.ErrorCode)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
