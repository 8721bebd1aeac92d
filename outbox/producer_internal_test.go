package outbox

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clock keeps when something happened to an event, by its position.
type clock struct {
	mu    sync.Mutex
	times map[int64][]time.Time
}

func (c *clock) note(position int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == nil {
		c.times = map[int64][]time.Time{}
	}
	c.times[position] = append(c.times[position], time.Now())
}

// pauses between the times of one position.
func (c *clock) pauses(position int64) []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var pauses []time.Duration
	for i := 1; i < len(c.times[position]); i++ {
		pauses = append(pauses, c.times[position][i].Sub(c.times[position][i-1]))
	}
	return pauses
}

// Feared: a poison event is tried for ever and starves the others, or is skipped, or its record is
// parked after the first verdict, when a broker's setting is about to be mended.
func TestBadEventParksItsRecordAfterAttemptsMaxAndOthersFlow(t *testing.T) {
	for _, verdict := range []error{errEvent, errTopic} {
		t.Run(verdict.Error(), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { badEvent(t, verdict) }) })
	}
}

func badEvent(t *testing.T, verdict error) {
	const poison = 25 // the second event of record 4
	var tries clock
	s := newStage(t, 30*time.Second, func(e Event, _ int) fault {
		if e.Position == poison {
			tries.note(poison)
			return fault{err: verdict}
		}
		return fault{}
	})
	s.add(eventsOf(3, records(20)...)...)
	cfg := testConfig()
	relays := []*running{s.start(cfg, nil), s.start(cfg, nil)}
	time.Sleep(2 * time.Hour)
	synctest.Wait()
	pauses := tries.pauses(poison)
	attemptsMax := cfg.AttemptsMax
	if ClassOf(verdict) == BadTopic {
		attemptsMax *= topicPatience
	}
	if got := len(pauses) + 1; got != attemptsMax {
		t.Fatalf("tries of the event = %d, want %d", got, attemptsMax)
	}
	for i, got := range pauses {
		want := min(cfg.BackoffMin<<min(i, 20), cfg.BackoffMax)
		if got < want*8/10 || got > want*12/10+2*cfg.PollMax {
			t.Errorf("pause %d = %v, want %v ± 20%% and a poll", i, got, want)
		}
	}
	if got := s.parked(); !slices.Equal(got, []int64{5}) { // ids count from 1
		t.Errorf("parked = %v, want record 5", got)
	}
	if got := s.log.positions(record(4)); !slices.Equal(got, []int64{5}) {
		t.Errorf("positions of the parked record in the log = %v, want its first one", got)
	}
	if got, want := s.log.len(), 58; got != want {
		t.Errorf("events in the log = %d, want %d", got, want)
	}
	if got := relays[0].Stats().Parked + relays[1].Stats().Parked; got != 1 {
		t.Errorf("parked, counted = %d, want 1", got)
	}
	for _, r := range relays {
		r.stopWell(t)
	}
}

// Feared: a record that may not be parked is, or its back-off grows without a bound and nobody sees
// that the cause was mended.
func TestBlockIsTriedForEverAtTheLongestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries clock
		start := time.Now()
		s := newStage(t, 30*time.Second, func(e Event, _ int) fault {
			if tries.note(e.Position); e.Position == 1 && time.Since(start) < time.Hour {
				return fault{err: errEvent}
			}
			return fault{}
		})
		s.add(eventsOf(3, record(0))...)
		cfg := testConfig()
		cfg.PolicyOf = func(string) Policy { return Block }
		r := s.start(cfg, nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		pauses := tries.pauses(1)
		if len(pauses) < 100 {
			t.Fatalf("tries in an hour = %d, want more than 100", len(pauses)+1)
		}
		for i, got := range pauses[10:] {
			if got < cfg.BackoffMax*8/10 || got > cfg.BackoffMax*12/10+2*cfg.PollMax {
				t.Errorf("pause %d = %v, want %v ± 20%%", i+10, got, cfg.BackoffMax)
			}
		}
		if n := len(s.parked()); n != 0 || s.log.len() != 0 {
			t.Errorf("parked %d, in the log %d, want none", n, s.log.len())
		}
		if err := s.delivered(2 * cfg.BackoffMax); err != nil {
			t.Error(err)
		}
		r.stopWell(t)
	})
}

// Feared: attempts against the event before are held against this one, and a record is parked that
// got on after each try.
func TestAttemptsAreForgottenOnProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		s := newStage(t, 30*time.Second, func(_ Event, try int) fault {
			if try < cfg.AttemptsMax { // one less than would park
				return fault{err: errEvent}
			}
			return fault{}
		})
		s.add(eventsOf(4, record(0))...)
		r := s.start(cfg, nil)
		if err := s.delivered(time.Minute); err != nil {
			t.Error(err)
		}
		if ids := s.parked(); len(ids) != 0 {
			t.Errorf("parked = %v, want none", ids)
		}
		r.stopWell(t)
	})
}

