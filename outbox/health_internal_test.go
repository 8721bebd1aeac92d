package outbox

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func newHealth() *health {
	return &health{backoffMin: 100 * time.Millisecond, backoffMax: 30 * time.Second}
}

var (
	storedAll    = Verdict{Stored: 1}
	failedWorld  = Verdict{Err: errWorld}
	failedEvent  = Verdict{Err: errEvent}
	leaseIsShort = Verdict{Err: fmt.Errorf("publisher: %w", ErrLeaseEnding)}
)

// Feared: one broken partition, or one bad event, is taken for an outage of the log.
func TestOnlyASendThatStoresNothingForTheWorldsSakePausesClaims(t *testing.T) {
	for _, c := range []struct {
		name     string
		verdicts []Verdict
		down     bool
	}{
		{"all stored", []Verdict{storedAll, storedAll}, false},
		{"one partition fails", []Verdict{storedAll, failedWorld}, false},
		{"part of a run is stored", []Verdict{{Stored: 3, Err: errWorld}}, false},
		{"bad event alone", []Verdict{failedEvent}, false},
		{"bad topic alone", []Verdict{{Err: errTopic}}, false},
		{"lease is ending", []Verdict{leaseIsShort}, false},
		{"nothing", []Verdict{failedWorld, failedWorld}, true},
		{"nothing, beside a bad event", []Verdict{failedWorld, failedEvent}, true},
		{"silence", []Verdict{{Err: errWorld, Undecided: true}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHealth()
				h.judge(c.verdicts)
				start := time.Now()
				probe, err := h.wait(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if probe != c.down || (time.Since(start) > 0) != c.down {
					t.Errorf("wait: probe %v after %v, want down %v", probe, time.Since(start), c.down)
				}
				if (h.problem() != nil) != c.down {
					t.Errorf("problem = %v, want one: %v", h.problem(), c.down)
				}
			})
		})
	}
}

// Feared: the pause doubles for ever, and after an outage of an hour nothing flows for another one.
func TestPauseGrowsAndStaysBelowSixSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth()
		var pauses []time.Duration
		for range 200 {
			h.judge([]Verdict{failedWorld})
			start := time.Now()
			if _, err := h.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			pauses = append(pauses, time.Since(start))
		}
		if first := pauses[0]; first < 80*time.Millisecond || first > 120*time.Millisecond {
			t.Errorf("first pause = %v, want 100ms ± 20%%", first)
		}
		for i, p := range pauses[10:] {
			if p < 4*time.Second || p > 6*time.Second {
				t.Errorf("pause %d = %v, want 5s ± 20%%", i+10, p)
			}
		}
		h.judge([]Verdict{storedAll})
		if err := h.problem(); err != nil {
			t.Errorf("problem = %v after an event was stored, want none", err)
		}
	})
}

// Feared: some partition has been failing for minutes beside healthy ones; then a send happens to hold
// its records only, and claims pause as if the whole log had been away for minutes.
func TestOneBadPartitionDoesNotLengthenThePauseOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth()
		for range 50 {
			h.judge([]Verdict{storedAll, failedWorld})
		}
		h.judge([]Verdict{failedWorld})
		start := time.Now()
		if _, err := h.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if pause := time.Since(start); pause > 120*time.Millisecond {
			t.Errorf("pause = %v, want that of a first failure, 100ms ± 20%%", pause)
		}
		if b := h.backoff(); b < 4*time.Second {
			t.Errorf("back-off of the partition's records = %v, want the longest", b)
		}
	})
}

func TestBackoffDoublesUpToItsLongest(t *testing.T) {
	const shortest, longest = 100 * time.Millisecond, time.Second
	for tries, want := range []time.Duration{100, 100, 200, 400, 800, 1000, 1000} {
		want *= time.Millisecond
		for range 100 {
			got := jittered(shortest, longest, tries)
			if got < want*8/10 || got > want*12/10 {
				t.Fatalf("after %d tries = %v, want %v ± 20%%", tries, got, want)
			}
		}
	}
	if got := jittered(shortest, longest, 1<<40); got > longest*12/10 {
		t.Errorf("after very many tries = %v, want at most %v", got, longest*12/10)
	}
}
