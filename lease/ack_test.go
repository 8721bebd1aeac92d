package lease_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/lease"
)

// TestAckUnderAHeldGateKeepsTheRow: the writer's event is not visible yet. If the row went, nobody would
// ever look for the event.
func TestAckUnderAHeldGateKeepsTheRow(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("a")
	c := d.claim()
	writer := d.begin()
	execIn(t, writer, addSQL, "a")
	d.ack(c)
	if got := d.rows(); got != 1 {
		t.Errorf("rows = %d, want 1: a writer is open", got)
	}
	commit(t, writer)
	var r lease.Record
	clustertest.Eventually(t, "the writer's event claimed", func() bool {
		c := d.claim()
		if len(c.Records) == 0 {
			return false
		}
		r = c.Records[0]
		d.ack(c)
		return !r.Empty()
	})
	if r.First <= c.Records[0].Last || r.First != r.Last {
		t.Errorf("claimed from %d to %d, want the one event after %d", r.First, r.Last, c.Records[0].Last)
	}
	if got := d.rows(); got != 0 {
		t.Errorf("rows = %d, want 0: all is published", got)
	}
}

// paused makes the ack wait between its first look for newer events and the gate, behind the test's lock.
const paused = `
create function public.paused_gate(gate bigint) returns boolean language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(1, 1);
  return pg_try_advisory_xact_lock(gate);
end $$;
do $$
declare f text := pg_get_functiondef('baton.ack(bigint[], bigint[], bigint[], boolean)'::regprocedure);
begin
  assert strpos(f, 'pg_try_advisory_xact_lock(') > 0;
  execute replace(f, 'pg_try_advisory_xact_lock(', 'public.paused_gate(');
end $$`

// TestAckSeesTheEventThatCommitsBeforeItHasTheGate: the first look's snapshot is older than the commit.
func TestAckSeesTheEventThatCommitsBeforeItHasTheGate(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec(paused)
	d.add("a")
	c := d.claim()
	writer, pause, acking := d.begin(), d.begin(), d.connect()
	execIn(t, writer, addSQL, "a")
	execIn(t, pause, "select pg_advisory_xact_lock(1, 1)")
	done := make(chan error, 1)
	go func() { // not through the keeper, whose time-outs a slow machine might reach
		_, err := acking.Exec(t.Context(), "select baton.ack($1, $2, $3)",
			[]int64{c.Records[0].ID}, []int64{c.Records[0].Last}, []int64{c.Token})
		done <- err
	}()
	clustertest.Eventually(t, "the ack has looked and waits", func() bool {
		return one[bool](d, "select exists (select from pg_locks where pid = $1 and not granted)", acking.PgConn().PID())
	})
	commit(t, writer)
	commit(t, pause)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r, _ := d.claimOne()
	if r.Empty() || r.First <= c.Records[0].Last {
		t.Errorf("claimed = %+v, want the event after %d", r, c.Records[0].Last)
	}
}

func TestAckRefusesOtherIsolationLevels(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		tx, err := d.connect().BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
		if err != nil {
			t.Fatal(err)
		}
		_, err = tx.Exec(t.Context(), "select baton.ack('{1}', '{1}', '{1}')")
		if got, want := clustertest.SQLState(err), "25000"; got != want {
			t.Errorf("ack under %s: error = %v, want code %s", level, err, want)
		}
	}
}

// TestKeeperWorksForARoleThatDefaultsToSerializable: its transactions say what they need.
func TestKeeperWorksForARoleThatDefaultsToSerializable(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	name := one[string](d, "select current_database()")
	d.exec("alter database " + pgx.Identifier{name}.Sanitize() + " set default_transaction_isolation = 'serializable'")
	d.exec("alter database " + pgx.Identifier{name}.Sanitize() + " set default_transaction_read_only = on")
	d.add("a")
	d.admin.Reset()
	d.ack(d.claim())
	if got := d.rows(); got != 0 {
		t.Errorf("rows = %d, want 0", got)
	}
}