// Feared: what the world did is held against the event: one verdict short of being parked, an outage
// parks it.
func TestWorldErrorsLeaveAttemptsAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		s := newStage(t, 30*time.Second, func(_ Event, try int) fault {
			switch {
			case try < cfg.AttemptsMax:
				return fault{err: errTopic}
			case try < 50:
				return fault{err: errWorld}
			}
			return fault{}
		})
		e := s.add(eventsOf(1, record(0))...)[0]
		r := s.start(cfg, nil)
		for s.log.triesOf(e) < 40 {
			time.Sleep(time.Second)
		}
		if got, want := s.attempts(e.Record), cfg.AttemptsMax-1; got != want {
			t.Errorf("attempts = %d, want %d", got, want)
		}
		if err := s.delivered(10 * time.Minute); err != nil {
			t.Error(err)
		}
		r.stopWell(t)
	})
}

// Feared: event 2 fails, this relay or another one goes on with event 3, and 2 comes after it.
func TestFailedEventHoldsBackItsLaterOnesInEveryRelay(t *testing.T) {
	for _, f := range []fault{
		{err: errWorld}, {err: errTopic}, {err: errEvent}, {err: errWorld, stored: true}, {silent: true},
		{silent: true, latency: time.Second, late: 20 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t, 5*time.Second, func(e Event, try int) fault {
				if e.Position%3 == 2 && try <= 3 {
					return f
				}
				return fault{}
			})
			s.add(eventsOf(40, record(0))...)
			relays := []*running{s.start(testConfig(), nil), s.start(testConfig(), nil)}
			if err := s.delivered(30 * time.Minute); err != nil {
				t.Errorf("%+v: %v", f, err)
			}
			time.Sleep(time.Minute) // what is late lands
			if report := s.judge(); !report.OK() {
				t.Errorf("%+v: %v", f, report)
			}
			for _, r := range relays {
				r.stopWell(t)
			}
		})
	}
}

// Feared: the broker has not answered, the record is released at once, and another relay sends it
// again and again while the first copy is still on its way: a heap of duplicates.
func TestSilenceKeepsTheLeaseToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaseTime, sendTimeout = 30 * time.Second, 10 * time.Second
		var tries clock
		s := newStage(t, leaseTime, func(e Event, try int) fault {
			tries.note(e.Position)
			if try == 1 {
				return fault{silent: true, latency: sendTimeout}
			}
			return fault{}
		})
		s.add(eventsOf(1, record(0))...)
		relays := []*running{s.start(testConfig(), nil), s.start(testConfig(), nil)}
		if err := s.delivered(2 * leaseTime); err != nil {
			t.Fatal(err)
		}
		if got := tries.pauses(1)[0]; got < leaseTime-time.Millisecond || got > leaseTime+time.Second {
			t.Errorf("sent again after %v, want after the lease, %v", got, leaseTime)
		}
		for _, r := range relays {
			r.stopWell(t)
		}
	})
}

// Feared: a sender that never answers has its lane, and all records in it, for ever.
func TestSilentSenderIsGivenUpWhenTheLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaseTime = 10 * time.Second
		s := newStage(t, leaseTime, func(e Event, try int) fault { return fault{silent: e.Position == 1 && try <= 2} })
		s.add(eventsOf(1, records(50)...)...)
		cfg := testConfig()
		cfg.Producers = 1
		r := s.start(cfg, nil)
		if err := s.delivered(3 * leaseTime); err != nil {
			t.Error(err)
		}
		r.stopWell(t)
	})
}

// Feared: an operator lets a record go on under a new token while this relay is still sending it, the
// relay claims it again, and two works of one record are in one Send.
func TestTwoWorksOfARecordAreNotSentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 30*time.Second, func(Event, int) fault { return fault{latency: 20 * time.Millisecond} })
		s.add(eventsOf(200, record(0), record(1))...)
		r := s.start(testConfig(), nil) // its client complains of a record that is sent twice at a time
		for range 3 {
			time.Sleep(500 * time.Millisecond)
			s.repo.mu.Lock()
			work := s.repo.records[1]
			work.token = 0
			s.repo.due.put(work, time.Now())
			s.repo.mu.Unlock()
		}
		if err := s.delivered(time.Minute); err != nil {
			t.Error(err)
		}
		r.stopWell(t)
		if report := s.judge(); !report.OK() || report.Duplicates == 0 {
			t.Errorf("want nothing but duplicates: %v", report)
		}
	})
}
