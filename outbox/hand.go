package outbox

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batonrelay/baton/lease"
)

// hand knows the claims whose leases this relay holds, and extends them while they get on. A lease is
// extended only if some event of its claim was stored since the last time: a stuck sender must not
// hold its records for ever.
type hand struct {
	r      *Relay
	mu     sync.Mutex
	claims map[*claimInHand]struct{}
	// events and bytes are claimed and not settled
	events, bytes atomic.Int64
}

func (h *hand) add(c *claimInHand) {
	for _, w := range c.open {
		h.events.Add(w.events)
		h.bytes.Add(w.bytes)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claims[c] = struct{}{}
}

// drop forgets a work that is settled.
func (h *hand) drop(w *work) {
	h.events.Add(-w.events)
	h.bytes.Add(-w.bytes)
	c := w.claim
	c.mu.Lock()
	delete(c.open, w.held.ID)
	empty := len(c.open) == 0
	c.mu.Unlock()
	if empty {
		h.mu.Lock()
		delete(h.claims, c)
		h.mu.Unlock()
	}
}

// run extends until ctx ends.
func (h *hand) run(ctx context.Context) {
	tick := time.NewTicker(h.r.cfg.Lease / 8)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.extend(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// extend prolongs the claims that got on and whose leases are half over.
func (h *hand) extend(ctx context.Context) {
	h.mu.Lock()
	var due []*claimInHand
	for c := range h.claims {
		if c.wantsMore(h.r.cfg.Lease / 2) {
			due = append(due, c)
		}
	}
	h.mu.Unlock()
	for _, c := range due {
		until, err := h.extendOne(ctx, c)
		if err != nil && !errors.Is(err, lease.ErrLost) {
			h.r.log.Warn("leases not extended", "err", err)
			continue
		}
		c.extended(until, err)
		h.r.stats.extended.Add(1)
	}
}

func (h *hand) extendOne(ctx context.Context, c *claimInHand) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, repoTimeout)
	defer cancel()
	return h.r.repo.Extend(ctx, c.held())
}

func (c *claimInHand) wantsMore(half time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.progressed && time.Until(c.until) < half
}

func (c *claimInHand) held() []lease.Held {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := make([]lease.Held, 0, len(c.open))
	for _, w := range c.open {
		held = append(held, w.held)
	}
	return held
}

// extended takes the new end over, and marks the works whose leases were lost.
func (c *claimInHand) extended(until time.Time, err error) {
	var lost *lease.LostError
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until, c.progressed = until, false
	if !errors.As(err, &lost) {
		return
	}
	for _, l := range lost.Held {
		if w, ok := c.open[l.ID]; ok {
			w.lost.Store(true)
		}
	}
}
