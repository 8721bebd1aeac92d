package publisher

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"

	"github.com/batonrelay/baton/outbox"
)

// Message is a message as it was read from Kafka.
type Message struct {
	// Event as it was written. Its Headers are all that are neither ce_ nor baton_, content-type among them.
	//
	// The header ce_type joins record type and event type by a dot, and both may have dots: Record.Type and Type are
	// split at the last one. That is right for every event type without a dot; CEType has the whole for others.
	Event  outbox.Event
	CEType string
	Source string
	Token  int64
	Epoch  string
	Gap    int64 // 0: none

	Topic     string
	Partition int32
	Offset    int64
	Key       []byte
	SentAt    time.Time // by the sender's clock
}

// Decode reads a message that this package wrote: the reader's side of the contract. It names every header that is
// missing or wrong.
func Decode(read *sarama.ConsumerMessage) (Message, error) {
	m := Message{
		Topic: read.Topic, Partition: read.Partition, Offset: read.Offset, Key: read.Key, SentAt: read.Timestamp,
		Event: outbox.Event{Payload: read.Value},
	}
	relay := map[string]string{}
	for _, header := range read.Headers {
		name := string(header.Key)
		if reserved(name) {
			relay[name] = string(header.Value)
			continue
		}
		if m.Event.Headers == nil {
			m.Event.Headers = map[string]string{}
		}
		m.Event.Headers[name] = string(header.Value)
	}
	if err := m.fill(relay); err != nil {
		return Message{}, fmt.Errorf("publisher: decode offset %d of %s/%d: %w", read.Offset, read.Topic, read.Partition, err)
	}
	return m, nil
}

func (m *Message) fill(headers map[string]string) error {
	var errs []error
	text := func(name string) string {
		value, found := headers[name]
		if !found {
			errs = append(errs, fmt.Errorf("header %s is missing", name))
		}
		return value
	}
	check := func(name string, err error) {
		if _, found := headers[name]; found && err != nil {
			errs = append(errs, fmt.Errorf("header %s: %w", name, err))
		}
	}
	number := func(name string) int64 {
		n, err := strconv.ParseInt(text(name), 10, 64)
		check(name, err)
		return n
	}
	var err error
	if version := text(headerSpec); version != specVersion {
		check(headerSpec, fmt.Errorf("it is %q, not %s", version, specVersion))
	}
	m.Event.ID, err = uuid.Parse(text(headerID))
	check(headerID, err)
	m.Event.CreatedAt, err = time.Parse(time.RFC3339Nano, text(headerTime))
	check(headerTime, err)
	m.Source = text(headerSource)
	m.CEType = text(headerType)
	if dot := strings.LastIndexByte(m.CEType, '.'); dot >= 0 {
		m.Event.Record.Type, m.Event.Type = m.CEType[:dot], m.CEType[dot+1:]
	} else {
		check(headerType, fmt.Errorf("%q has no dot", m.CEType))
	}
	m.Event.Record.Key = text(headerSubject)
	m.Event.Position = number(headerPosition)
	m.Token = number(headerToken)
	m.Epoch = text(headerEpoch)
	if _, found := headers[headerGap]; found {
		m.Gap = number(headerGap)
	}
	return errors.Join(errs...)
}
