package outboxtest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/batonrelay/baton/lease"
)

var leaseChecks = []func(*testing.T, Harness){
	ALeaseThatRanOutIsClaimedAgainAsStale,
	AnOldTokenWritesNothingAndTheOthersAreWritten,
	AnUnknownTokenIsLost,
	ExtendProlongsALiveLease,
	ExtendRefusesALeaseThatRanOut,
	ALeaseThatRanOutMayStillBeAcknowledged,
	SuspectsAreClaimedAlone,
}

// wantLost wants a *lease.LostError of exactly these leases.
func wantLost(t *testing.T, verb string, err error, want ...lease.Held) {
	t.Helper()
	var lost *lease.LostError
	if !errors.As(err, &lost) || !errors.Is(err, lease.ErrLost) {
		t.Errorf("%s: error = %v, want a LostError of %v", verb, err, want)
		return
	}
	byID := cmpopts.SortSlices(func(a, b lease.Held) bool { return a.ID < b.ID })
	if diff := cmp.Diff(lost.Held, want, byID); diff != "" {
		t.Errorf("%s: lost leases (-got +want):\n%s", verb, diff)
	}
}

func ALeaseThatRanOutIsClaimedAgainAsStale(t *testing.T, h Harness) {
	positions := add(t, h.Brief, "a", "a")
	first := lock(t, h.Brief, all)
	wantKeys(t, first, "a")
	if r := first.Records[0]; r.Stale || r.Claims != 0 {
		t.Errorf("first claim: stale %t, claims %d, want false and 0", r.Stale, r.Claims)
	}
	again := lockSome(t, h.Brief, all)
	if time.Now().Before(first.Until) {
		t.Errorf("claimed again before %v", first.Until)
	}
	if r := again.Records[0]; !r.Stale || r.Claims != 1 {
		t.Errorf("second claim: stale %t, claims %d, want true and 1", r.Stale, r.Claims)
	}
	if again.Token == first.Token {
		t.Error("both claims have one token")
	}
	if diff := cmp.Diff(positionsOf(again.Runs[0]), positions); diff != "" {
		t.Errorf("events of the second claim (-got +want):\n%s", diff)
	}
}

func AnOldTokenWritesNothingAndTheOthersAreWritten(t *testing.T, h Harness) {
	positions := addEach(t, h.Brief, "a", "b")
	old := lock(t, h.Brief, all)
	wantKeys(t, old, "a", "b")
	one := all
	one.Records = 1
	taken := lockSome(t, h.Brief, one)
	// either may have run out first
	lost, kept := held(old)[0], held(old)[1]
	lostKey, keptKey, lostPosition := "a", "b", positions[0]
	if taken.Records[0].ID == kept.ID {
		lost, kept = kept, lost
		lostKey, keptKey, lostPosition = "b", "a", positions[1]
	}

	_, err := h.Brief.Extend(t.Context(), []lease.Held{lost})
	wantLost(t, "Extend", err, lost)
	err = h.Brief.Unlock(t.Context(), []lease.Release{{Held: lost, Stored: lostPosition, Park: true}})
	wantLost(t, "Unlock", err, lost)
	wantLost(t, "Remove", h.Brief.Remove(t.Context(), []lease.Ack{
		{Held: lost, Last: positions[1]}, {Held: kept, Last: positions[1]},
	}), lost)

	// the one's event is still there, the other one's is gone
	added := add(t, h.Brief, keptKey)
	c := lock(t, h.Brief, all)
	wantKeys(t, c, keptKey)
	if diff := cmp.Diff(positionsOf(c.Runs[0]), added); diff != "" {
		t.Errorf("events of the acknowledged record (-got +want):\n%s", diff)
	}
	alone := all
	alone.Alone = true // two claims of it ended without a verdict
	c = lockSome(t, h.Brief, alone)
	wantKeys(t, c, lostKey)
	if diff := cmp.Diff(positionsOf(c.Runs[0]), []int64{lostPosition}); diff != "" {
		t.Errorf("events of the record whose old holder wrote (-got +want):\n%s", diff)
	}
}

