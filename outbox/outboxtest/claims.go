package outboxtest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/outbox"
)

var claimChecks = []func(*testing.T, Harness){
	ClaimsTakeTheOldestRecordsFirst,
	AClaimOfNothingIsNoError,
	ALeasedRecordIsNotClaimed,
	TwoClaimsNeverHoldOneRecord,
	EventsOfARecordComeInOrder,
	ARecordWithWorkLeftGoesToTheBack,
	EveryClaimHasATokenOfItsOwn,
}

var limitChecks = []func(*testing.T, Harness){
	EventsAreSharedFairly,
	ARecordTakesTheEventsThatOthersLeave,
	EveryRecordHasAtLeastOneEvent,
	BytesAreSharedFairly,
	ARecordTakesTheBytesThatOthersLeave,
	RecordsThatDoNotFitAreNotHeld,
	AnEventLargerThanTheLimitIsClaimed,
}

func ClaimsTakeTheOldestRecordsFirst(t *testing.T, h Harness) {
	addEach(t, h.Repo, "a", "b", "c", "d", "e")
	two := all
	two.Records = 2
	want := []string{"e"}
	for i := range 50 {
		want = append(want, fmt.Sprint(i))
	}
	addEach(t, h.Repo, want[1:]...)
	for _, want := range [][]string{{"a", "b"}, {"c", "d"}} {
		if diff := cmp.Diff(keys(lock(t, h.Repo, two)), want); diff != "" {
			t.Errorf("claimed records (-got +want):\n%s", diff)
		}
	}
	if diff := cmp.Diff(keys(lock(t, h.Repo, all)), want); diff != "" {
		t.Errorf("the rest, in one claim (-got +want):\n%s", diff)
	}
}

func AClaimOfNothingIsNoError(t *testing.T, h Harness) {
	c := lock(t, h.Repo, all)
	if len(c.Records) != 0 || c.Suspects {
		t.Errorf("claim of an empty outbox = %+v, want none and no suspects", c)
	}
}

func ALeasedRecordIsNotClaimed(t *testing.T, h Harness) {
	add(t, h.Repo, "a")
	lockOne(t, h.Repo, "a")
	if got := keys(lock(t, h.Repo, all)); got != nil {
		t.Errorf("claimed again: %q", got)
	}
}

