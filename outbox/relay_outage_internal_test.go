package outbox

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/batonrelay/baton/lease"
)

// Feared: half an hour without a broker costs attempts until everything is parked; the outbox is
// churned all the while; and when the broker is back the relay sleeps on for minutes.
func TestHalfAnHourWithoutABrokerCostsNothing(t *testing.T) {
	for name, f := range map[string]fault{
		"refused":  {err: errWorld},
		"silent":   {silent: true, latency: 10 * time.Second},
		"answered": {err: errWorld, stored: true, latency: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { withoutBroker(t, f) })
		})
	}
}

func withoutBroker(t *testing.T, f fault) {
	const away = 30 * time.Minute
	var back atomic.Bool
	s := newStage(t, 30*time.Second, func(Event, int) fault {
		if back.Load() {
			return fault{}
		}
		return f
	})
	s.add(eventsOf(2, records(3000)...)...)
	r := s.start(testConfig(), nil)
	time.Sleep(away)
	st := r.Stats()
	if st.LogProblem == nil {
		t.Error("the log takes nothing, and Stats do not say so")
	}
	// once all, then a few for each pause of 4 s at least, and for the ramp before it
	if most := 3000 + (int64(away/(4*time.Second))+20)*probeRecords; st.RecordsClaimed > most {
		t.Errorf("records claimed = %d, want at most %d", st.RecordsClaimed, most)
	}
	for _, r := range records(3000) {
		if n := s.attempts(r); n != 0 {
			t.Fatalf("attempts of %v = %d, want none", r, n)
		}
	}
	back.Store(true)
	if err := s.delivered(45 * time.Second); err != nil { // a silent one keeps its lease, and backs off
		t.Error(err)
	}
	if st := r.Stats(); st.LogProblem != nil {
		t.Errorf("log problem = %v after the broker is back, want none", st.LogProblem)
	}
	if ids := s.parked(); len(ids) > 0 || r.Stats().Parked > 0 {
		t.Errorf("parked = %v, want none", ids)
	}
	r.stopWell(t)
	if report := s.judge(); !report.OK() {
		t.Error(report)
	}
}

// Feared: the broker was away for a minute, and most of the backlog waits much longer than a user would.
func TestEverythingFlowsWithinSecondsOfTheBrokersReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		s := newStage(t, 30*time.Second, func(Event, int) fault {
			if back.Load() {
				return fault{}
			}
			return fault{err: errWorld}
		})
		s.add(eventsOf(1, records(5000)...)...)
		r := s.start(testConfig(), nil)
		time.Sleep(time.Minute)
		back.Store(true)
		if err := s.delivered(worldBackoffMax*12/10*2 + time.Second); err != nil {
			t.Error(err)
		}
		r.stopWell(t)
	})
}

// Feared: one partition has no leader, and the events of all others wait with its own.
func TestOneBadPartitionDoesNotStopTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bad = 10 // of 50 records
		s := newStage(t, 30*time.Second, func(e Event, _ int) fault {
			for n := range bad {
				if e.Record == record(n) {
					return fault{err: errWorld}
				}
			}
			return fault{}
		})
		r := s.start(testConfig(), nil)
		d := newDice(1)
		for range 5000 {
			s.add(eventsOf(1, record(d.below(50)))...)
			time.Sleep(d.duration(40 * time.Millisecond))
		}
		time.Sleep(10 * time.Second)
		var waits []time.Duration
		s.log.mu.Lock()
		for _, m := range s.log.messages {
			waits = append(waits, m.at.Sub(m.event.CreatedAt))
		}
		s.log.mu.Unlock()
		slices.Sort(waits)
		if n := len(waits); n < 3800 {
			t.Fatalf("delivered = %d, want about 4000", n)
		}
		if median, p99 := waits[len(waits)/2], waits[len(waits)*99/100]; median > 30*time.Millisecond || p99 > time.Second {
			t.Errorf("commit to log: median %v, 99 %% within %v, want 30ms and 1s", median, p99)
		}
		r.stopWell(t)
	})
}

// Feared: the database is away, claims hammer it, or it is back and nobody looks for a minute.
func TestDatabaseOutagePausesClaimsAndEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		s := newStage(t, 30*time.Second, nil)
		r := s.start(testConfig(), func(r *running) {
			r.repo.lock = func(context.Context, lease.Limits) error {
				if away.Load() {
					return errDatabase
				}
				return nil
			}
		})
		away.Store(true)
		s.add(eventsOf(1, records(10)...)...)
		time.Sleep(10 * time.Minute)
		if st := r.Stats(); st.RepoProblem == nil || st.ClaimErrors > 50 {
			t.Errorf("problem %v after %d failed claims, want one, and at most 50", st.RepoProblem, st.ClaimErrors)
		}
		away.Store(false)
		if err := s.delivered(r.cfg.BackoffMax * 12 / 10); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if p := r.Stats().RepoProblem; p != nil {
			t.Errorf("problem = %v after claims succeed again, want none", p)
		}
		r.stopWell(t)
	})
}

// Feared: consumers beyond the first sleep through a backlog, or are awake all the time without one.
func TestConsumersHelpWithABacklogOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Consumers, cfg.ClaimRecords, cfg.ClaimEvents = 4, 10, 10
		cfg.InFlightBytes = 6 * cfg.ClaimBytes // a claim asks for all that it may bring
		s := newStage(t, 30*time.Second, nil)
		var mu sync.Mutex
		inside, most := 0, 0
		r := s.start(cfg, func(r *running) {
			r.repo.lock = func(ctx context.Context, _ lease.Limits) error {
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				err := sleep(ctx, 5*time.Millisecond)
				mu.Lock()
				inside--
				mu.Unlock()
				return err
			}
		})
		time.Sleep(time.Minute)
		mu.Lock()
		if most != 1 {
			t.Errorf("claims at a time on an empty outbox = %d, want 1", most)
		}
		mu.Unlock()
		s.add(eventsOf(1, records(5000)...)...)
		if err := s.delivered(time.Minute); err != nil {
			t.Error(err)
		}
		r.stopWell(t)
		if most != cfg.Consumers {
			t.Errorf("claims at a time on a backlog = %d, want %d", most, cfg.Consumers)
		}
	})
}
