package outbox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/batonrelay/baton/lease"
)

var errDatabase = errors.New("server closed the connection")

// pool is a worker pool that runs by itself, on a repository that writes nothing but what was asked.
type pool struct {
	*Relay
	repo *faultyRepo
	end  func()

	mu       sync.Mutex
	removed  [][]lease.Ack
	unlocked [][]lease.Release
}

// newPool runs workers until the test ends. remove answers the nth call; nil is success.
func newPool(t *testing.T, workers int, remove func(n int, acks []lease.Ack) error) *pool {
	t.Helper()
	p := &pool{repo: &faultyRepo{}}
	p.repo.remove = func(_ context.Context, acks []lease.Ack) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.removed = append(p.removed, slices.Clone(acks))
		if remove == nil {
			return nil
		}
		return remove(len(p.removed), acks)
	}
	p.repo.unlock = func(_ context.Context, releases []lease.Release) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.unlocked = append(p.unlocked, slices.Clone(releases))
		return nil
	}
	p.Relay = testRelay(t, testConfig(), p.repo, newMemoryLog(t, nil).connect())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { p.workers.run(ctx) })
	}
	p.end = func() { cancel(); wg.Wait() }
	t.Cleanup(p.end)
	return p
}

// take gives n works of one claim a part of the budget.
func (p *pool) take(t *testing.T, n int) []*work {
	t.Helper()
	claim := Claim{Claim: lease.Claim{Token: 7, Until: time.Now().Add(p.cfg.Lease)}}
	for i := range n {
		claim.Records = append(claim.Records, lease.Record{ID: int64(i)})
		events := []Event{{Position: int64(i) + 1, Payload: []byte("123")}}
		claim.Runs = append(claim.Runs, Run{ID: int64(i), Token: 7, Events: events})
	}
	works := (&consumer{r: p.Relay}).works(claim)
	for _, w := range works {
		w.heldEvents, w.heldBytes = w.events, w.bytes
		if err := p.budget.acquire(t.Context(), w.events, w.bytes); err != nil {
			t.Fatal(err)
		}
	}
	return works
}

func acks(works []*work) []outcome {
	outcomes := make([]outcome, len(works))
	for i, w := range works {
		w.advance(len(w.run.Events))
		outcomes[i] = w.ack()
	}
	return outcomes
}

// settled checks that nothing is in hand any more and that all of the budget is free, after all
// goroutines came to rest. The semaphores panic if something is given back twice.
func (p *pool) settled(t *testing.T) {
	t.Helper()
	if err := p.budget.allFree(); err != nil {
		t.Error(err)
	}
	if s := p.Stats(); s.EventsInFlight != 0 || s.BytesInFlight != 0 {
		t.Errorf("in flight after the end: %d events, %d bytes", s.EventsInFlight, s.BytesInFlight)
	}
	p.hand.mu.Lock()
	defer p.hand.mu.Unlock()
	if n := len(p.hand.claims); n != 0 {
		t.Errorf("%d claims are kept in hand for ever", n)
	}
}

// Feared: the database is away for a moment, the acknowledgement is dropped, and everything is sent
// once more when the leases end.
func TestFailingJobIsTriedAgainUntilItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1, func(n int, _ []lease.Ack) error {
			if n <= 10 {
				return errDatabase
			}
			return nil
		})
		p.workers.submit(acks(p.take(t, 3)))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got, want := len(p.removed), 11; got != want {
			t.Errorf("tries = %d, want %d", got, want)
		}
		if s := p.Stats(); s.Acked != 3 || s.Lost != 0 || s.JobRetries != 10 {
			t.Errorf("acked %d, lost %d, retries %d, want 3, 0, 10", s.Acked, s.Lost, s.JobRetries)
		}
		p.settled(t)
	})
}

// Feared: one row is locked by an operator, and the retry acknowledges the others twice: they come back
// as lost, or worse, are written under a later claim.
func TestOnlyBusyLeasesAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, lost := lease.Held{ID: 1, Token: 7}, lease.Held{ID: 2, Token: 7}
		p := newPool(t, 1, func(n int, _ []lease.Ack) error {
			switch n {
			case 1:
				return errors.Join(&lease.LostError{Held: []lease.Held{lost}}, &lease.BusyError{Held: []lease.Held{busy}})
			case 2:
				return &lease.BusyError{Held: []lease.Held{busy}}
			}
			return nil
		})
		p.workers.submit(acks(p.take(t, 4)))
		time.Sleep(time.Second)
		synctest.Wait()
		var tried []int
		for _, call := range p.removed {
			tried = append(tried, len(call))
		}
		if want := []int{4, 1, 1}; !slices.Equal(tried, want) {
			t.Fatalf("leases tried = %v, want %v", tried, want)
		}
		if got := p.removed[2][0].Held; got != busy {
			t.Errorf("tried again = %v, want %v", got, busy)
		}
		if s := p.Stats(); s.Acked != 3 || s.Lost != 1 {
			t.Errorf("acked %d, lost %d, want 3 and 1", s.Acked, s.Lost)
		}
		p.settled(t)
	})
}

