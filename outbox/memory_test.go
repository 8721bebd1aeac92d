package outbox_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/outbox/outboxtest"
)

func TestMemoryConforms(t *testing.T) {
	t.Parallel()
	outboxtest.Conformance(t, func(*testing.T) outboxtest.Harness {
		m := outbox.NewMemory(time.Minute)
		return outboxtest.Harness{
			Repo:      m,
			Brief:     outbox.NewMemory(outboxtest.BriefLease),
			Park:      func(_ *testing.T, r outbox.Record) { m.Park(r, "a test") },
			Unpark:    func(_ *testing.T, r outbox.Record) { m.Unpark(r) },
			Skip:      func(_ *testing.T, r outbox.Record) int64 { return m.Skip(r) },
			LastError: func(_ *testing.T, r outbox.Record) string { return m.LastError(r) },
		}
	})
}

func TestMemoryLeasesEndWithTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := outbox.NewMemory(time.Minute)
		if _, err := m.Add(t.Context(), event("a")); err != nil {
			t.Fatal(err)
		}
		limits := lease.Limits{Records: 1, Events: 1, Bytes: 100}
		claimed := func() int {
			c, err := m.Lock(t.Context(), limits)
			if err != nil {
				t.Fatal(err)
			}
			return len(c.Runs)
		}
		if got := claimed(); got != 1 {
			t.Fatalf("claimed = %d, want 1", got)
		}
		time.Sleep(time.Minute - time.Nanosecond) // of virtual time
		if got := claimed(); got != 0 {
			t.Errorf("claimed before the lease ended = %d, want 0", got)
		}
		time.Sleep(time.Nanosecond)
		if got := claimed(); got != 1 {
			t.Errorf("claimed when the lease ended = %d, want 1", got)
		}
	})
}
