package outbox

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// budget bounds what is claimed and not yet settled, by count and by bytes. It is what bounds every
// queue of a relay. Waiters are served in the order in which they came, so that one who asks for all
// of it is not starved.
type budget struct {
	events, bytes       *semaphore.Weighted
	eventsMax, bytesMax int64
}

func newBudget(eventsMax, bytesMax int64) *budget {
	return &budget{
		events: semaphore.NewWeighted(eventsMax), bytes: semaphore.NewWeighted(bytesMax),
		eventsMax: eventsMax, bytesMax: bytesMax,
	}
}

func (b *budget) acquire(ctx context.Context, events, bytes int64) error {
	if err := b.events.Acquire(ctx, events); err != nil {
		return err
	}
	if err := b.bytes.Acquire(ctx, bytes); err != nil {
		b.events.Release(events)
		return err
	}
	return nil
}

// acquireAll waits until nothing else is in flight, and keeps everybody else out.
func (b *budget) acquireAll(ctx context.Context) error {
	return b.acquire(ctx, b.eventsMax, b.bytesMax)
}

func (b *budget) release(events, bytes int64) {
	b.events.Release(events)
	b.bytes.Release(bytes)
}

func (b *budget) releaseAll() { b.release(b.eventsMax, b.bytesMax) }
