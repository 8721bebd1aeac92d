package outbox

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/batonrelay/baton/lease"
)

// work is one lease in hand: the events of its claim that are not known stored yet.
type work struct {
	held   lease.Held
	claim  *claimInHand
	run    Run // what is left of it
	stored int64
	lost   atomic.Bool // an extension told that the lease is gone
	// attempts counts the verdicts against the head event.
	attempts int
	// events and bytes are how much was claimed.
	events, bytes int64
	// heldEvents and heldBytes are what the work holds of the budget until it is settled.
	heldEvents, heldBytes int64
}

// newWork has stored at the last position that needs no sending where the claim saw no event.
func newWork(c *claimInHand, r lease.Record, run Run) *work {
	w := &work{held: lease.Held{ID: r.ID, Token: run.Token}, claim: c, run: run, stored: r.Last, attempts: r.Attempts}
	if len(run.Events) > 0 {
		w.stored = 0
	}
	w.events = max(1, int64(len(run.Events))) // the lease itself, where the claim saw no event
	for i := range run.Events {
		w.bytes += run.Events[i].bytes()
	}
	return w
}

// next cuts the next piece for a sender: events of one record, at most eventsMax.
func (w *work) next(eventsMax int) Run {
	piece := w.run
	piece.Deadline = w.claim.deadline()
	n := 1
	for n < len(piece.Events) && n < eventsMax && piece.Events[n].Record == piece.Events[0].Record {
		n++
	}
	piece.Events = piece.Events[:n]
	return piece
}

// advance drops the n events at the front that are stored now.
func (w *work) advance(n int) {
	if n == 0 {
		return
	}
	w.stored = w.run.Events[n-1].Position
	clear(w.run.Events[:n]) // the payloads are no longer needed
	w.run.Events = w.run.Events[n:]
	w.run.Gap = 0
	w.attempts = 0
}

// claimInHand is what the works of one claim share: when their leases end, and whether they get on.
type claimInHand struct {
	mu         sync.Mutex
	until      time.Time
	progressed bool
	open       map[int64]*work // by record id
}

func (c *claimInHand) deadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.until
}

func (c *claimInHand) progress() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progressed = true
}
