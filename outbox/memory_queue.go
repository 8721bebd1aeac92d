package outbox

import (
	"container/heap"
	"time"
)

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
