package publisher

import (
	"fmt"

	"github.com/IBM/sarama"
)

// partitioner chooses as Java's producer does: murmur2 of the key's bytes, modulo the partition count. Every message
// has a key, if an empty one. It refuses a topic whose count is not the accepted one: with another count a
// record's next event would go to another partition, and consumers could see it before the one it follows.
func (c Config) partitioner(topic string) sarama.Partitioner {
	return &keyPartitioner{Partitioner: sarama.NewMurmur2Partitioner(topic), topic: topic, accepted: c.Partitions}
}

type keyPartitioner struct {
	sarama.Partitioner
	topic    string
	accepted func(topic string) int32
}

func (p *keyPartitioner) Partition(message *sarama.ProducerMessage, partitions int32) (int32, error) {
	if p.accepted != nil {
		if accepted := p.accepted(p.topic); accepted != 0 && accepted != partitions {
			return -1, &PartitionsError{Topic: p.topic, Accepted: accepted, Found: partitions}
		}
	}
	return p.Partitioner.Partition(message, partitions)
}

// PartitionsError says that a topic has another partition count than the accepted one. Nothing was sent.
type PartitionsError struct {
	Topic           string
	Accepted, Found int32
}

func (e *PartitionsError) Error() string {
	return fmt.Sprintf("publisher: topic %s has %d partitions, accepted are %d: wait until its consumers have read "+
		"everything, then run: baton topics accept %s", e.Topic, e.Found, e.Accepted, e.Topic)
}
