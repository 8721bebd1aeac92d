// Package outboxtest holds every EventRepo to one suite: what the relay relies on, and nothing that
// only one of them does.
package outboxtest

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/outbox"
)

// BriefLease is how long a claim through Harness.Brief holds its records. Nothing in the suite hangs on
// a lease being still alive when a slow machine thinks that it should be.
const BriefLease = 150 * time.Millisecond

// Harness is one empty outbox, or two, and what its operator can do.
type Harness struct {
	Repo  outbox.EventRepo // leases last a minute at least
	Brief outbox.EventRepo // leases last BriefLease; on the same outbox as Repo, or on one of its own

	// Park, Unpark, Skip and LastError act on the outbox of Repo.
	Park      func(t *testing.T, record outbox.Record)
	Unpark    func(t *testing.T, record outbox.Record)
	Skip      func(t *testing.T, record outbox.Record) (position int64)
	LastError func(t *testing.T, record outbox.Record) string
}

// Conformance runs the suite. newRepo is called for each check, and one check runs at a time.
func Conformance(t *testing.T, newRepo func(t *testing.T) Harness) {
	for _, checks := range [][]func(*testing.T, Harness){
		claimChecks, limitChecks, leaseChecks, verdictChecks, eventChecks, operatorChecks,
	} {
		for _, check := range checks {
			t.Run(name(check), func(t *testing.T) { check(t, newRepo(t)) })
		}
	}
}

// name is a check's own, which is its claim.
func name(check func(*testing.T, Harness)) string {
	full := runtime.FuncForPC(reflect.ValueOf(check).Pointer()).Name()
	return full[strings.LastIndexByte(full, '.')+1:]
}

// all is a claim without bounds that matter here.
var all = lease.Limits{Records: 100, Events: 1000, Bytes: 10 << 20}

const waitMax = 10 * time.Second

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitMax); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, waitMax)
		}
	}
}

func record(key string) outbox.Record { return outbox.Record{Type: "shop.order", Key: key} }

// sized is an event about a record with so many bytes of payload.
func sized(key string, bytes int) outbox.Event {
	return outbox.Event{Record: record(key), Type: outbox.Updated, Payload: make([]byte, bytes)}
}

// add writes one event about each key, in one call.
func add(t *testing.T, repo outbox.EventRepo, keys ...string) (positions []int64) {
	t.Helper()
	events := make([]outbox.Event, len(keys))
	for i, key := range keys {
		events[i] = sized(key, 10)
	}
	return addEvents(t, repo, events...)
}

func addEvents(t *testing.T, repo outbox.EventRepo, events ...outbox.Event) []int64 {
	t.Helper()
	positions, err := repo.Add(t.Context(), events...)
	if err != nil {
		t.Fatal(err)
	}
	return positions
}

// addEach writes one event about each key, in calls of their own: the records become due in this order.
func addEach(t *testing.T, repo outbox.EventRepo, keys ...string) (positions []int64) {
	t.Helper()
	for _, key := range keys {
		positions = append(positions, add(t, repo, key)...)
	}
	return positions
}

func lock(t *testing.T, repo outbox.EventRepo, limits lease.Limits) outbox.Claim {
	t.Helper()
	c, err := repo.Lock(t.Context(), limits)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Runs) != len(c.Records) {
		t.Fatalf("Lock: %d runs of %d records", len(c.Runs), len(c.Records))
	}
	for i, r := range c.Records {
		checkRun(t, c, r, c.Runs[i])
	}
	return c
}

// checkRun holds a run against what the claim says of its record.
func checkRun(t *testing.T, c outbox.Claim, r lease.Record, run outbox.Run) {
	t.Helper()
	if run.ID != r.ID || run.Token != c.Token || run.Epoch == "" || !run.Deadline.Equal(c.Until) {
		t.Errorf("run = id %d token %d epoch %q deadline %v, want those of record %d and token %d until %v",
			run.ID, run.Token, run.Epoch, run.Deadline, r.ID, c.Token, c.Until)
	}
	if r.Empty() {
		if len(run.Events) > 0 {
			t.Errorf("an empty record has %d events", len(run.Events))
		}
		return
	}
	size := int64(0)
	for i, e := range run.Events {
		size += int64(len(e.Payload))
		if i > 0 && e.Position <= run.Events[i-1].Position {
			t.Errorf("position %d comes after %d", e.Position, run.Events[i-1].Position)
		}
	}
	last := len(run.Events) - 1
	if last < 0 {
		t.Fatalf("record %d: no events read of those from %d to %d", r.ID, r.First, r.Last)
	}
	if run.Events[0].Position != r.First || run.Events[last].Position != r.Last || size != r.Bytes {
		t.Errorf("run from %d to %d, %d bytes, want from %d to %d, %d bytes",
			run.Events[0].Position, run.Events[last].Position, size, r.First, r.Last, r.Bytes)
	}
}

// lockSome claims until there is something.
func lockSome(t *testing.T, repo outbox.EventRepo, limits lease.Limits) (c outbox.Claim) {
	t.Helper()
	eventually(t, "a claim with records", func() bool {
		c = lock(t, repo, limits)
		return len(c.Runs) > 0
	})
	return c
}

// lockOne claims and wants one record of that key.
func lockOne(t *testing.T, repo outbox.EventRepo, key string) (outbox.Claim, lease.Held) {
	t.Helper()
	c := lock(t, repo, all)
	wantKeys(t, c, key)
	return c, held(c)[0]
}

// wantKeys stops a check whose claim has other records than it goes on with.
func wantKeys(t *testing.T, c outbox.Claim, want ...string) {
	t.Helper()
	if got := keys(c); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("claimed records = %q, want %q", got, want)
	}
}

// keys are those of the claimed records, in the claim's order.
func keys(c outbox.Claim) (list []string) {
	for _, run := range c.Runs {
		if len(run.Events) == 0 {
			list = append(list, "(empty)")
			continue
		}
		list = append(list, run.Events[0].Record.Key)
	}
	return list
}

func held(c outbox.Claim) []lease.Held {
	list := make([]lease.Held, len(c.Records))
	for i, r := range c.Records {
		list[i] = lease.Held{ID: r.ID, Token: c.Token}
	}
	return list
}

func positionsOf(run outbox.Run) (list []int64) {
	for _, e := range run.Events {
		list = append(list, e.Position)
	}
	return list
}

// remove acknowledges all that was claimed.
func remove(t *testing.T, repo outbox.EventRepo, c outbox.Claim) {
	t.Helper()
	var acks []lease.Ack
	for _, r := range c.Records {
		acks = append(acks, lease.Ack{Held: lease.Held{ID: r.ID, Token: c.Token}, Last: r.Last})
	}
	if err := repo.Remove(t.Context(), acks); err != nil {
		t.Fatal(err)
	}
}

func unlock(t *testing.T, repo outbox.EventRepo, releases ...lease.Release) {
	t.Helper()
	if err := repo.Unlock(t.Context(), releases); err != nil {
		t.Fatal(err)
	}
}
