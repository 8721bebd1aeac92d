package publisher

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/eapache/go-resiliency/breaker"
	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/outbox"
)

// goldenFaults is the table again: a change of a class is a decision, not a slip.
const goldenFaults = `out of brokers: bad world
larger than MaxMessageBytes: bad event
MESSAGE_TOO_LARGE: bad event, if alone
RECORD_LIST_TOO_LARGE: bad event, if alone
INVALID_RECORD: bad event, if alone
cannot be encoded: bad event, if alone
UNKNOWN_TOPIC_OR_PARTITION: bad topic
INVALID_TOPIC: bad topic
TOPIC_AUTHORIZATION_FAILED: bad topic
UNSUPPORTED_FOR_MESSAGE_FORMAT: bad topic
partition count not accepted: bad topic
OUT_OF_ORDER_SEQUENCE_NUMBER: bad world, new producer
UNKNOWN_PRODUCER_ID: bad world, new producer
INVALID_PRODUCER_EPOCH: bad world, new producer
INVALID_PRODUCER_ID_MAPPING: bad world, new producer
PRODUCER_FENCED: bad world, new producer
circuit breaker: bad world, new producer
producer shuts down: bad world, new producer
client closed: bad world, new producer
INVALID_TIMESTAMP: bad world
CLUSTER_AUTHORIZATION_FAILED: bad world
CORRUPT_MESSAGE: bad world
REQUEST_TIMED_OUT: bad world
NOT_ENOUGH_REPLICAS_AFTER_APPEND: bad world
cancelled: bad world
deadline: bad world
network time-out: bad world, new producer, undecided
`

func TestFaultsAreGolden(t *testing.T) {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&b, "%s: %v", f.name, f.class)
		for _, note := range []struct {
			on   bool
			text string
		}{{f.alone, ", if alone"}, {f.rebuild, ", new producer"}, {f.undecided, ", undecided"}} {
			if note.on {
				b.WriteString(note.text)
			}
		}
		b.WriteByte('\n')
	}
	if diff := cmp.Diff(goldenFaults, b.String()); diff != "" {
		t.Errorf("table differs (-want +got):\n%s", diff)
	}
}

// Only these codes of Kafka may ever park a record.
func TestEveryOtherKafkaErrorIsTheWorlds(t *testing.T) {
	blamed := []sarama.KError{
		sarama.ErrMessageSizeTooLarge, sarama.ErrMessageSetSizeTooLarge, sarama.ErrInvalidRecord,
		sarama.ErrUnknownTopicOrPartition, sarama.ErrInvalidTopic, sarama.ErrTopicAuthorizationFailed,
		sarama.ErrUnsupportedForMessageFormat,
	}
	known := 0
	for code := sarama.KError(-1); code < 200; code++ {
		if !strings.HasPrefix(code.Error(), "Unknown error") {
			known++
		}
		wrapped := fmt.Errorf("topic orders: %w", code)
		if got := faultOf(wrapped).class; (got != outbox.BadWorld) != slices.Contains(blamed, code) {
			t.Errorf("code %d (%v): class %v", code, code, got)
		}
	}
	if known < 90 {
		t.Errorf("sarama knew %d codes, want at least 90: does this test still see them?", known)
	}
}

func TestErrorsThatAreNotCodesHaveTheirClass(t *testing.T) {
	timeout := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, c := range []struct {
		err  error
		want string
	}{
		{sarama.ConfigurationError("too large"), "larger than MaxMessageBytes"},
		{sarama.PacketEncodingError{Info: "string too long"}, "cannot be encoded"},
		{breaker.ErrBreakerOpen, "circuit breaker"},
		{timeout, "network time-out"},
		{sarama.Wrap(sarama.ErrOutOfBrokers, timeout), "out of brokers"},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errors.New("refused"))}, "unknown"},
		{errors.New("assertion failed: message out of sequence added to a batch"), "unknown"},
	} {
		if got := faultOf(fmt.Errorf("wrapped: %w", c.err)).name; got != c.want {
			t.Errorf("%v: row %q, want %q", c.err, got, c.want)
		}
	}
}