func TwoClaimsNeverHoldOneRecord(t *testing.T, h Harness) {
	const records, claimers = 60, 6
	var names []string
	for i := range records {
		names = append(names, string(rune('A'+i)))
	}
	add(t, h.Repo, names...)
	var (
		mu      sync.Mutex
		holders = map[string]int{}
		work    sync.WaitGroup
	)
	few := all
	few.Records = 3
	for range claimers {
		work.Go(func() {
			for empty := 0; empty < 3; { // a claim may pass over what another one is just taking
				c, err := h.Repo.Lock(t.Context(), few)
				if err != nil {
					t.Error(err)
					return
				}
				if len(c.Runs) == 0 {
					empty++
				}
				mu.Lock()
				for _, key := range keys(c) {
					holders[key]++
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	for _, key := range keys(lock(t, h.Repo, all)) {
		holders[key]++
	}
	if len(holders) != records {
		t.Errorf("claimed records = %d, want %d", len(holders), records)
	}
	for key, n := range holders {
		if n != 1 {
			t.Errorf("holders of %q = %d, want 1", key, n)
		}
	}
}

func EventsOfARecordComeInOrder(t *testing.T, h Harness) {
	var want, got []int64
	for range 5 {
		want = append(want, add(t, h.Repo, "a", "a", "b", "a")...)
	}
	want = append(want[:0:0], everyBut(want, 4, 2)...)
	few := all
	few.Events = 8
	for {
		c := lock(t, h.Repo, few)
		if len(c.Runs) == 0 {
			break
		}
		for _, run := range c.Runs {
			if len(run.Events) > 0 && run.Events[0].Record.Key == "a" {
				got = append(got, positionsOf(run)...)
			}
		}
		remove(t, h.Repo, c)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("positions of the record over all claims (-got +want):\n%s", diff)
	}
}

// everyBut leaves out one of each n.
func everyBut(list []int64, n, out int) (kept []int64) {
	for i, p := range list {
		if i%n != out {
			kept = append(kept, p)
		}
	}
	return kept
}

func ARecordWithWorkLeftGoesToTheBack(t *testing.T, h Harness) {
	add(t, h.Repo, "a", "a")
	one := lease.Limits{Records: 1, Events: 1, Bytes: 1 << 20}
	c := lock(t, h.Repo, one)
	wantKeys(t, c, "a")
	add(t, h.Repo, "b")
	remove(t, h.Repo, c)
	wantKeys(t, lock(t, h.Repo, one), "b")
	wantKeys(t, lock(t, h.Repo, one), "a")
}

func EveryClaimHasATokenOfItsOwn(t *testing.T, h Harness) {
	addEach(t, h.Repo, "a", "b")
	one := all
	one.Records = 1
	a, b := lock(t, h.Repo, one), lock(t, h.Repo, one)
	if a.Token == b.Token || a.Token == 0 || b.Token == 0 {
		t.Errorf("tokens = %d and %d, want two, not 0", a.Token, b.Token)
	}
}

// counts are the numbers of events claimed of each key.
func counts(c outbox.Claim) map[string]int {
	n := map[string]int{}
	for i, key := range keys(c) {
		n[key] += len(c.Runs[i].Events)
	}
	return n
}

// times repeats a key.
func times(n int, key string) (list []string) {
	for range n {
		list = append(list, key)
	}
	return list
}

func wantCounts(t *testing.T, c outbox.Claim, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(counts(c), want); diff != "" {
		t.Errorf("events claimed of each record (-got +want):\n%s", diff)
	}
}

func EventsAreSharedFairly(t *testing.T, h Harness) {
	for _, key := range []string{"a", "b", "c"} {
		add(t, h.Repo, times(10, key)...)
	}
	c := lock(t, h.Repo, lease.Limits{Records: 10, Events: 6, Bytes: 1 << 20})
	wantCounts(t, c, map[string]int{"a": 2, "b": 2, "c": 2})
}

func ARecordTakesTheEventsThatOthersLeave(t *testing.T, h Harness) {
	add(t, h.Repo, "a")
	add(t, h.Repo, times(20, "b")...)
	add(t, h.Repo, "c")
	c := lock(t, h.Repo, lease.Limits{Records: 10, Events: 12, Bytes: 1 << 20})
	wantCounts(t, c, map[string]int{"a": 1, "b": 10, "c": 1})
}

func EveryRecordHasAtLeastOneEvent(t *testing.T, h Harness) {
	add(t, h.Repo, "a", "b", "c", "a", "b", "c")
	c := lock(t, h.Repo, lease.Limits{Records: 10, Events: 1, Bytes: 1 << 20})
	wantCounts(t, c, map[string]int{"a": 1, "b": 1, "c": 1})
}

func BytesAreSharedFairly(t *testing.T, h Harness) {
	for _, key := range []string{"a", "b"} {
		for range 10 {
			addEvents(t, h.Repo, sized(key, 100))
		}
	}
	c := lock(t, h.Repo, lease.Limits{Records: 10, Events: 1000, Bytes: 699})
	wantCounts(t, c, map[string]int{"a": 3, "b": 3})
}

func ARecordTakesTheBytesThatOthersLeave(t *testing.T, h Harness) {
	addEvents(t, h.Repo, sized("a", 100))
	for range 10 {
		addEvents(t, h.Repo, sized("b", 100))
	}
	c := lock(t, h.Repo, lease.Limits{Records: 10, Events: 1000, Bytes: 600})
	wantCounts(t, c, map[string]int{"a": 1, "b": 5})
}

func RecordsThatDoNotFitAreNotHeld(t *testing.T, h Harness) {
	for _, key := range []string{"a", "b", "c"} {
		addEvents(t, h.Repo, sized(key, 1000))
	}
	small := lease.Limits{Records: 10, Events: 1000, Bytes: 1500}
	seen := map[string]int{}
	for range 3 {
		c := lock(t, h.Repo, small)
		if len(c.Runs) != 1 {
			t.Fatalf("claimed records = %d, want 1: two are beyond the limit", len(c.Runs))
		}
		seen[keys(c)[0]]++
		if got := c.Records[0].Stale; got {
			t.Error("a record that was only passed over counts as stale")
		}
	}
	if diff := cmp.Diff(seen, map[string]int{"a": 1, "b": 1, "c": 1}); diff != "" {
		t.Errorf("claimed one by one (-got +want):\n%s", diff)
	}
}

func AnEventLargerThanTheLimitIsClaimed(t *testing.T, h Harness) {
	addEvents(t, h.Repo, sized("a", 1000), sized("a", 1000))
	c := lock(t, h.Repo, lease.Limits{Records: 10, Events: 1000, Bytes: 1})
	wantCounts(t, c, map[string]int{"a": 1})
}
