package outbox

import (
	"bytes"
	"container/heap"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/batonrelay/baton/lease"
)

// Memory is an EventRepo in the memory of this process, for tests and experiments: the semantics of
// Postgres, without a transaction to write in. What was published is forgotten at once.
type Memory struct {
	lease time.Duration

	mu       sync.Mutex
	ids      map[Record]int64
	records  map[int64]*memoryRecord // those that have work
	gaps     map[int64]int64         // the last skipped position of a record, until a later event is stored
	due      memoryQueue             // by when they are ready
	leased   memoryQueue             // by when their leases end
	position int64
	token    int64
}

// memoryRecord is a record that has work. It is in one of the queues, or parked.
type memoryRecord struct {
	id       int64
	events   []Event // that wait
	ready    time.Time
	token    int64 // of the claim that holds it, or held it until its lease ran out
	attempts int
	claims   int
	parked   bool
	err      string

	queue *memoryQueue // that it is in, or nil
	at    time.Time    // its key there
	turn  int64        // decides between equal keys
	index int
}

// NewMemory makes an empty outbox whose claims hold records for the given time.
func NewMemory(lease time.Duration) *Memory {
	return &Memory{
		lease: lease,
		ids:   map[Record]int64{}, records: map[int64]*memoryRecord{}, gaps: map[int64]int64{},
	}
}

