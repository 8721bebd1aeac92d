package outbox

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/batonrelay/baton/lease"
)

// Feared: one event kills each relay that touches it, its neighbours are blamed with it, or the whole
// outbox stands still because every claim has it.
func TestEventThatKillsItsRelayIsParkedAndNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const healthy, killer = 499, 250
		s := newStage(t, 5*time.Second, func(e Event, _ int) fault { return fault{dies: e.Record == record(killer)} })
		s.add(eventsOf(1, records(healthy+1)...)...)
		cfg := testConfig()
		var dead []*running
		r := s.start(cfg, nil)
		for end := time.Now().Add(5 * time.Minute); time.Now().Before(end) && len(s.parked()) == 0; {
			time.Sleep(100 * time.Millisecond)
			if r.client.life.ended() {
				dead = append(dead, r)
				r = s.start(cfg, nil)
			}
		}
		time.Sleep(time.Minute)
		if got := s.parked(); !slices.Equal(got, []int64{killer + 1}) { // ids count from 1
			t.Errorf("parked = %v, want the killer alone", got)
		}
		if got := s.log.distinct(); got != healthy {
			t.Errorf("events in the log = %d, want those of %d healthy records", got, healthy)
		}
		if got := len(dead); got != cfg.ClaimsMax {
			t.Errorf("relays killed = %d, want %d", got, cfg.ClaimsMax)
		}
		r.stopWell(t)
		for _, r := range dead {
			r.bury(t)
		}
	})
}

// Feared: a suspect is claimed alone while other works of this relay are still being sent: if it kills
// the relay, they become suspects too. Or others are claimed while it is sent.
func TestNothingIsInFlightBesideASuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 5*time.Second, func(Event, int) fault { return fault{latency: 50 * time.Millisecond} })
		s.add(eventsOf(1, records(5)...)...)
		for range lease.SuspectAfter { // claims that nobody ends
			if _, err := s.repo.Lock(t.Context(), lease.Limits{Records: 5, Events: 5, Bytes: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
		}
		s.add(eventsOf(3, records(200)...)...)
		cfg := testConfig()
		cfg.Consumers, cfg.ClaimRecords = 4, 20
		var mu sync.Mutex
		alone := 0
		var r *running
		s.log.fault = func(e Event, _ int) fault {
			mu.Lock()
			defer mu.Unlock()
			if e.Position <= 5 {
				alone++
				if n := r.Stats().EventsInFlight; n > 4 {
					t.Errorf("%d events are in flight while a suspect is sent, want its own", n)
				}
			}
			return fault{latency: 50 * time.Millisecond}
		}
		s.start(cfg, func(started *running) { r = started })
		if err := s.delivered(5 * time.Minute); err != nil {
			t.Error(err)
		}
		if alone != 5 {
			t.Errorf("suspects sent = %d, want 5", alone)
		}
		r.stopWell(t)
	})
}

// ledger counts what is claimed and not settled, as the repository sees it.
type ledger struct {
	EventRepo
	mu                  sync.Mutex
	open                map[lease.Held][2]int64
	events, bytes       int64
	eventsTop, bytesTop int64
}

func (l *ledger) Lock(ctx context.Context, limits lease.Limits) (Claim, error) {
	claim, err := l.EventRepo.Lock(ctx, limits)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, run := range claim.Runs {
		size := bytesOf(run.Events)
		l.open[lease.Held{ID: run.ID, Token: run.Token}] = [2]int64{int64(len(run.Events)), size}
		l.events, l.bytes = l.events+int64(len(run.Events)), l.bytes+size
	}
	l.eventsTop, l.bytesTop = max(l.eventsTop, l.events), max(l.bytesTop, l.bytes)
	return claim, err
}

func (l *ledger) settle(h lease.Held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events, l.bytes = l.events-l.open[h][0], l.bytes-l.open[h][1]
	delete(l.open, h)
}

func (l *ledger) Remove(ctx context.Context, acks []lease.Ack) error {
	for _, a := range acks {
		l.settle(a.Held)
	}
	return l.EventRepo.Remove(ctx, acks)
}

func (l *ledger) Unlock(ctx context.Context, releases []lease.Release) error {
	for _, r := range releases {
		l.settle(r.Held)
	}
	return l.EventRepo.Unlock(ctx, releases)
}

// Feared: a backlog of large payloads, or of very many small ones, is read into memory at once.
func TestInFlightNeverExceedsTheBudget(t *testing.T) {
	for name, size := range map[string]int{"small": 10, "large": PayloadBytesMax} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, 30*time.Second, func(_ Event, try int) fault {
					if try == 1 {
						return fault{latency: 10 * time.Millisecond, err: errWorld}
					}
					return fault{latency: 10 * time.Millisecond}
				})
				events := eventsOf(5, records(min(400, 60_000_000/size))...)
				payload := make([]byte, size)
				for i := range events {
					if len(events) > 1000 || i%5 == 0 { // large and tiny ones mixed
						events[i].Payload = payload
					}
				}
				s.add(events...)
				cfg := testConfig()
				cfg.Consumers = 4
				cfg.ClaimRecords, cfg.ClaimEvents, cfg.InFlightEvents = 50, 100, 250
				cfg.ClaimBytes, cfg.InFlightBytes = 3*PayloadBytesMax, 7*PayloadBytesMax
				l := &ledger{open: map[lease.Held][2]int64{}}
				r := s.start(cfg, func(r *running) { l.EventRepo, r.repo.EventRepo = r.repo.EventRepo, l })
				if err := s.delivered(10 * time.Minute); err != nil {
					t.Error(err)
				}
				r.stopWell(t)
				if l.eventsTop > int64(cfg.InFlightEvents) || l.bytesTop > cfg.InFlightBytes {
					t.Errorf("in flight at most %d events, %d bytes, want at most %d and %d",
						l.eventsTop, l.bytesTop, cfg.InFlightEvents, cfg.InFlightBytes)
				}
				if l.eventsTop == 0 || size > 1000 && l.bytesTop < 2*int64(size) {
					t.Errorf("in flight at most %d events, %d bytes: there was nothing to bound", l.eventsTop, l.bytesTop)
				}
			})
		})
	}
}

// Feared: events without payload make the average size of a record so small that how many fit into a
// claim is no integer any more, and it is taken for a negative number.
func TestTombstonesDoNotShrinkClaims(t *testing.T) {
	r := testRelay(t, testConfig(), nil, nil)
	c := &consumer{r: r}
	c.learn([]*work{{bytes: 200}})
	for i := range 2000 {
		c.learn([]*work{{bytes: 0}})
		if got, want := c.limits(false).Records, r.cfg.ClaimRecords; got != want {
			t.Fatalf("records of a claim after %d tombstones = %d, want %d", i+1, got, want)
		}
	}
}

func TestLargeRecordsAreClaimedInSmallerNumbers(t *testing.T) {
	r := testRelay(t, testConfig(), nil, nil)
	c := &consumer{r: r}
	for range 20 {
		c.learn([]*work{{bytes: 1 << 20}})
	}
	if got := c.limits(false).Records; got != 8 {
		t.Errorf("records of a claim = %d, want 8 of 1 MB", got)
	}
	for range 20 {
		c.learn([]*work{{bytes: 1 << 40}})
	}
	if got := c.limits(false).Records; got != 1 {
		t.Errorf("records of a claim = %d, want 1", got)
	}
}
