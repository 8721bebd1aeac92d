package publisher

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"

	"github.com/batonrelay/baton/outbox"
)

// The message is a contract that cannot change: consumers in every language read it.
//
//	key              the record key; by route "record type/record key"
//	value            the payload's bytes; NULL is a tombstone
//	timestamp        when it was sent. Never the event's time: a broker forgets a producer by its batches' timestamps
//	ce_specversion   1.0: CloudEvents in binary mode
//	ce_id            the event's UUID, the same in every copy
//	ce_source        Config.Source
//	ce_type          record type, '.', event type
//	ce_subject       the record key
//	ce_time          when the event was written, RFC 3339 in UTC
//	content-type     the event's own, else application/json
//	traceparent, tracestate, baggage, as written, where the event has them
//	the event's own other headers, sorted by name
//	baton_position   grows along a record; a consumer that keeps the highest sees each event once and in order
//	baton_token      of the claim
//	baton_epoch      another one: the database lost commits, begin afresh
//	baton_gap        where an operator skipped: the position of an event between the one before and this one
const (
	headerSpec        = "ce_specversion"
	headerID          = "ce_id"
	headerSource      = "ce_source"
	headerType        = "ce_type"
	headerSubject     = "ce_subject"
	headerTime        = "ce_time"
	headerContentType = "content-type"
	headerParent      = "traceparent"
	headerState       = "tracestate"
	headerBaggage     = "baggage"
	headerPosition    = "baton_position"
	headerToken       = "baton_token"
	headerEpoch       = "baton_epoch"
	headerGap         = "baton_gap"

	specVersion        = "1.0"
	contentTypeDefault = "application/json"

	// What one message takes in the shared slices below. Guesses: a wrong one costs a copy.
	headersPerMessage = 12
	bytesPerMessage   = 384
)

// press makes the keys and headers of many messages out of two slices, instead of some 25 allocations each.
type press struct {
	headers []sarama.RecordHeader
	bytes   []byte
	source  string
}

func newPress(source string, messages int) *press {
	return &press{
		headers: make([]sarama.RecordHeader, 0, messages*headersPerMessage),
		bytes:   make([]byte, 0, messages*bytesPerMessage),
		source:  source,
	}
}

// key returns the key of a record's messages.
func (p *press) key(form KeyForm, record outbox.Record) []byte {
	start := len(p.bytes)
	if form == KeyAndType {
		p.bytes = append(append(p.bytes, record.Type...), '/')
	}
	p.bytes = append(p.bytes, record.Key...)
	return p.since(start)
}

// head returns the headers of event i of a run. An event with a header that is the relay's own is refused: the
// database does not let one in, and a consumer would believe it.
func (p *press) head(run *outbox.Run, i int) ([]sarama.RecordHeader, error) {
	event := &run.Events[i]
	start := len(p.headers)
	p.text(headerSpec, specVersion)
	p.id(event.ID)
	p.text(headerSource, p.source)
	p.eventType(event)
	p.text(headerSubject, event.Record.Key)
	p.time(event.CreatedAt)
	if err := p.own(event.Headers); err != nil {
		return nil, err
	}
	p.number(headerPosition, event.Position)
	p.number(headerToken, run.Token)
	p.text(headerEpoch, run.Epoch)
	if i == 0 && run.Gap != 0 {
		p.number(headerGap, run.Gap)
	}
	return p.headers[start:len(p.headers):len(p.headers)], nil
}

// own adds what the event brought, and the content type in any case.
func (p *press) own(headers map[string]string) error {
	contentType, found := headers[headerContentType]
	if !found {
		contentType = contentTypeDefault
	}
	p.text(headerContentType, contentType)
	if len(headers) == 0 {
		return nil
	}
	for _, name := range [...]string{headerParent, headerState, headerBaggage} {
		if value, found := headers[name]; found {
			p.text(name, value)
		}
	}
	others := make([]string, 0, 16) // on the stack, for most events
	for name := range headers {
		switch {
		case reserved(name):
			return &outbox.ClassError{Class: outbox.BadEvent, Err: fmt.Errorf(
				"publisher: header %q: names that begin with ce_ or baton_ are the relay's", name)}
		case name == headerContentType, name == headerParent, name == headerState, name == headerBaggage:
		default:
			others = append(others, name)
		}
	}
	slices.Sort(others)
	for _, name := range others {
		p.text(name, headers[name])
	}
	return nil
}

func reserved(name string) bool {
	return strings.HasPrefix(name, "ce_") || strings.HasPrefix(name, "baton_")
}

func (p *press) text(name, value string) {
	start := len(p.bytes)
	p.bytes = append(p.bytes, value...)
	p.add(name, start)
}

func (p *press) number(name string, value int64) {
	start := len(p.bytes)
	p.bytes = strconv.AppendInt(p.bytes, value, 10)
	p.add(name, start)
}

func (p *press) time(t time.Time) {
	start := len(p.bytes)
	p.bytes = t.UTC().AppendFormat(p.bytes, time.RFC3339Nano)
	p.add(headerTime, start)
}

func (p *press) id(id uuid.UUID) {
	start := len(p.bytes)
	for i, end := range [...]int{4, 6, 8, 10, 16} {
		from := [...]int{0, 4, 6, 8, 10}[i]
		if i > 0 {
			p.bytes = append(p.bytes, '-')
		}
		p.bytes = hex.AppendEncode(p.bytes, id[from:end])
	}
	p.add(headerID, start)
}

func (p *press) eventType(event *outbox.Event) {
	start := len(p.bytes)
	p.bytes = append(append(append(p.bytes, event.Record.Type...), '.'), event.Type...)
	p.add(headerType, start)
}

// add appends a header whose value is the bytes since start. The name goes into the bytes too: it costs a copy, not
// an allocation.
func (p *press) add(name string, start int) {
	value := p.since(start)
	start = len(p.bytes)
	p.bytes = append(p.bytes, name...)
	p.headers = append(p.headers, sarama.RecordHeader{Key: p.since(start), Value: value})
}

// since never lets a later append reach what it returned.
func (p *press) since(start int) []byte { return p.bytes[start:len(p.bytes):len(p.bytes)] }
