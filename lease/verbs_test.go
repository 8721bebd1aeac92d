package lease_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/lease"
)

// audit lists what operators did, oldest first.
func (d *database) audit() []string {
	d.t.Helper()
	return one[[]string](d, `
select coalesce(array_agg(concat_ws(' ', action, record_type, record_key, position, reason) order by id), '{}')
  from baton.audit`)
}

func TestParkStopsARecordInEveryState(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	positions := d.add("deferred", "backing off", "leased")
	c := d.claim()
	var releases []lease.Release
	leased := lease.Held{ID: d.id("leased"), Token: c.Token}
	for key, delay := range map[string]time.Duration{"deferred": 0, "backing off": time.Hour} {
		releases = append(releases, lease.Release{Held: lease.Held{ID: d.id(key), Token: c.Token}, Delay: delay})
	}
	if err := d.keeper.Release(t.Context(), releases); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"idle", "deferred", "backing off", "leased"} {
		d.exec("select baton.park('t', $1, 'because')", key)
	}
	d.add("idle", "deferred")
	if got := d.claim().Records; len(got) != 0 {
		t.Errorf("claimed = %+v, want none: all are parked", got)
	}
	got, want := one[string](d, "select min(last_error) from baton.record"), "parked by postgres: because"
	if got != want {
		t.Errorf("last error = %q, want %q", got, want)
	}

	wantLost(t, d.keeper.Ack(t.Context(), []lease.Ack{{Held: leased, Last: positions[2]}}), leased)
	wantLost(t, d.keeper.Release(t.Context(), []lease.Release{{Held: leased}}), leased)
	_, err := d.keeper.Extend(t.Context(), []lease.Held{leased})
	wantLost(t, err, leased)

	for _, key := range []string{"idle", "deferred", "backing off", "leased"} {
		if !one[bool](d, "select baton.unpark('t', $1, 'again')", key) {
			t.Errorf("unpark of %q found no work", key)
		}
	}
	firsts := map[int64]int64{}
	for _, r := range d.claim().Records {
		firsts[r.ID] = r.First
	}
	wantFirsts := map[int64]int64{
		d.id("deferred"): positions[0], d.id("backing off"): positions[1], d.id("leased"): positions[2],
		d.id("idle"): positions[2] + 1,
	}
	if diff := cmp.Diff(firsts, wantFirsts); diff != "" {
		t.Errorf("first positions after unpark (-got +want):\n%s", diff)
	}
}

// TestParkIsKeptWhenNoEventIsLeft: an operator's word holds for the record, not for one event.
func TestParkIsKeptWhenNoEventIsLeft(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"ack", "release"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			d.add("a")
			c := d.claim()
			d.exec("update baton.record set ready_at = 'infinity'") // parked under the same token
			var err error
			if end == "ack" {
				err = d.keeper.Ack(t.Context(), acks(c))
			} else {
				release := lease.Release{Held: acks(c)[0].Held, Stored: c.Records[0].Last, Delay: time.Second}
				err = d.keeper.Release(t.Context(), []lease.Release{release})
			}
			if err != nil {
				t.Fatal(err)
			}
			d.add("a")
			if got := d.claim().Records; len(got) != 0 {
				t.Errorf("claimed = %+v, want none", got)
			}
			if got := one[int](d, "select count(*) from baton.record where ready_at = 'infinity'"); got != 1 {
				t.Errorf("parked records = %d, want 1", got)
			}
		})
	}
}

func TestUnparkOfAnIdleRecordFindsNoWork(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	if one[bool](d, "select baton.unpark('t', 'a', 'why not')") {
		t.Error("unpark of an idle record found work")
	}
	if got := d.rows(); got != 0 {
		t.Errorf("rows = %d, want 0", got)
	}
}

