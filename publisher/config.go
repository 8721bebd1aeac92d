package publisher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/IBM/sarama"
)

// batchBytes is what a batch adds to its only message.
const batchBytes = 61

// maxMessageBytesDefault makes the most of a broker's default limit, which is for a batch. The largest event that the
// outbox accepts fits.
const maxMessageBytesDefault = 1_048_588 - batchBytes

// Config says where and how to publish.
type Config struct {
	// Brokers are seeds, each host:port. The rest of the cluster is learned from them.
	Brokers []string
	// ClientID is what brokers see in logs and quotas.
	ClientID string
	// Source is the header ce_source of every message: who the events are from, a URI or a name.
	Source string
	// Routes give topic, key form and policy by record type. The zero Routing sends every type to its default.
	Routes Routing
	// Partitions returns the partition count that an operator has accepted for a topic, 0 for any. It is asked for
	// every message, by several goroutines. nil accepts every count.
	Partitions func(topic string) int32
	// SendTimeout ends the wait for one event's verdict. It bounds every other wait for a broker too.
	SendTimeout time.Duration
	// Lease is how long leases are: no event is handed over in a lease's last quarter.
	Lease time.Duration
	// MaxMessageBytes is the largest message, uncompressed, with headers: above it an event is refused unsent. Keep
	// it at least 61 bytes below the smallest max.message.bytes of the topics.
	MaxMessageBytes int
	// Compression of batches. None is the default.
	Compression sarama.CompressionCodec
	// Dial replaces the way to a broker, for tests. nil is TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// DefaultConfig lacks the brokers only.
func DefaultConfig() Config {
	return Config{
		ClientID:        "baton",
		Source:          "baton",
		SendTimeout:     10 * time.Second,
		Lease:           30 * time.Second,
		MaxMessageBytes: maxMessageBytesDefault,
	}
}

// Validate returns one error that names every bad field.
func (c Config) Validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("publisher: config: "+format, args...))
		}
	}
	bad(len(c.Brokers) == 0, "Brokers is empty: name at least one, as in localhost:9092")
	for _, broker := range c.Brokers {
		_, port, err := net.SplitHostPort(broker)
		bad(err != nil || port == "", "Brokers has %q: it must be host:port, as in localhost:9092", broker)
	}
	bad(c.ClientID == "", "ClientID is empty: give a name, as in baton")
	bad(c.Source == "", "Source is empty: say who the events are from, as in shop-order-api")
	bad(c.SendTimeout <= 0, "SendTimeout is %v: it must be positive, as in 10s", c.SendTimeout)
	bad(c.Lease <= 0, "Lease is %v: it must be positive, as in 30s", c.Lease)
	bad(c.MaxMessageBytes < 1024 || c.MaxMessageBytes > int(sarama.MaxRequestSize)/2,
		"MaxMessageBytes is %d: it must be 1024 to %d", c.MaxMessageBytes, sarama.MaxRequestSize/2)
	bad(c.Compression < sarama.CompressionNone || c.Compression > sarama.CompressionZSTD,
		"Compression is %d: use none, gzip, snappy, lz4 or zstd", c.Compression)
	return errors.Join(errs...)
}

// client is sarama's configuration for everything but producing.
func (c Config) client(conns *conns) *sarama.Config {
	s := sarama.NewConfig()
	s.ClientID = c.ClientID
	s.Version = sarama.MaxVersion // the highest that sarama speaks; every request is lowered to what the broker has
	s.Net.MaxOpenRequests = 1
	s.Net.DialTimeout = c.SendTimeout / 2
	// A produce request's silence is judged by the wave's own deadline, which comes no later: sarama's time-out would
	// begin a second try, and hide that the first may still land.
	s.Net.ReadTimeout = c.SendTimeout
	s.Net.WriteTimeout = c.SendTimeout
	s.Net.Proxy.Enable = true
	s.Net.Proxy.Dialer = conns
	s.Metadata.Full = false // only the topics that are used
	s.Metadata.AllowAutoTopicCreation = false
	s.Metadata.RefreshFrequency = time.Minute // how late a changed partition count is noticed
	s.Metadata.Retry.Max = 3
	s.Metadata.Retry.Backoff = 100 * time.Millisecond
	s.Metadata.Timeout = c.SendTimeout
	s.Admin.Timeout = c.SendTimeout
	s.Admin.Retry.Max = 3
	return s
}

// producer is sarama's configuration for producing. A lone producer puts one message into each request.
func (c Config) producer(conns *conns, lone bool) *sarama.Config {
	s := c.client(conns)
	s.Producer.Idempotent = true
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Timeout = c.SendTimeout / 2 // how long a broker waits for its followers before it says so
	s.Producer.Retry.Max = 3               // the back-off is the relay's; these few only step over a new leader
	s.Producer.Retry.Backoff = 100 * time.Millisecond
	s.Producer.Transaction.Retry.Max = 3 // asking for a producer id, also without transactions
	s.Producer.Return.Successes = true
	s.Producer.Return.Errors = true
	s.Producer.MaxMessageBytes = c.MaxMessageBytes
	s.Producer.Compression = c.Compression
	s.Producer.Partitioner = c.partitioner
	if lone {
		s.Producer.Flush.MaxMessages = 1
	}
	return s
}
