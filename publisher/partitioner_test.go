package publisher

import (
	"errors"
	"math"
	"testing"

	"github.com/IBM/sarama"

	"github.com/batonrelay/baton/outbox"
)

// The hashes and partitions were printed by org.apache.kafka.common.utils.Utils of kafka-clients 4.3.1.
var javaKeys = []struct {
	key         string
	hash        int32
	partition12 int32
}{
	{"", 275646681, 9},
	{"a", -1563381124, 4},
	{"ab", 316155434, 2},
	{"abc", 479470107, 3},
	{"21", -973932308, 0},
	{"foobar", -790332482, 6},
	{"42", 417700972, 4},
	{"order-1", 1221710326, 10},
	{"shop.order/42", -851227381, 7},
	{"Größe", -255045697, 7},
	{"a-little-bit-long-string", -985981536, 8},
	{"0123456789abcdef0123456789abcdef", 81657833, 5},
	{"\xff\x80\x00\x7f\xfe", 768357719, 11},
}

func TestPartitionsAreJavas(t *testing.T) {
	p := Config{}.partitioner("orders")
	for _, want := range javaKeys {
		// Among so many partitions the partition is the hash without its sign.
		for partitions, partition := range map[int32]int32{math.MaxInt32: want.hash & math.MaxInt32, 12: want.partition12} {
			got, err := p.Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(want.key)}, partitions)
			if got != partition || err != nil {
				t.Errorf("key %q of %d partitions: %d, %v, want %d", want.key, partitions, got, err, partition)
			}
		}
	}
}

func TestAnotherPartitionCountThanTheAcceptedOneIsRefused(t *testing.T) {
	accepted := int32(12)
	p := Config{Partitions: func(string) int32 { return accepted }}.partitioner("orders")
	message := &sarama.ProducerMessage{Key: sarama.ByteEncoder("42")}
	if got, err := p.Partition(message, 12); got != 4 || err != nil {
		t.Errorf("with the accepted count: partition %d, %v, want 4", got, err)
	}
	_, err := p.Partition(message, 13)
	var refused *PartitionsError
	if !errors.As(err, &refused) || *refused != (PartitionsError{Topic: "orders", Accepted: 12, Found: 13}) {
		t.Errorf("with 13 partitions: error = %v, want a *PartitionsError", err)
	}
	if got := faultOf(err).class; got != outbox.BadTopic {
		t.Errorf("class = %v, want %v", got, outbox.BadTopic)
	}
	accepted = 0
	if _, err := p.Partition(message, 13); err != nil {
		t.Errorf("with nothing accepted yet: error = %v", err)
	}
}
