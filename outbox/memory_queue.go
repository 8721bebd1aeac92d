package outbox

import (
	"container/heap"
	"time"

	"github.com/batonrelay/baton/lease"
)

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

// memoryQueue is a heap of records by time. The zero value is empty.
type memoryQueue struct {
	list  []*memoryRecord
	turns int64
}

// first is the record whose time has come first, or nil.
func (q *memoryQueue) first(now time.Time) *memoryRecord {
	if len(q.list) == 0 || q.list[0].at.After(now) {
		return nil
	}
	return q.list[0]
}

// put moves a record into the queue, from whichever it was in.
func (q *memoryQueue) put(r *memoryRecord, at time.Time) {
	r.leave()
	q.turns++
	r.at, r.turn = at, q.turns
	heap.Push(q, r)
}

func (r *memoryRecord) leave() {
	if r.queue != nil {
		heap.Remove(r.queue, r.index)
	}
}

// Len, Less, Swap, Push and Pop are for package heap.

func (q *memoryQueue) Len() int { return len(q.list) }

func (q *memoryQueue) Less(i, j int) bool {
	a, b := q.list[i], q.list[j]
	return a.at.Before(b.at) || a.at.Equal(b.at) && a.turn < b.turn
}

func (q *memoryQueue) Swap(i, j int) {
	q.list[i], q.list[j] = q.list[j], q.list[i]
	q.list[i].index, q.list[j].index = i, j
}

func (q *memoryQueue) Push(x any) {
	r := x.(*memoryRecord)
	r.queue, r.index = q, len(q.list)
	q.list = append(q.list, r)
}

func (q *memoryQueue) Pop() any {
	last := len(q.list) - 1
	r := q.list[last]
	q.list[last] = nil
	q.list = q.list[:last]
	r.queue = nil
	return r
}
