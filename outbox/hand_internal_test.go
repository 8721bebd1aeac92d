package outbox

import (
	"testing"
	"testing/synctest"
	"time"
)

// Feared: a sender is stuck, the lease is extended all the same, and its records stand still for ever.
func TestLeaseOfAStuckSenderIsNotExtended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaseTime = 10 * time.Second
		s := newStage(t, leaseTime, func(Event, int) fault { return fault{silent: true} })
		s.add(eventsOf(2, records(3)...)...)
		r := s.start(testConfig(), nil)
		time.Sleep(5 * time.Minute)
		if n := r.repo.extensions.Load(); n != 0 {
			t.Errorf("extensions = %d, want none", n)
		}
		if err := r.stop(); err != nil {
			t.Errorf("Run error = %v, want none", err)
		}
	})
}

// Feared: one record of a claim is stuck and is extended with those that get on, for ever.
func TestLeaseIsExtendedWhileItGetsOnAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaseTime, each = 10 * time.Second, 300 * time.Millisecond
		s := newStage(t, leaseTime, func(Event, int) fault { return fault{latency: each} })
		s.add(eventsOf(100, record(0))...)
		r := s.start(testConfig(), nil)
		if err := s.delivered(100 * each * 11 / 10); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if st := r.Stats(); st.RecordsClaimed != 1 || st.Lost != 0 || st.Acked != 1 || st.Extended < 3 {
			t.Errorf("claimed %d times, lost %d, acked %d, extended %d, want one claim that is extended and acknowledged",
				st.RecordsClaimed, st.Lost, st.Acked, st.Extended)
		}
		if n := s.log.len(); n != 100 {
			t.Errorf("copies in the log = %d, want 100 of 100 events", n)
		}
		before := r.repo.extensions.Load()
		time.Sleep(time.Minute)
		if n := r.repo.extensions.Load() - before; n != 0 {
			t.Errorf("extensions with nothing in hand = %d, want none", n)
		}
		r.stopWell(t)
	})
}

// Feared: an operator fenced the record, the extension says so, and the relay goes on sending it.
func TestRecordWhoseExtensionWasRefusedIsSentNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaseTime = 10 * time.Second
		s := newStage(t, leaseTime, func(Event, int) fault { return fault{latency: 300 * time.Millisecond} })
		s.add(eventsOf(100, record(0))...)
		r := s.start(testConfig(), nil)
		time.Sleep(time.Second)
		s.repo.mu.Lock() // park, as an operator does
		work := s.repo.records[1]
		work.leave()
		work.token, work.parked = 0, true
		s.repo.mu.Unlock()
		time.Sleep(leaseTime)
		synctest.Wait()
		sent := s.log.len()
		if sent > 40 {
			t.Errorf("events sent = %d, want at most those before the first extension", sent)
		}
		time.Sleep(time.Minute)
		if n := s.log.len(); n != sent {
			t.Errorf("events sent after the lease was lost = %d, want none", n-sent)
		}
		if st := r.Stats(); st.Lost != 1 || st.Acked != 0 {
			t.Errorf("lost %d, acked %d, want 1 and 0", st.Lost, st.Acked)
		}
		r.stopWell(t)
	})
}
