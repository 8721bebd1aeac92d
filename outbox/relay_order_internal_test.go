package outbox

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/batonrelay/baton/lease"
)

// dice are rolled by all goroutines of a test.
type dice struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func newDice(seed uint64) *dice { return &dice{rng: rand.New(rand.NewPCG(seed, 3))} }

// in is true once in n rolls.
func (d *dice) in(n int) bool { return d.below(n) == 0 }

func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.IntN(n)
}

func (d *dice) duration(longest time.Duration) time.Duration {
	return time.Duration(d.below(int(longest)))
}

// The order lemma of the whole engine. Feared are all interleavings of: leases that end under a holder
// which goes on sending; answers that are lost, late, or wrong in the safe direction; copies that land
// after the lease ended; writes to the repository that fail before or after they took effect; relays
// that die anywhere. Whatever comes, nothing is lost, nothing is made up, first copies are in order.
func TestNoFaultLosesOrReordersAnEvent(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 3
	}
	for _, procs := range []int{1, 8} {
		t.Run(fmt.Sprintf("GOMAXPROCS=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			for seed := range seeds {
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { orderUnderFaults(t, newDice(seed)) })
				})
			}
		})
	}
}

const faultsLast = 40 * time.Second

func orderUnderFaults(t *testing.T, d *dice) {
	start := time.Now()
	calm := func() bool { return time.Since(start) > faultsLast }
	s := newStage(t, 2*time.Second, func(Event, int) fault { return anyFault(d, calm()) })
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for range 60 {
				time.Sleep(d.duration(time.Second))
				s.add(eventsOf(1+d.below(6), record(w*5+d.below(5)), record(20))...)
			}
		})
	}
	relays := make([]*running, 3)
	for i := range relays {
		relays[i] = s.start(anyConfig(d), breakRepo(d, calm))
	}
	var dead []*running
	for !calm() {
		time.Sleep(d.duration(4 * time.Second))
		i := d.below(len(relays))
		relays[i].client.life.end()
		dead = append(dead, relays[i])
		relays[i] = s.start(anyConfig(d), breakRepo(d, calm))
	}
	writers.Wait()
	if err := s.delivered(10 * time.Minute); err != nil {
		t.Error(err)
	}
	time.Sleep(time.Minute) // what is late lands
	var stale int64
	for _, r := range relays {
		stale += r.Stats().StaleClaimed
		r.stopWell(t)
	}
	for _, r := range dead {
		stale += r.Stats().StaleClaimed
		r.bury(t)
	}
	report := s.judge()
	if !report.OK() {
		t.Error(report)
	}
	if ids := s.parked(); len(ids) > 0 {
		t.Errorf("parked = %v, want none", ids)
	}
	if stale == 0 || report.Duplicates == 0 || report.Overlaps == 0 {
		t.Errorf("stale claims %d, duplicates %d, overlaps %d: the faults were too tame",
			stale, report.Duplicates, report.Overlaps)
	}
}

func anyFault(d *dice, calm bool) fault {
	f := fault{latency: d.duration(5 * time.Millisecond)}
	if calm {
		return f
	}
	switch d.below(40) {
	case 0:
		f.latency = d.duration(3 * time.Second) // longer than the lease
	case 1:
		f.err = errWorld
	case 2:
		f.err, f.stored = errWorld, true
	case 3:
		f.err = errTopic
	case 4:
		f.err, f.stored = errEvent, d.in(2) // a broker may take it and complain
	case 5:
		f.silent, f.latency = true, d.duration(time.Second)
	case 6:
		f.silent, f.late, f.latency = true, d.duration(6*time.Second), d.duration(time.Second)
	case 7:
		if d.in(10) {
			f.silent, f.late, f.latency = true, d.duration(6*time.Second), 0 // to the end of the lease
		}
	}
	return f
}

func anyConfig(d *dice) RelayConfig {
	c := testConfig()
	c.Consumers, c.Producers, c.Workers = 1+d.below(3), 1+d.below(4), 1+d.below(3)
	c.ClaimRecords = 1 + d.below(12)
	c.ClaimEvents = c.ClaimRecords + d.below(60)
	c.InFlightEvents = c.ClaimEvents + d.below(60)
	c.BackoffMin, c.BackoffMax = 10*time.Millisecond, time.Second
	c.AttemptsMax, c.ClaimsMax = 1000, 1000
	return c
}

// breakRepo lets calls fail before they take effect, after they did, and hang.
func breakRepo(d *dice, calm func() bool) func(*running) {
	return func(r *running) {
		trouble := func(ctx context.Context, after func() error) error {
			if calm() {
				return nil
			}
			switch d.below(30) {
			case 0:
				return errDatabase
			case 1:
				_ = after()
				return errDatabase
			case 2:
				if d.in(5) {
					<-ctx.Done()
					return ctx.Err()
				}
			case 3:
				_ = sleep(ctx, d.duration(3*time.Second))
			}
			return nil
		}
		memory := r.repo.EventRepo
		r.repo.lock = func(ctx context.Context, limits lease.Limits) error {
			return trouble(ctx, func() error { _, err := memory.Lock(ctx, limits); return err })
		}
		r.repo.remove = func(ctx context.Context, acks []lease.Ack) error {
			return trouble(ctx, func() error { return memory.Remove(ctx, acks) })
		}
		r.repo.unlock = func(ctx context.Context, releases []lease.Release) error {
			return trouble(ctx, func() error { return memory.Unlock(ctx, releases) })
		}
		r.repo.extend = func(ctx context.Context, held []lease.Held) error {
			return trouble(ctx, func() error { _, err := memory.Extend(ctx, held); return err })
		}
	}
}
