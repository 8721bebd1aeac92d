package outboxtest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/lease"
)

var verdictChecks = []func(*testing.T, Harness){
	UnlockWithDelayBacksOff,
	UnlockKeepsAttemptsAndError,
	UnlockWithParkStopsTheRecord,
	UnlockWithProgressMovesForward,
	UnlockNeverMovesBack,
	RemoveOfAPartKeepsTheRestDue,
	RemoveForgetsAttempts,
	RemoveThenAddGoesOn,
	EventsAddedUnderALeaseAreNotLost,
}

func UnlockWithDelayBacksOff(t *testing.T, h Harness) {
	const delay = 50 * time.Millisecond
	add(t, h.Repo, "long", "short")
	c := lock(t, h.Repo, all)
	before := time.Now()
	for i, key := range keys(c) {
		release := lease.Release{Held: held(c)[i], Delay: time.Hour}
		if key == "short" {
			release.Delay = delay
		}
		unlock(t, h.Repo, release)
	}
	again := lockSome(t, h.Repo, all)
	if waited := time.Since(before); waited < delay {
		t.Errorf("due again after %v, want %v at least", waited, delay)
	}
	wantKeys(t, again, "short")
	if r := again.Records[0]; r.Stale || r.Claims != 0 {
		t.Errorf("stale %t, claims %d, want false and 0: it was released", r.Stale, r.Claims)
	}
}

func UnlockKeepsAttemptsAndError(t *testing.T, h Harness) {
	add(t, h.Repo, "a")
	_, mine := lockOne(t, h.Repo, "a")
	unlock(t, h.Repo, lease.Release{Held: mine, Attempts: 3, Err: "the broker said no"})
	c, mine := lockOne(t, h.Repo, "a")
	if got := c.Records[0].Attempts; got != 3 {
		t.Errorf("attempts = %d, want 3", got)
	}
	unlock(t, h.Repo, lease.Release{Held: mine, Attempts: 3}) // nothing new to say
	if got, want := h.LastError(t, record("a")), "the broker said no"; got != want {
		t.Errorf("last error = %q, want %q", got, want)
	}
}

func UnlockWithParkStopsTheRecord(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "a")
	_, mine := lockOne(t, h.Repo, "a")
	unlock(t, h.Repo, lease.Release{Held: mine, Attempts: 5, Park: true, Err: "poison"})
	positions = append(positions, add(t, h.Repo, "a")...)
	if got := keys(lock(t, h.Repo, all)); got != nil {
		t.Fatalf("claimed %q, want none: it is parked", got)
	}
	h.Unpark(t, record("a"))
	c, _ := lockOne(t, h.Repo, "a")
	if diff := cmp.Diff(positionsOf(c.Runs[0]), positions); diff != "" {
		t.Errorf("events after unpark (-got +want):\n%s", diff)
	}
	if got := c.Records[0].Attempts; got != 0 {
		t.Errorf("attempts after unpark = %d, want 0", got)
	}
}

func UnlockWithProgressMovesForward(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "a", "a", "a")
	_, mine := lockOne(t, h.Repo, "a")
	unlock(t, h.Repo, lease.Release{Held: mine, Stored: positions[1], Attempts: 1})
	c, _ := lockOne(t, h.Repo, "a")
	if diff := cmp.Diff(positionsOf(c.Runs[0]), positions[2:]); diff != "" {
		t.Errorf("events left (-got +want):\n%s", diff)
	}
	if got := c.Records[0].Attempts; got != 1 {
		t.Errorf("attempts = %d, want 1, those of the new head", got)
	}
}

func UnlockNeverMovesBack(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "a", "a", "a")
	_, mine := lockOne(t, h.Repo, "a")
	unlock(t, h.Repo, lease.Release{Held: mine, Stored: positions[1]})
	_, mine = lockOne(t, h.Repo, "a")
	unlock(t, h.Repo, lease.Release{Held: mine, Stored: positions[0]})
	c, _ := lockOne(t, h.Repo, "a")
	if diff := cmp.Diff(positionsOf(c.Runs[0]), positions[2:]); diff != "" {
		t.Errorf("events left (-got +want):\n%s", diff)
	}
}

func RemoveOfAPartKeepsTheRestDue(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "a", "a", "a")
	_, mine := lockOne(t, h.Repo, "a")
	if err := h.Repo.Remove(t.Context(), []lease.Ack{{Held: mine, Last: positions[0]}}); err != nil {
		t.Fatal(err)
	}
	c, _ := lockOne(t, h.Repo, "a")
	if diff := cmp.Diff(positionsOf(c.Runs[0]), positions[1:]); diff != "" {
		t.Errorf("events left (-got +want):\n%s", diff)
	}
}

func RemoveForgetsAttempts(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "a", "a")
	_, mine := lockOne(t, h.Repo, "a")
	unlock(t, h.Repo, lease.Release{Held: mine, Attempts: 3, Err: "no"})
	_, mine = lockOne(t, h.Repo, "a")
	if err := h.Repo.Remove(t.Context(), []lease.Ack{{Held: mine, Last: positions[0]}}); err != nil {
		t.Fatal(err)
	}
	if got := h.LastError(t, record("a")); got != "" {
		t.Errorf("last error = %q, want none: the event is stored", got)
	}
	c, _ := lockOne(t, h.Repo, "a")
	if got := c.Records[0].Attempts; got != 0 {
		t.Errorf("attempts of the next event = %d, want 0", got)
	}
}

func RemoveThenAddGoesOn(t *testing.T, h Harness) {
	for range 3 {
		positions := add(t, h.Repo, "a", "a")
		c, _ := lockOne(t, h.Repo, "a")
		if diff := cmp.Diff(positionsOf(c.Runs[0]), positions); diff != "" {
			t.Errorf("events (-got +want):\n%s", diff)
		}
		remove(t, h.Repo, c)
		if got := keys(lock(t, h.Repo, all)); got != nil {
			t.Errorf("claimed after all was removed: %q", got)
		}
	}
}

func EventsAddedUnderALeaseAreNotLost(t *testing.T, h Harness) {
	add(t, h.Repo, "a")
	first, _ := lockOne(t, h.Repo, "a")
	added := add(t, h.Repo, "a", "a")
	remove(t, h.Repo, first)
	c, _ := lockOne(t, h.Repo, "a")
	if diff := cmp.Diff(positionsOf(c.Runs[0]), added); diff != "" {
		t.Errorf("events after Remove (-got +want):\n%s", diff)
	}
}