func AnUnknownTokenIsLost(t *testing.T, h Harness) {
	add(t, h.Repo, "a")
	c, mine := lockOne(t, h.Repo, "a")
	wrong := lease.Held{ID: mine.ID, Token: mine.Token + 1}
	nobody := lease.Held{ID: mine.ID + 1, Token: mine.Token}
	err := h.Repo.Remove(t.Context(), []lease.Ack{{Held: wrong, Last: c.Records[0].Last}, {Held: nobody, Last: 1}})
	wantLost(t, "Remove", err, wrong, nobody)
	err = h.Repo.Unlock(t.Context(), []lease.Release{{Held: wrong}, {Held: nobody}})
	wantLost(t, "Unlock", err, wrong, nobody)
	_, err = h.Repo.Extend(t.Context(), []lease.Held{wrong, nobody})
	wantLost(t, "Extend", err, wrong, nobody)
	if got := keys(lock(t, h.Repo, all)); got != nil {
		t.Errorf("claimed again: %q", got)
	}
	remove(t, h.Repo, c)
}

func ExtendProlongsALiveLease(t *testing.T, h Harness) {
	add(t, h.Brief, "a")
	eventually(t, "a lease extended for three times as long as it was claimed for", func() bool {
		c := lockSome(t, h.Brief, all)
		for end := c.Until.Add(2 * BriefLease); time.Now().Before(end); {
			until, err := h.Brief.Extend(t.Context(), held(c))
			if err != nil {
				if time.Now().Before(c.Until) {
					t.Fatalf("Extend before the lease ended: %v", err)
				}
				return false // this process was too slow
			}
			if until.Before(c.Until) {
				t.Errorf("Extend took %v away", c.Until.Sub(until))
			}
			if c.Until = until; len(lock(t, h.Brief, all).Runs) > 0 && time.Now().Before(until) {
				t.Fatal("claimed by another while the lease was extended")
			}
		}
		return true
	})
}

func ExtendRefusesALeaseThatRanOut(t *testing.T, h Harness) {
	addEach(t, h.Brief, "a", "b")
	c := lock(t, h.Brief, all)
	wantKeys(t, c, "a", "b")
	one := all
	one.Records = 1
	lockSome(t, h.Brief, one) // then both have run out, and nobody took the other one
	_, err := h.Brief.Extend(t.Context(), held(c))
	wantLost(t, "Extend", err, held(c)...)
}

func ALeaseThatRanOutMayStillBeAcknowledged(t *testing.T, h Harness) {
	addEach(t, h.Brief, "a", "b")
	c := lock(t, h.Brief, all)
	wantKeys(t, c, "a", "b")
	one := all
	one.Records = 1
	taken := lockSome(t, h.Brief, one).Records[0].ID
	for i, r := range c.Records {
		if r.ID == taken {
			continue
		}
		if err := h.Brief.Remove(t.Context(), []lease.Ack{{Held: held(c)[i], Last: r.Last}}); err != nil {
			t.Errorf("Remove under a lease that ran out, of a record that nobody took: %v", err)
		}
	}
}

func SuspectsAreClaimedAlone(t *testing.T, h Harness) {
	add(t, h.Brief, "a", "b")
	alone := all
	alone.Alone = true
	if got := keys(lock(t, h.Brief, alone)); got != nil {
		t.Fatalf("claimed alone = %q, want none: nothing is suspect yet", got)
	}
	claims := map[int64]int{}
	var c = lock(t, h.Brief, all)
	eventually(t, "both records claimed until they are suspect", func() bool {
		for _, r := range c.Records {
			if claims[r.ID]++; r.Claims != claims[r.ID]-1 {
				t.Errorf("claims of record %d without a verdict = %d, want %d", r.ID, r.Claims, claims[r.ID]-1)
			}
		}
		if c.Suspects {
			return true
		}
		c = lock(t, h.Brief, all)
		return false
	})
	add(t, h.Brief, "c")
	eventually(t, "a healthy record beside two suspects", func() bool {
		c = lock(t, h.Brief, all)
		return len(c.Runs) > 0 && c.Suspects
	})
	wantKeys(t, c, "c")
	remove(t, h.Brief, c)

	c = lockSome(t, h.Brief, alone)
	if len(c.Records) != 1 || c.Records[0].Claims != lease.SuspectAfter {
		t.Fatalf("claimed alone = %+v, want one record with %d claims", c.Records, lease.SuspectAfter)
	}
	cured, key := c.Records[0].ID, keys(c)[0]
	unlock(t, h.Brief, lease.Release{Held: held(c)[0]}) // a verdict, of whatever kind
	c = lockSome(t, h.Brief, all)
	wantKeys(t, c, key)
	if r := c.Records[0]; r.ID != cured || r.Claims != 0 {
		t.Errorf("claimed after a verdict: record %d with %d claims, want %d with 0", r.ID, r.Claims, cured)
	}
}
