package outbox

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// The types of event that most records know. Any other name of at most TypeBytesMax bytes is as good.
const (
	Created = "Created"
	Updated = "Updated"
	Removed = "Removed"
)

// Limits of one event, in bytes unless named otherwise. The database enforces the same ones for
// writers in other languages; a test holds the two together.
const (
	RecordTypeBytesMax = 200  // a record type becomes part of a topic's name, which Kafka limits to 249
	RecordKeyBytesMax  = 1024 // the key of every message
	TypeBytesMax       = 200
	HeadersMax         = 64 // headers of one event
	HeadersBytesMax    = 16 << 10
	PayloadBytesMax    = 1_000_000 // below a broker's default of 1,048,588 for a whole batch
)

// Record is the thing that events are about, and the unit of order: {"shop.order", "42"}.
// The type has letters, digits, '.', '_' and '-' only.
type Record struct {
	Type string
	Key  string
}

// Event is one fact about a record. It is never changed once written.
type Event struct {
	// ID is unique to the event and the same in every copy of it. Add makes a UUIDv7 where it is zero.
	ID uuid.UUID
	// Record is what the event is about.
	Record Record
	// Type says what happened: Created, Updated, Removed or a name of the application's own.
	Type string
	// Payload goes to Kafka byte by byte. nil is a tombstone (a NULL value), an empty slice an empty value.
	Payload []byte
	// Headers go along untouched: traceparent, tracestate, baggage, content-type and the application's
	// own. Names that begin with "ce_" or "baton_" are the relay's.
	Headers map[string]string

	// Position is given by the database. It grows along a record in commit order, with gaps.
	Position int64
	// CreatedAt is the database's clock when the event was written.
	CreatedAt time.Time
}

// identify gives the event an ID where it has none.
func (e *Event) identify() (err error) {
	if e.ID != uuid.Nil {
		return nil
	}
	if e.ID, err = uuid.NewV7(); err != nil {
		return fmt.Errorf("outbox: make event id: %w", err)
	}
	return nil
}

// bytes is what the event counts for against limits in bytes: its payload.
func (e *Event) bytes() int64 { return int64(len(e.Payload)) }