// Add writes events and returns their positions.
func (m *Memory) Add(ctx context.Context, events ...Event) ([]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i := range events {
		if field, reason := events[i].problem(); field != "" {
			return nil, &FieldError{Index: i, Field: field, Reason: reason}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	positions := make([]int64, len(events))
	now := time.Now()
	for i, e := range events {
		if err := e.identify(); err != nil {
			return nil, err
		}
		m.position++
		e.Position, e.CreatedAt, e.Payload = m.position, now, bytes.Clone(e.Payload)
		if e.Headers = maps.Clone(e.Headers); len(e.Headers) == 0 {
			e.Headers = nil
		}
		r := m.record(e.Record)
		r.events = append(r.events, e)
		if r.queue == nil && !r.parked {
			m.due.put(r, now)
		}
		positions[i] = m.position
	}
	return positions, nil
}

// record returns the record's work, none yet where it was idle.
func (m *Memory) record(record Record) *memoryRecord {
	id, ok := m.ids[record]
	if !ok {
		id = int64(len(m.ids) + 1)
		m.ids[record] = id
	}
	r, ok := m.records[id]
	if !ok {
		r = &memoryRecord{id: id, ready: time.Now()}
		m.records[id] = r
	}
	return r
}

// Lock claims due records.
func (m *Memory) Lock(ctx context.Context, limits lease.Limits) (Claim, error) {
	if err := ctx.Err(); err != nil {
		return Claim{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for m.leased.first(now) != nil { // their leases ran out
		r := m.leased.list[0]
		m.due.put(r, r.ready)
	}
	m.token++
	c := Claim{Claim: lease.Claim{Token: m.token, Until: now.Add(m.lease)}}
	taken := m.pick(&c, limits, now)
	for i, n := range fit(taken, limits) {
		r := taken[i]
		events := slices.Clone(r.events[:n])
		c.Records = append(c.Records, lease.Record{
			ID: r.id, First: events[0].Position, Last: events[n-1].Position, Bytes: bytesOf(events),
			Attempts: r.attempts, Claims: r.claims, Stale: r.token != 0,
		})
		c.Runs = append(c.Runs, Run{
			ID: r.id, Token: c.Token, Epoch: "memory", Gap: m.gaps[r.id], Deadline: c.Until, Events: events,
		})
		r.token = c.Token
		r.claims++
		m.leased.put(r, c.Until)
	}
	return c, nil
}

// pick finds due records, oldest first: suspects alone, or all others. It leaves them in the queue.
func (m *Memory) pick(c *Claim, limits lease.Limits, now time.Time) []*memoryRecord {
	records := limits.Records
	if limits.Alone {
		records = min(1, records)
	}
	var picked, seen []*memoryRecord
	for len(picked) < records && m.due.first(now) != nil {
		r := heap.Pop(&m.due).(*memoryRecord)
		seen = append(seen, r)
		suspect := r.claims >= lease.SuspectAfter
		c.Suspects = c.Suspects || suspect
		if suspect == limits.Alone {
			picked = append(picked, r)
		}
	}
	for _, r := range seen {
		heap.Push(&m.due, r) // its turn stays
	}
	return picked
}

// fit says how many events of each record are claimed: a fair part of the limits, at least one, then
// what the others left. The last records get none where the bytes do not suffice.
func fit(records []*memoryRecord, limits lease.Limits) []int {
	if len(records) == 0 {
		return nil
	}
	counts, hungry := make([]int, len(records)), 0
	events, size := limits.Events, limits.Bytes
	for i, r := range records {
		n := max(1, upTo(r.events, max(1, limits.Events/len(records)), max(1, limits.Bytes/int64(len(records)))))
		counts[i] = n
		events, size = events-n, size-bytesOf(r.events[:n])
		if n < len(r.events) {
			hungry++
		}
	}
	fits := int64(0)
	for i, r := range records {
		if n := counts[i]; n < len(r.events) && events > 0 && size > 0 {
			counts[i] += upTo(r.events[n:], events/hungry, size/int64(hungry))
		}
		fits += bytesOf(r.events[:counts[i]])
		if i > 0 && fits > limits.Bytes {
			return counts[:i]
		}
	}
	return counts
}

// upTo counts the events at the front that are within both bounds.
func upTo(events []Event, eventsMax int, bytesMax int64) int {
	n, size := 0, int64(0)
	for n < len(events) && n < eventsMax && size+events[n].bytes() <= bytesMax {
		size += events[n].bytes()
		n++
	}
	return n
}

func bytesOf(events []Event) (size int64) {
	for i := range events {
		size += events[i].bytes()
	}
	return size
}

// Extend prolongs leases.
func (m *Memory) Extend(ctx context.Context, held []lease.Held) (time.Time, error) {
	now := time.Now()
	until := now.Add(m.lease)
	named := func(i int) lease.Held { return held[i] }
	return until, m.each(ctx, len(held), named, func(r *memoryRecord, _ int) bool {
		alive := r.queue == &m.leased && r.at.After(now)
		if alive {
			m.leased.put(r, until)
		}
		return alive
	})
}

// Unlock ends leases with work left.
func (m *Memory) Unlock(ctx context.Context, releases []lease.Release) error {
	now := time.Now()
	held := func(i int) lease.Held { return releases[i].Held }
	return m.each(ctx, len(releases), held, func(r *memoryRecord, i int) bool {
		m.store(r, releases[i].Stored)
		r.attempts = releases[i].Attempts
		r.parked = r.parked || releases[i].Park
		if releases[i].Err != "" {
			r.err = releases[i].Err
		}
		m.free(r, now.Add(releases[i].Delay))
		return true
	})
}

// Remove acknowledges.
func (m *Memory) Remove(ctx context.Context, acks []lease.Ack) error {
	now := time.Now()
	held := func(i int) lease.Held { return acks[i].Held }
	return m.each(ctx, len(acks), held, func(r *memoryRecord, i int) bool {
		m.store(r, acks[i].Last)
		m.free(r, now)
		return true
	})
}

// each does something to every record that is still held; the others, and where do says no, are lost.
func (m *Memory) each(ctx context.Context, n int, held func(int) lease.Held, do func(*memoryRecord, int) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var lost []lease.Held
	for i := range n {
		h := held(i)
		if r := m.records[h.ID]; r == nil || r.token != h.Token || !do(r, i) {
			lost = append(lost, h)
		}
	}
	if len(lost) > 0 {
		return &lease.LostError{Held: lost}
	}
	return nil
}

// store drops the events up to a position.
func (m *Memory) store(r *memoryRecord, position int64) {
	n := 0
	for n < len(r.events) && r.events[n].Position <= position {
		n++
	}
	if n == 0 {
		return
	}
	r.events = slices.Delete(r.events, 0, n)
	r.attempts, r.err = 0, ""
	delete(m.gaps, r.id) // a gap is before the first event that waits: it has been told
}

// free ends a lease. The record is due from then on, or parked, or idle.
func (m *Memory) free(r *memoryRecord, ready time.Time) {
	r.token, r.claims, r.ready = 0, 0, ready
	switch {
	case r.parked:
		r.leave()
	case len(r.events) == 0:
		r.leave()
		delete(m.records, r.id)
	default:
		m.due.put(r, ready)
	}
}

// Park stops a record where it is and fences its holder. New events wait behind.
func (m *Memory) Park(record Record, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.record(record)
	r.parked, r.err = true, reason
	m.free(r, time.Now())
}

// Unpark lets a record go on at once, with its attempts forgotten. False: it has no work.
func (m *Memory) Unpark(record Record) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[m.ids[record]]
	if r == nil {
		return false
	}
	r.parked, r.attempts, r.err = false, 0, ""
	m.free(r, time.Now())
	return true
}

// Skip gives up a record's head event, fences its holder, and returns the event's position, or 0 where
// no event waits.
func (m *Memory) Skip(record Record) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[m.ids[record]]
	if r == nil || len(r.events) == 0 {
		return 0
	}
	head := r.events[0].Position
	m.store(r, head)
	m.gaps[r.id] = head
	r.parked = false
	m.free(r, time.Now())
	return head
}

// LastError is what the last failed release of a record said, until one of its events is stored.
func (m *Memory) LastError(record Record) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.records[m.ids[record]]; r != nil {
		return r.err
	}
	return ""
}
