package outboxtest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/outbox"
)

var eventChecks = []func(*testing.T, Harness){
	EventsComeBackAsTheyWereWritten,
	EventsWithoutAnIDAreGivenOne,
	PositionsAreReturnedInOrder,
	ABadEventIsRefusedAndNothingIsWritten,
}

var operatorChecks = []func(*testing.T, Harness){
	ParkFencesTheHolder,
	ParkHoldsEventsOfAnIdleRecord,
	SkipLeavesAGapOnTheNextEvent,
	SkipOfTheOnlyEventTellsTheGapLater,
	SkipFencesTheHolder,
}

func EventsComeBackAsTheyWereWritten(t *testing.T, h Harness) {
	want := []outbox.Event{
		{ID: uuid.Must(uuid.NewV7()), Record: record("a"), Type: outbox.Created, Payload: []byte(`{"a": 1}`),
			Headers: map[string]string{"content-type": "application/json", "quote": `"\` + "\n\u00e9", "empty": ""}},
		{ID: uuid.New(), Record: record("a"), Type: "shop.Order/Zurückgelegt", Payload: []byte{0, 0xff, '\\', 0}},
		{ID: uuid.New(), Record: record("a"), Type: outbox.Updated, Payload: []byte{}, Headers: map[string]string{}},
		{ID: uuid.New(), Record: record("a"), Type: outbox.Removed, Payload: nil},
	}
	before := time.Now().Add(-time.Hour) // another machine's clock
	positions := addEvents(t, h.Repo, want...)
	c, _ := lockOne(t, h.Repo, "a")
	got := c.Runs[0].Events
	if len(got) != len(want) {
		t.Fatalf("events = %d, want %d", len(got), len(want))
	}
	for i := range want {
		want[i].Position = positions[i]
		if (got[i].Payload == nil) != (want[i].Payload == nil) {
			t.Errorf("payload of event %d = %#v, want %#v: NULL and empty differ", i, got[i].Payload, want[i].Payload)
		}
		if got[i].CreatedAt.Before(before) {
			t.Errorf("event %d was created at %v", i, got[i].CreatedAt)
		}
	}
	if diff := cmp.Diff(got, want, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(outbox.Event{}, "CreatedAt")); diff != "" {
		t.Errorf("events (-got +want):\n%s", diff)
	}
}

func EventsWithoutAnIDAreGivenOne(t *testing.T, h Harness) {
	add(t, h.Repo, "a", "a")
	c, _ := lockOne(t, h.Repo, "a")
	one, two := c.Runs[0].Events[0].ID, c.Runs[0].Events[1].ID
	if one.Version() != 7 || two.Version() != 7 || one == two {
		t.Errorf("ids = %v and %v, want two of version 7", one, two)
	}
}

func PositionsAreReturnedInOrder(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "b", "a", "b", "c", "a")
	for i := 1; i < len(positions); i++ {
		if positions[i] <= positions[i-1] {
			t.Errorf("positions = %v, want them to grow", positions)
		}
	}
	got := map[string][]int64{}
	c := lock(t, h.Repo, all)
	for i, key := range keys(c) {
		got[key] = positionsOf(c.Runs[i])
	}
	want := map[string][]int64{"b": {positions[0], positions[2]}, "a": {positions[1], positions[4]}, "c": {positions[3]}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("positions of each record (-got +want):\n%s", diff)
	}
	if none, err := h.Repo.Add(t.Context()); err != nil || len(none) != 0 {
		t.Errorf("Add of nothing = %v, %v, want none", none, err)
	}
}

func ABadEventIsRefusedAndNothingIsWritten(t *testing.T, h Harness) {
	bad := sized(strings.Repeat("k", outbox.RecordKeyBytesMax+1), 1)
	_, err := h.Repo.Add(t.Context(), sized("a", 1), bad)
	var field *outbox.FieldError
	if !errors.As(err, &field) || field.Index != 1 || field.Field != "record key" {
		t.Errorf("Add error = %v, want a FieldError of event 1's record key", err)
	}
	if got := keys(lock(t, h.Repo, all)); got != nil {
		t.Errorf("claimed %q, want none", got)
	}
}

func ParkFencesTheHolder(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "a")
	c, mine := lockOne(t, h.Repo, "a")
	h.Park(t, record("a"))
	_, err := h.Repo.Extend(t.Context(), held(c))
	wantLost(t, "Extend", err, mine)
	wantLost(t, "Remove", h.Repo.Remove(t.Context(), []lease.Ack{{Held: mine, Last: positions[0]}}), mine)
	wantLost(t, "Unlock", h.Repo.Unlock(t.Context(), []lease.Release{{Held: mine}}), mine)
	if got := keys(lock(t, h.Repo, all)); got != nil {
		t.Fatalf("claimed %q, want none: it is parked", got)
	}
	h.Unpark(t, record("a"))
	c, _ = lockOne(t, h.Repo, "a")
	if diff := cmp.Diff(positionsOf(c.Runs[0]), positions); diff != "" {
		t.Errorf("events after unpark (-got +want):\n%s", diff)
	}
}

func ParkHoldsEventsOfAnIdleRecord(t *testing.T, h Harness) {
	add(t, h.Repo, "a")
	c, _ := lockOne(t, h.Repo, "a")
	remove(t, h.Repo, c)
	h.Park(t, record("a"))
	positions := add(t, h.Repo, "a")
	if got := keys(lock(t, h.Repo, all)); got != nil {
		t.Fatalf("claimed %q, want none: it is parked", got)
	}
	h.Unpark(t, record("a"))
	c, _ = lockOne(t, h.Repo, "a")
	if diff := cmp.Diff(positionsOf(c.Runs[0]), positions); diff != "" {
		t.Errorf("events after unpark (-got +want):\n%s", diff)
	}
}

func SkipLeavesAGapOnTheNextEvent(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "a", "a", "a", "a")
	for _, want := range positions[:2] {
		if got := h.Skip(t, record("a")); got != want {
			t.Errorf("skipped position = %d, want %d", got, want)
		}
	}
	for range 2 { // it is told until the event that tells it is stored
		c, mine := lockOne(t, h.Repo, "a")
		if diff := cmp.Diff(positionsOf(c.Runs[0]), positions[2:]); diff != "" {
			t.Errorf("events after skip (-got +want):\n%s", diff)
		}
		if got, want := c.Runs[0].Gap, positions[1]; got != want {
			t.Errorf("gap = %d, want %d, the last one skipped", got, want)
		}
		unlock(t, h.Repo, lease.Release{Held: mine})
	}
	_, mine := lockOne(t, h.Repo, "a")
	if err := h.Repo.Remove(t.Context(), []lease.Ack{{Held: mine, Last: positions[2]}}); err != nil {
		t.Fatal(err)
	}
	if c, _ := lockOne(t, h.Repo, "a"); c.Runs[0].Gap != 0 {
		t.Errorf("gap = %d, want none: it was told", c.Runs[0].Gap)
	}
}

func SkipOfTheOnlyEventTellsTheGapLater(t *testing.T, h Harness) {
	skipped := add(t, h.Repo, "a")
	h.Skip(t, record("a"))
	if got := h.Skip(t, record("a")); got != 0 {
		t.Errorf("skipped position %d, want none: nothing waits", got)
	}
	if c := lock(t, h.Repo, all); len(c.Runs) > 0 { // a claim may see no event; it is acknowledged like any other
		remove(t, h.Repo, c)
	}
	add(t, h.Repo, "a")
	c, mine := lockOne(t, h.Repo, "a")
	if got, want := c.Runs[0].Gap, skipped[0]; got != want {
		t.Errorf("gap = %d, want %d", got, want)
	}
	unlock(t, h.Repo, lease.Release{Held: mine, Stored: c.Records[0].Last}) // a release with progress tells it too
	if c := lock(t, h.Repo, all); len(c.Runs) > 0 {
		remove(t, h.Repo, c)
	}
	add(t, h.Repo, "a")
	if c, _ := lockOne(t, h.Repo, "a"); c.Runs[0].Gap != 0 {
		t.Errorf("gap = %d, want none: it was told", c.Runs[0].Gap)
	}
}

func SkipFencesTheHolder(t *testing.T, h Harness) {
	positions := add(t, h.Repo, "a", "a")
	_, mine := lockOne(t, h.Repo, "a")
	h.Skip(t, record("a"))
	wantLost(t, "Remove", h.Repo.Remove(t.Context(), []lease.Ack{{Held: mine, Last: positions[1]}}), mine)
	c, _ := lockOne(t, h.Repo, "a")
	if diff := cmp.Diff(positionsOf(c.Runs[0]), positions[1:]); diff != "" {
		t.Errorf("events after skip (-got +want):\n%s", diff)
	}
}