func TestEveryVerbLeavesAnAuditRow(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	positions := d.add("a", "a")
	d.exec("select baton.park('t', 'a', 'one')")
	if got := one[int64](d, "select baton.skip('t', 'a', 'two')"); got != positions[0] {
		t.Errorf("skipped = %d, want %d", got, positions[0])
	}
	d.exec("select baton.unpark('t', 'a', 'three')")
	want := []string{"park t a one", "skip t a 1 two", "unpark t a three"}
	if diff := cmp.Diff(d.audit(), want); diff != "" {
		t.Errorf("audit (-got +want):\n%s", diff)
	}
	const sql = `
select count(*) from baton.audit where actor = session_user and at > clock_timestamp() - interval '1 minute'`
	if got := one[int](d, sql); got != 3 {
		t.Errorf("audit rows of this user, just now = %d, want 3", got)
	}
}

func TestEveryVerbWantsAReasonAndChangesNothingWithoutOne(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("a")
	c := d.claim()
	for _, verb := range []string{"park", "unpark", "skip"} {
		for _, reason := range []string{"null", "''", "'   '"} {
			_, err := d.admin.Exec(t.Context(), "select baton."+verb+"('t', 'a', "+reason+")")
			if got, want := clustertest.SQLState(err), "22023"; got != want {
				t.Errorf("%s because %s: error = %v, want code %s", verb, reason, err, want)
			}
		}
	}
	if diff := cmp.Diff(d.audit(), []string{}); diff != "" {
		t.Errorf("audit (-got +want):\n%s", diff)
	}
	d.ack(c) // nobody was fenced
}

func TestSkipFencesTheHolder(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	positions := d.add("a", "a")
	_, held := d.claimOne()
	d.exec("select baton.skip('t', 'a', 'poison')")
	wantLost(t, d.keeper.Ack(t.Context(), []lease.Ack{{Held: held, Last: positions[0]}}), held)
	if r, _ := d.claimOne(); r.First != positions[1] {
		t.Errorf("claimed from %d, want %d", r.First, positions[1])
	}
	if diff := cmp.Diff(one[[]int64](d, "select array_agg(position) from baton.gap"), positions[:1]); diff != "" {
		t.Errorf("gaps (-got +want):\n%s", diff)
	}
}

// TestGapOutlivesAnIdleRecord: the next event tells of it, however long after, and only once it is stored.
func TestGapOutlivesAnIdleRecord(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("a", "other")
	d.exec("select baton.skip('t', 'a', 'poison')")
	d.ack(d.claim()) // empty, and the other record's
	gaps := func() int { return one[int](d, "select count(*) from baton.gap") }
	if d.rows() != 0 || gaps() != 1 {
		t.Fatalf("rows = %d and gaps = %d, want an idle record with a gap", d.rows(), gaps())
	}
	if got := one[any](d, "select baton.skip('t', 'a', 'again')"); got != nil {
		t.Errorf("skip of an idle record = %v, want null", got)
	}
	d.add("a")
	_, held := d.claimOne()
	if err := d.keeper.Release(t.Context(), []lease.Release{{Held: held, Attempts: 1}}); err != nil {
		t.Fatal(err)
	}
	if got := gaps(); got != 1 {
		t.Errorf("gaps after a release without progress = %d, want 1", got)
	}
	d.ack(d.claim())
	if got := gaps(); got != 0 {
		t.Errorf("gaps after the next event was stored = %d, want 0", got)
	}
}

// TestAckThatIsFencedTellsNoGap: it wrote nothing.
func TestAckThatIsFencedTellsNoGap(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	positions := d.add("a", "a")
	_, held := d.claimOne()
	d.exec("select baton.skip('t', 'a', 'poison')")
	if err := d.keeper.Ack(t.Context(), []lease.Ack{{Held: held, Last: positions[1]}}); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Ack error = %v, want %v", err, lease.ErrLost)
	}
	err := d.keeper.Release(t.Context(), []lease.Release{{Held: held, Stored: positions[1]}})
	if !errors.Is(err, lease.ErrLost) {
		t.Errorf("Release error = %v, want %v", err, lease.ErrLost)
	}
	if got := one[int](d, "select count(*) from baton.gap"); got != 1 {
		t.Errorf("gaps = %d, want 1", got)
	}
}
