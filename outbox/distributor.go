package outbox

import (
	"context"
	"slices"
	"sync"
)

// distributor stands between consumers and producers. A consumer hands over all that it brought at
// once, in the time of one append, and never waits: the budget bounds what can be here. The works of a
// record always go to the same lane, one after the other, so a record is sent by one producer at a time.
type distributor struct {
	mu    sync.Mutex
	inbox [][]*work
	wake  chan struct{} // holds one: there is something in the inbox
	lanes []*lane
}

func newDistributor(lanes int) *distributor {
	d := &distributor{wake: make(chan struct{}, 1), lanes: make([]*lane, lanes)}
	for i := range d.lanes {
		d.lanes[i] = &lane{wake: make(chan struct{}, 1)}
	}
	return d
}

// give hands a consumer's works over.
func (d *distributor) give(works []*work) {
	d.mu.Lock()
	d.inbox = append(d.inbox, works)
	d.mu.Unlock()
	signal(d.wake)
}

// run sorts what is given into the lanes until ctx ends.
func (d *distributor) run(ctx context.Context) {
	sorted := make([][]*work, len(d.lanes))
	for {
		select {
		case <-d.wake:
		case <-ctx.Done():
			return
		}
		d.mu.Lock()
		inbox := d.inbox
		d.inbox = nil
		d.mu.Unlock()
		for _, works := range inbox {
			for _, w := range works {
				i := uint64(w.held.ID) % uint64(len(d.lanes)) // a record id is a hash already
				sorted[i] = append(sorted[i], w)
			}
		}
		for i, works := range sorted {
			if len(works) > 0 {
				d.lanes[i].put(works)
				clear(works)
				sorted[i] = works[:0]
			}
		}
	}
}

// takeAll empties the inbox and the lanes, when run and the producers have ended.
func (d *distributor) takeAll() []*work {
	d.mu.Lock()
	defer d.mu.Unlock()
	works := slices.Concat(d.inbox...)
	d.inbox = nil
	for _, l := range d.lanes {
		works = l.take(works, len(l.queue))
	}
	return works
}

// lane is the queue of one producer.
type lane struct {
	mu    sync.Mutex
	queue []*work
	wake  chan struct{} // holds one: there is something in the queue
}

func (l *lane) put(works []*work) {
	l.mu.Lock()
	l.queue = append(l.queue, works...)
	l.mu.Unlock()
	signal(l.wake)
}

// take appends up to n queued works to works.
func (l *lane) take(works []*work, n int) []*work {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, len(l.queue))
	works = append(works, l.queue[:n]...)
	left := copy(l.queue, l.queue[n:])
	clear(l.queue[left:])
	l.queue = l.queue[:left]
	return works
}

// signal fills a channel that holds one, unless it is full already.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