// TestAckLeavesABusyRowForLater: somebody else's lock on one row must not keep the others back.
func TestAckLeavesABusyRowForLater(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("a", "b", "c", "c")
	c := d.claim()
	stale := lease.Ack{Held: lease.Held{ID: d.id("idle"), Token: c.Token}, Last: math.MaxInt64}
	foreign := d.begin()
	execIn(t, foreign, "select from baton.record where id = baton.record_id('t', 'b') for update")
	err := d.keeper.Ack(t.Context(), append(acks(c), stale))
	var busy *lease.BusyError
	if want := []lease.Held{{ID: d.id("b"), Token: c.Token}}; !errors.As(err, &busy) || cmp.Diff(busy.Held, want) != "" {
		t.Errorf("Ack error = %v, want a BusyError of %v", err, want)
	}
	wantLost(t, err, stale.Held)
	if got := one[int64](d, "select sum(id) from baton.record"); got != d.id("b") {
		t.Errorf("rows left are those of %d, want only the busy one's, %d", got, d.id("b"))
	}
	commit(t, foreign)
	for _, a := range acks(c) {
		if a.ID != d.id("b") {
			continue
		}
		if err := d.keeper.Ack(t.Context(), []lease.Ack{a}); err != nil {
			t.Errorf("Ack when the row is free: %v", err)
		}
	}
	if got := d.rows(); got != 0 {
		t.Errorf("rows = %d, want 0", got)
	}
}

func TestReleaseLeavesABusyRowForLater(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("a", "b")
	c := d.claim()
	foreign := d.begin()
	execIn(t, foreign, "select from baton.record where id = baton.record_id('t', 'b') for update")
	var releases []lease.Release
	for _, a := range acks(c) {
		releases = append(releases, lease.Release{Held: a.Held, Attempts: 1})
	}
	err := d.keeper.Release(t.Context(), releases)
	var busy *lease.BusyError
	want := []lease.Held{{ID: d.id("b"), Token: c.Token}}
	if !errors.As(err, &busy) || errors.Is(err, lease.ErrLost) || cmp.Diff(busy.Held, want) != "" {
		t.Errorf("Release error = %v, want a BusyError of %v", err, want)
	}
	if got := one[int64](d, "select sum(id) from baton.record where attempts = 1 and token is null"); got != d.id("a") {
		t.Errorf("released = %d, want only %d", got, d.id("a"))
	}
}

// TestClaimPassesOverRowsThatOthersLock: a frozen claim of another relay must not stop this one.
func TestClaimPassesOverRowsThatOthersLock(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("a", "b", "c")
	foreign := d.begin()
	execIn(t, foreign, "select from baton.record where id = baton.record_id('t', 'b') for update")
	c := d.claim()
	for _, r := range c.Records {
		if r.ID == d.id("b") {
			t.Error("claimed a row that another session locks")
		}
	}
	if len(c.Records) != 2 {
		t.Errorf("claimed records = %d, want 2", len(c.Records))
	}
}

// TestEmptyClaimsBackOffAndCostNothing: the writer of the record's next event stays open for long.
func TestEmptyClaimsBackOffAndCostNothing(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("a")
	writer := d.begin()
	execIn(t, writer, addSQL, "a")
	d.ack(d.claim())
	d.exec("update baton.record set attempts = 2, last_error = 'kept'")
	var got []string
	for range 9 {
		d.exec("update baton.record set ready_at = clock_timestamp()")
		r, held := d.claimOne()
		if !r.Empty() || r.Attempts != 2 || r.Claims != 0 {
			t.Fatalf("claim = %+v, want an empty one with 2 attempts and no claims", r)
		}
		before := one[time.Time](d, "select clock_timestamp()")
		if err := d.keeper.Ack(t.Context(), []lease.Ack{{Held: held, Last: r.Last}}); err != nil {
			t.Fatal(err)
		}
		after := one[time.Time](d, "select clock_timestamp()")
		ready := one[time.Time](d, "select ready_at from baton.record")
		step := min(1000, 10<<min(len(got), 7)) * int(time.Millisecond)
		if ready.Before(before.Add(time.Duration(step))) || ready.After(after.Add(time.Duration(step))) {
			t.Errorf("empty claim %d: due in %v, want %v", len(got)+1, ready.Sub(before), time.Duration(step))
		}
		got = append(got, fmt.Sprint(time.Duration(step)))
	}
	if got[0] != "10ms" || got[8] != "1s" {
		t.Errorf("back-off = %v, want 10 ms to 1 s", got)
	}
	if got := one[string](d, "select last_error from baton.record"); got != "kept" {
		t.Errorf("last error = %q, want it kept", got)
	}
	if err := writer.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.exec("update baton.record set ready_at = clock_timestamp()")
	d.ack(d.claim())
	if got := d.rows(); got != 0 {
		t.Errorf("rows after the writer rolled back = %d, want 0", got)
	}
}
