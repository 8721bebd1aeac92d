package outbox

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/batonrelay/baton/lease"
)

// Feared: consumer A hands record 7 over, its lease ends, consumer B claims 7 again and hands it over;
// two lanes have one each, and two producers send the record at once.
func TestWorksOfARecordKeepToOneLaneAndTheirOrder(t *testing.T) {
	for _, procs := range []int{1, 8} {
		t.Run(fmt.Sprintf("GOMAXPROCS=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			laneOrder(t)
		})
	}
}

func laneOrder(t *testing.T) {
	const givers, gives, records, lanes = 16, 300, 10, 5
	d := newDistributor(lanes)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running, giving sync.WaitGroup
	running.Go(func() { d.run(ctx) })
	left := atomic.Int64{}
	left.Store(givers * gives * records)
	came := make([]map[int64][]int64, lanes)
	for i, l := range d.lanes {
		came[i] = map[int64][]int64{}
		running.Go(func() {
			for ctx.Err() == nil {
				works := l.take(nil, 1+len(came[i])%7)
				for _, w := range works {
					came[i][w.held.ID] = append(came[i][w.held.ID], w.stored)
				}
				if left.Add(-int64(len(works))) == 0 {
					cancel()
				}
				if len(works) == 0 {
					select {
					case <-l.wake:
					case <-ctx.Done():
					}
				}
			}
		})
	}
	for g := range int64(givers) {
		giving.Go(func() {
			for n := range int64(gives) {
				works := make([]*work, records)
				for i := range works {
					works[i] = &work{held: lease.Held{ID: g*records + int64(i) - 40}, stored: n} // ids are signed
				}
				d.give(works)
			}
		})
	}
	giving.Wait()
	running.Wait()
	laneOf := map[int64]int{}
	for lane, records := range came {
		for id, order := range records {
			if other, ok := laneOf[id]; ok {
				t.Errorf("record %d came out of lanes %d and %d", id, other, lane)
			}
			laneOf[id] = lane
			if len(order) != gives || !slices.IsSorted(order) {
				t.Errorf("record %d: %d works, want %d in the order in which they were given", id, len(order), gives)
			}
		}
	}
	if len(laneOf) != givers*records {
		t.Errorf("%d records came out, want %d", len(laneOf), givers*records)
	}
}

// Feared: consumers queue before a full distributor, and leases run out while they do.
func TestGiveDoesNotWaitForAnybody(t *testing.T) {
	d := newDistributor(2)
	for i := range int64(1000) { // nobody sorts, nobody sends
		d.give([]*work{{held: lease.Held{ID: i}}})
	}
	if got, want := len(d.takeAll()), 1000; got != want {
		t.Errorf("works in the inbox = %d, want %d", got, want)
	}
}

// Feared: the relay is killed while works are partly in the inbox and partly in the lanes, and some of
// their leases are not released.
func TestTakeAllFindsInboxAndLanes(t *testing.T) {
	d := newDistributor(3)
	for i, l := range d.lanes {
		l.put([]*work{{held: lease.Held{ID: int64(i)}}, {held: lease.Held{ID: int64(i + 3)}}})
	}
	d.give([]*work{{held: lease.Held{ID: 6}}})
	var ids []int64
	for _, w := range d.takeAll() {
		ids = append(ids, w.held.ID)
	}
	slices.Sort(ids)
	if want := []int64{0, 1, 2, 3, 4, 5, 6}; !slices.Equal(ids, want) {
		t.Errorf("taken records = %v, want %v", ids, want)
	}
	if again := d.takeAll(); len(again) != 0 {
		t.Errorf("%d works were taken twice", len(again))
	}
}

const (
	handOverWorks = 50
	handOverOpen  = 400 // hands-over on the way, at most: the budget, which is not what is timed
	// handOverPause stands for the round trips of a claim. Without it one consumer would measure a
	// distributor that never sleeps, and several one that never keeps up.
	handOverPause = 500 * time.Microsecond
)

// BenchmarkHandOver tells how long a consumer takes to hand a claim over, the median of all calls, and
// its ratio to that of one consumer: with the distributor, with a buffered channel of works, and with
// one of claims. Sorting and sending keep up; consumers are away for a round trip between.
func BenchmarkHandOver(b *testing.B) {
	for _, way := range []struct {
		name string
		make func(done func(works int)) (give func([]*work), stop func())
	}{
		{"distributor", byDistributor},
		{"channel-of-works", byChannelOfWorks},
		{"channel-of-claims", byChannelOfClaims},
	} {
		base := 0.0
		for _, consumers := range []int{1, 2, 4, 8, 16, 32, 64} {
			b.Run(fmt.Sprintf("%s/consumers=%d", way.name, consumers), func(b *testing.B) {
				median := float64(handOver(b, consumers, way.make).Nanoseconds())
				if consumers == 1 {
					base = median
				}
				b.ReportMetric(median, "median-ns")
				if base > 0 {
					b.ReportMetric(median/base, "ratio-to-1")
				}
			})
		}
	}
}

func handOver(b *testing.B, consumers int, way func(done func(int)) (func([]*work), func())) time.Duration {
	open := newBudget(handOverOpen*handOverWorks, 1)
	give, stop := way(func(works int) { open.release(int64(works), 0) })
	took := make([][]time.Duration, consumers)
	claims := make([][]*work, consumers)
	for c := range claims {
		claims[c] = make([]*work, handOverWorks)
		for i := range claims[c] {
			claims[c][i] = &work{held: lease.Held{ID: int64(c*handOverWorks + i)}}
		}
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for c := range consumers {
		wg.Go(func() {
			for range (b.N + consumers - 1) / consumers {
				if open.acquire(b.Context(), handOverWorks, 0) != nil {
					return
				}
				works := slices.Clone(claims[c]) // the little work
				start := time.Now()
				give(works)
				took[c] = append(took[c], time.Since(start))
				time.Sleep(handOverPause)
			}
		})
	}
	wg.Wait()
	if err := open.acquireAll(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	stop()
	all := slices.Concat(took...)
	slices.Sort(all)
	return all[len(all)/2]
}

func byDistributor(done func(int)) (give func([]*work), stop func()) {
	d := newDistributor(2)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { d.run(ctx) })
	for _, l := range d.lanes {
		wg.Go(func() {
			var works []*work
			for ctx.Err() == nil {
				if works = l.take(works[:0], runsMax); len(works) > 0 {
					done(len(works))
					continue
				}
				select {
				case <-l.wake:
				case <-ctx.Done():
				}
			}
		})
	}
	return d.give, func() { cancel(); wg.Wait() }
}

func byChannelOfWorks(done func(int)) (give func([]*work), stop func()) {
	works := make(chan *work, handOverOpen*handOverWorks)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range works {
				done(1)
			}
		})
	}
	give = func(claim []*work) {
		for _, w := range claim {
			works <- w
		}
	}
	return give, func() { close(works); wg.Wait() }
}

func byChannelOfClaims(done func(int)) (give func([]*work), stop func()) {
	claims := make(chan []*work, handOverOpen)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for claim := range claims {
				done(len(claim))
			}
		})
	}
	return func(claim []*work) { claims <- claim }, func() { close(claims); wg.Wait() }
}
