// Package checker judges a run: it compares what writers committed with what the topics hold, each
// partition read to its end.
//
// It decides four things about the relay: whether an event is lost, whether the log holds anything
// that nobody committed, whether a record's first copies stand in commit order, and whether a record
// stayed in one partition. Copies that came again are counted, not blamed. Time and memory are O(events).
//
// It does not read the outbox or Kafka itself, says nothing about time, and cannot know of an event
// that its caller did not hand over. A failover that lost commits shows as phantoms: it was one.
package checker

import (
	"crypto/sha256"

	"github.com/google/uuid"
)

// Sum stands for a payload. The zero Sum is that of nil, a tombstone.
type Sum [16]byte

// Hash sums a payload. nil and empty differ, as they do in Kafka.
func Hash(payload []byte) Sum {
	if payload == nil {
		return Sum{}
	}
	full := sha256.Sum256(payload)
	return Sum(full[:16])
}

// Committed is one event whose transaction committed.
type Committed struct {
	Position   int64 // of the record's events no two have the same
	RecordType string
	RecordKey  string
	EventID    uuid.UUID
	Type       string
	Hash       Sum  // of the payload
	Skipped    bool // given up on purpose: it need not be delivered
}

// Delivered is one message of a topic.
type Delivered struct {
	Topic      string
	Partition  int32
	Offset     int64
	RecordType string
	RecordKey  string
	EventID    uuid.UUID // uuid.Nil where the header is not one: never that of a committed event
	Type       string
	Hash       Sum // of the value
	Position   int64
	Token      int64  // of the claim that sent it
	Epoch      string // a consumer starts its integer afresh when it changes
	Gap        int64  // position of a skipped event before this one, or 0
}

// Checker collects both sides. It is for one goroutine.
type Checker struct {
	records    interned[recordName]
	words      interned[string] // types of event and epochs
	partitions interned[partitionName]
	committed  []committed
	delivered  []delivered
}

type (
	recordName    struct{ kind, key string }
	partitionName struct {
		topic  string
		number int32
	}
	// fact is what every copy of an event must agree on.
	fact struct {
		id   uuid.UUID
		hash Sum
		kind int32
	}
	committed struct {
		fact
		position int64
		record   int32
		skipped  bool
	}
	delivered struct {
		fact
		position, token, gap, offset int64
		record, partition, epoch     int32
	}
)

// New returns an empty checker.
func New() *Checker {
	return &Checker{
		records:    newInterned[recordName](),
		words:      newInterned[string](),
		partitions: newInterned[partitionName](),
	}
}

// Commit tells what was committed, each event once, in any order. Ascending positions cost the least.
func (c *Checker) Commit(events ...Committed) {
	for i := range events {
		e := &events[i]
		c.committed = append(c.committed, committed{
			fact:     fact{id: e.EventID, hash: e.Hash, kind: c.words.number(e.Type)},
			position: e.Position,
			record:   c.records.number(recordName{e.RecordType, e.RecordKey}),
			skipped:  e.Skipped,
		})
	}
}

// Deliver tells what a partition holds, in the order of its offsets. Partitions may be mixed.
func (c *Checker) Deliver(messages ...Delivered) {
	for i := range messages {
		m := &messages[i]
		c.delivered = append(c.delivered, delivered{
			fact:      fact{id: m.EventID, hash: m.Hash, kind: c.words.number(m.Type)},
			position:  m.Position,
			token:     m.Token,
			gap:       m.Gap,
			offset:    m.Offset,
			record:    c.records.number(recordName{m.RecordType, m.RecordKey}),
			partition: c.partitions.number(partitionName{m.Topic, m.Partition}),
			epoch:     c.words.number(m.Epoch),
		})
	}
}

// interned numbers values from 0, in the order of their first sight. Millions of events name the same
// few records and words: a number each keeps an event small.
type interned[T comparable] struct {
	numbers map[T]int32
	values  []T
}

func newInterned[T comparable]() interned[T] { return interned[T]{numbers: map[T]int32{}} }

func (n *interned[T]) number(value T) int32 {
	i, ok := n.numbers[value]
	if !ok {
		i = int32(len(n.values))
		n.numbers[value] = i
		n.values = append(n.values, value)
	}
	return i
}
