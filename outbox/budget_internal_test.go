package outbox

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Feared: a consumer is shut down while it waits for bytes, and the events that it had are gone: after
// some of those the relay stands still.
func TestAcquireThatIsCutOffKeepsNothing(t *testing.T) {
	b := newBudget(10, 10)
	if err := b.acquire(t.Context(), 1, 10); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cut := make(chan error)
	go func() { cut <- b.acquire(ctx, 9, 1) }()
	for b.events.TryAcquire(1) { // until the other has the events
		b.events.Release(1)
	}
	cancel()
	if err := <-cut; !errors.Is(err, context.Canceled) {
		t.Errorf("acquire error = %v, want %v", err, context.Canceled)
	}
	b.release(1, 10)
	if err := b.allFree(); err != nil {
		t.Error(err)
	}
}

// Feared: small claims come without end, and the one who wants all, to be alone with a suspect or to
// drain, never gets it. Or: two want all, each has half, and nobody ever moves again.
func TestAcquireAllIsNeitherStarvedNorDeadlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const eventsMax, bytesMax = 100, 1000
		b := newBudget(eventsMax, bytesMax)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var events, bytes, alone atomic.Int64
		var wg sync.WaitGroup
		for seed := range uint64(8) {
			rng := rand.New(rand.NewPCG(seed, 1))
			wg.Go(func() {
				for ctx.Err() == nil {
					n, size := 1+rng.Int64N(eventsMax/2), rng.Int64N(bytesMax/2)
					if b.acquire(ctx, n, size) != nil {
						return
					}
					if e, s := events.Add(n), bytes.Add(size); e > eventsMax || s > bytesMax {
						t.Errorf("in flight: %d events, %d bytes, want at most %d and %d", e, s, eventsMax, bytesMax)
					}
					time.Sleep(time.Duration(rng.Int64N(int64(10 * time.Millisecond))))
					events.Add(-n)
					bytes.Add(-size)
					b.release(n, size)
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				for b.acquireAll(ctx) == nil {
					if n := events.Load(); n != 0 {
						t.Errorf("%d events are in flight beside one who has all", n)
					}
					alone.Add(1)
					time.Sleep(time.Millisecond)
					b.releaseAll()
				}
			})
		}
		wg.Wait()
		if got := alone.Load(); got < 100 {
			t.Errorf("all was given %d times in a minute, want at least 100", got)
		}
		if err := b.allFree(); err != nil {
			t.Error(err)
		}
	})
}
