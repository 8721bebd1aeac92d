package publisher

import (
	"context"
	"errors"
	"net"

	"github.com/IBM/sarama"
	"github.com/eapache/go-resiliency/breaker"

	"github.com/batonrelay/baton/outbox"
)

var (
	// ErrClosed: Close was called before.
	ErrClosed = errors.New("publisher: closed")
	// ErrLeaseEnding: too little is left of the lease to begin a send. Nothing was handed over.
	ErrLeaseEnding = outbox.ErrLeaseEnding
	// ErrSilence: the brokers gave no answer before the deadline. The event may be stored, or may be later.
	ErrSilence = errors.New("publisher: no answer from the brokers, the outcome is unknown")
	// ErrNotSent: the wave ended before this event's turn. Nothing was handed over.
	ErrNotSent = errors.New("publisher: the wave ended before the event was handed over")
)

// fault is what follows from one kind of error.
type fault struct {
	name  string
	match func(error) bool
	class outbox.Class
	// alone: the whole batch was refused, for a reason that may lie in one of its messages. The event goes again
	// alone, and class holds only for an event that was alone.
	alone bool
	// rebuild: this producer will not recover by itself.
	rebuild bool
	// undecided: the event may still land.
	undecided bool
	// cure is what an operator can do, if there is something.
	cure string
}

// faults is the one place that says whose fault an error is. The first row that matches holds; an error without a
// row is the world's fault, so a new kind of error can delay events, but never park one.
var faults = []fault{
	// No broker could be reached. It may wrap time-outs, but those are of dialling and metadata: nothing was sent.
	row("out of brokers", is(sarama.ErrOutOfBrokers), outbox.BadWorld),

	// The event. sarama measures a message against MaxMessageBytes by itself, before it is in any batch.
	row("larger than MaxMessageBytes", as[sarama.ConfigurationError], outbox.BadEvent).
		say("raise the relay's limit and the topic's max.message.bytes, or skip the event"),
	// The broker's limit is for the batch, and eight small events can break it together.
	row("MESSAGE_TOO_LARGE", is(sarama.ErrMessageSizeTooLarge), outbox.BadEvent).inBatch().
		say("raise the topic's max.message.bytes, or skip the event"),
	row("RECORD_LIST_TOO_LARGE", is(sarama.ErrMessageSetSizeTooLarge), outbox.BadEvent).inBatch(),
	// The broker's validation names a record in its answer, but sarama fails the whole batch.
	row("INVALID_RECORD", is(sarama.ErrInvalidRecord), outbox.BadEvent).inBatch(),
	// One message that cannot be encoded fails the request that it is in.
	row("cannot be encoded", as[sarama.PacketEncodingError], outbox.BadEvent).inBatch(),

	// The topic. Unknown may be a topic just made, deleted, or a typo: only time tells these apart, and sarama has
	// asked for some 300 ms when it says so. It costs an attempt; how many a record has is the relay's decision.
	row("UNKNOWN_TOPIC_OR_PARTITION", is(sarama.ErrUnknownTopicOrPartition), outbox.BadTopic).
		say("run: baton topics ensure"),
	row("INVALID_TOPIC", is(sarama.ErrInvalidTopic), outbox.BadTopic),
	row("TOPIC_AUTHORIZATION_FAILED", is(sarama.ErrTopicAuthorizationFailed), outbox.BadTopic).
		say("grant the relay Write and Describe on the topic"),
	// The topic keeps an old message format, which has no headers and no idempotence.
	row("UNSUPPORTED_FOR_MESSAGE_FORMAT", is(sarama.ErrUnsupportedForMessageFormat), outbox.BadTopic),
	row("partition count not accepted", as[*PartitionsError], outbox.BadTopic),

	// The producer's numbers and the broker's do not agree any more. After every failure sarama counts on from
	// another epoch, so these are its bookkeeping's fault, not the event's.
	row("OUT_OF_ORDER_SEQUENCE_NUMBER", is(sarama.ErrOutOfOrderSequenceNumber), outbox.BadWorld).fatal(),
	row("UNKNOWN_PRODUCER_ID", is(sarama.ErrUnknownProducerID), outbox.BadWorld).fatal(),
	row("INVALID_PRODUCER_EPOCH", is(sarama.ErrInvalidProducerEpoch), outbox.BadWorld).fatal(),
	row("INVALID_PRODUCER_ID_MAPPING", is(sarama.ErrInvalidProducerIDMapping), outbox.BadWorld).fatal(),
	row("PRODUCER_FENCED", is(sarama.ErrProducerFenced), outbox.BadWorld).fatal(),
	// Three errors in a row, and sarama refuses a topic or partition unasked for ten seconds: the broker was down. A
	// new producer finds out sooner that it is back.
	row("circuit breaker", is(breaker.ErrBreakerOpen), outbox.BadWorld).fatal(),
	row("producer shuts down", is(sarama.ErrShuttingDown), outbox.BadWorld).fatal(),
	row("client closed", is(sarama.ErrClosedClient), outbox.BadWorld).fatal(),

	// The world, where one might think otherwise. Not the event: its timestamp is this machine's clock.
	row("INVALID_TIMESTAMP", is(sarama.ErrInvalidTimestamp), outbox.BadWorld),
	// Not the topic: idempotent writes are denied to this relay altogether.
	row("CLUSTER_AUTHORIZATION_FAILED", is(sarama.ErrClusterAuthorizationFailed), outbox.BadWorld).
		say("grant the relay IdempotentWrite on the cluster"),
	// Not the event: what was damaged on the wire is whole in the database.
	row("CORRUPT_MESSAGE", is(sarama.ErrInvalidMessage), outbox.BadWorld),
	row("REQUEST_TIMED_OUT", is(sarama.ErrRequestTimedOut), outbox.BadWorld),
	row("NOT_ENOUGH_REPLICAS_AFTER_APPEND", is(sarama.ErrNotEnoughReplicasAfterAppend), outbox.BadWorld),
	row("cancelled", is(context.Canceled), outbox.BadWorld),
	row("deadline", is(context.DeadlineExceeded), outbox.BadWorld),
	// sarama gave up waiting on a connection: a frozen broker may store the event when it wakes.
	row("network time-out", timedOut, outbox.BadWorld).silent(),
}

func row(name string, match func(error) bool, class outbox.Class) fault {
	return fault{name: name, match: match, class: class}
}

func (f fault) inBatch() fault        { f.alone = true; return f }
func (f fault) say(cure string) fault { f.cure = cure; return f }
func (f fault) fatal() fault          { f.rebuild = true; return f }
func (f fault) silent() fault         { f.rebuild, f.undecided = true, true; return f }

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func timedOut(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// faultOf finds the row of an error.
func faultOf(err error) fault {
	for _, f := range faults {
		if f.match(err) {
			return f
		}
	}
	return fault{name: "unknown", class: outbox.BadWorld}
}