// Feared: a lease that was taken over is tried for ever, and its part of the budget is gone.
func TestLostLeaseEndsItsOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1, func(_ int, acks []lease.Ack) error {
			return &lease.LostError{Held: []lease.Held{acks[0].Held, acks[1].Held}}
		})
		p.workers.submit(acks(p.take(t, 2)))
		synctest.Wait()
		if s := p.Stats(); s.Acked != 0 || s.Lost != 2 || len(p.removed) != 1 {
			t.Errorf("acked %d, lost %d in %d tries, want 0, 2 in 1", s.Acked, s.Lost, len(p.removed))
		}
		p.settled(t)
	})
}

// Feared: the database stays away, and the relay keeps trying, or gives up while the rows may still
// carry its tokens.
func TestJobIsGivenUpOneLeaseAfterItsLastLeaseEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, last := time.Now(), time.Time{}
		p := newPool(t, 1, func(int, []lease.Ack) error {
			last = time.Now()
			return errDatabase
		})
		p.workers.submit(acks(p.take(t, 2)))
		time.Sleep(10 * p.cfg.Lease)
		synctest.Wait()
		tried, want := last.Sub(start), 2*p.cfg.Lease
		if tried > want || tried < want-2*time.Second {
			t.Errorf("tried for %v, want %v", tried, want)
		}
		if got := p.Stats().Lost; got != 2 {
			t.Errorf("lost = %d, want 2", got)
		}
		p.settled(t)
	})
}

// Feared: the relay is shut down while a job waits for the database, and a worker stays behind.
func TestShutdownEndsAJobThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 2, func(int, []lease.Ack) error { return errDatabase })
		p.workers.submit(acks(p.take(t, 2)))
		time.Sleep(time.Second)
		start := time.Now()
		p.end()
		if took := time.Since(start); took > 0 {
			t.Errorf("the workers ended after %v, want at once", took)
		}
		p.settled(t)
	})
}

// Feared: a half-open connection never answers, and with it a worker is gone for two leases.
func TestCallThatHangsIsCutOffAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1, nil)
		var calls int
		p.repo.remove = func(ctx context.Context, _ []lease.Ack) error {
			if calls++; calls == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		p.workers.submit(acks(p.take(t, 1)))
		time.Sleep(repoTimeout + time.Second)
		synctest.Wait()
		if s := p.Stats(); s.Acked != 1 || calls != 2 {
			t.Errorf("acked %d in %d calls, want 1 in 2", s.Acked, calls)
		}
		p.settled(t)
	})
}

// Feared: an acknowledgement takes a gate for each record, 20,000 of them out of the lock table that
// the application uses too. Or outcomes are lost or written twice where workers share the queue.
func TestJobsAreBoundedAndEachOutcomeIsWrittenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const records = 5000
		p := newPool(t, 8, nil)
		works := p.take(t, records)
		var wg sync.WaitGroup
		for part := range slices.Chunk(works, 500) {
			wg.Go(func() {
				for few := range slices.Chunk(part, 77) {
					outcomes := acks(few)
					outcomes[0] = few[0].release(time.Second, 3, false, "why")
					p.workers.submit(outcomes)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		times := map[int64]int{}
		for _, call := range p.removed {
			if len(call) > 125 {
				t.Errorf("one call acknowledges %d records, want at most 125", len(call))
			}
			for _, a := range call {
				times[a.ID]++
				if a.Last != a.ID+1 || a.Token != 7 {
					t.Errorf("record %d is acknowledged to %d under %d, want %d and 7", a.ID, a.Last, a.Token, a.ID+1)
				}
			}
		}
		for _, call := range p.unlocked {
			for _, r := range call {
				times[r.ID]++
				if want := (lease.Release{Held: r.Held, Stored: r.ID + 1, Delay: time.Second, Attempts: 3, Err: "why"}); r != want {
					t.Errorf("released %+v, want %+v", r, want)
				}
			}
		}
		for id := range int64(records) {
			if times[id] != 1 {
				t.Errorf("record %d is written %d times, want once", id, times[id])
			}
		}
		p.settled(t)
	})
}
