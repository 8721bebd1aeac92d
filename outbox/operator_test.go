package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/outbox"
)

// operator acts with a relay's rights, as a role whose default isolation would be refused.
func (d *database) operator() *outbox.Operator {
	d.t.Helper()
	url := d.role("relay")
	config, err := pgx.ParseConfig(url)
	if err != nil {
		d.t.Fatal(err)
	}
	d.exec("alter role " + config.User + " set default_transaction_isolation = 'repeatable read'")
	o, err := outbox.NewOperator(newPool(d.t, url), "")
	if err != nil {
		d.t.Fatal(err)
	}
	return o
}

func (d *database) status(o *outbox.Operator) outbox.Status {
	d.t.Helper()
	s, err := o.Status(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// addTo writes n events of a record.
func (d *database) addTo(key string, n int) (positions []int64) {
	d.t.Helper()
	for range n {
		positions = append(positions, one[int64](d, "select baton.add('shop.order', $1, 'Updated', '{}'::text)", key))
	}
	return positions
}

func order(key string) outbox.Record { return outbox.Record{Type: "shop.order", Key: key} }

// audited are the acts on record, oldest first.
func (d *database) audited() []string {
	d.t.Helper()
	return one[[]string](d, `
		select coalesce(array_agg(action || ' ' || record_key || ' ' || coalesce(position, 0) || ': ' || reason order by id),
		                '{}')
		  from baton.audit`)
}

func TestStatusCountsRecordsByState(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	o := d.operator()
	if diff := cmp.Diff(d.status(o), outbox.Status{}, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("of an empty outbox (-got +want):\n%s", diff)
	}

	for i, state := range []string{
		"", "", "", // deferred
		"locked_until = clock_timestamp() + interval '1 h', token = 1, locked_by = 7",
		"locked_until = clock_timestamp() + interval '1 h', token = 1, locked_by = 7",
		"locked_until = clock_timestamp() - interval '1 s', token = 2, locked_by = 8", // stale, so deferred
		"ready_at = clock_timestamp() + interval '1 h', attempts = 2",
		"ready_at = 'infinity', attempts = 5, last_error = 'too large'",
	} {
		d.addTo(fmt.Sprint(i), 2)
		if state != "" {
			d.exec("update baton.record set "+state+" where id = baton.record_id('shop.order', $1)", fmt.Sprint(i))
		}
	}
	d.exec("insert into baton.instance (id, name, version, pooler) values (7, 'relay-7', 'v1', 'none')")
	d.exec("insert into baton.instance (id, name, version, pooler, seen_at) " +
		"values (8, 'gone', 'v1', 'none', clock_timestamp() - interval '1 min')")
	// the oldest event of all waits for an operator, the oldest of the others is a minute old
	d.exec("update baton.event set created_at = clock_timestamp() - interval '1 day' where record_key = '7'")
	d.exec("update baton.event set created_at = clock_timestamp() - interval '1 min' where record_key = '0'")

	got := d.status(o)
	want := outbox.Status{
		Deferred: 4, Leased: 2, BackingOff: 1, Parked: 1, Stale: 1, Events: 16,
		Instances: []outbox.InstanceStatus{{Name: "relay-7", Version: "v1", Pooler: "none", Leases: 2}},
		ParkedRecords: []outbox.ParkedRecord{{
			RecordType: "shop.order", RecordKey: "7", Position: 15, Type: "Updated", Attempts: 5, LastError: "too large",
		}},
	}
	volatile := cmp.Options{
		cmpopts.IgnoreFields(outbox.Status{}, "OldestSeconds"),
		cmpopts.IgnoreFields(outbox.InstanceStatus{}, "StartedAt", "SeenAt"),
		cmpopts.IgnoreFields(outbox.ParkedRecord{}, "Since", "ID"),
	}
	if diff := cmp.Diff(got, want, volatile); diff != "" {
		t.Errorf("status (-got +want):\n%s", diff)
	}
	if got.OldestSeconds < 60 || got.OldestSeconds > 90 {
		t.Errorf("oldest = %v s, want a little more than 60: of those that wait for a relay", got.OldestSeconds)
	}
	if since := got.ParkedRecords[0].Since; since == nil || time.Since(*since) < 23*time.Hour {
		t.Errorf("parked since %v, want the day before", since)
	}
}

func TestStatusEstimatesTheEventsOfManyRecords(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec(`insert into baton.event (record, position, bytes, event_id, record_type, record_key, type)
	        select hashint8extended(r, 0), r * 3 + e, 0, gen_random_uuid(), 't', r::text, 'Updated'
	          from generate_series(1, 6000) r, generate_series(0, r % 3) e`)
	d.exec(`insert into baton.record (id, next_position, ready_at)
	        select record, min(position), clock_timestamp() from baton.event group by record`)
	s := d.status(d.operator())
	if exact := int64(d.events()); !s.EventsEstimated || s.Events < exact*95/100 || s.Events > exact*105/100 {
		t.Errorf("events = %d, estimated = %v, want about %d", s.Events, s.EventsEstimated, exact)
	}
}

func TestParkedRecordWithoutAnEventIsNamedByItsPastOrByWhoParkedIt(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	o := d.operator()
	d.addTo("published", 1)
	d.exec("delete from baton.record")
	for _, key := range []string{"published", "never written"} {
		if err := o.Park(t.Context(), order(key), "test"); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, p := range d.status(o).ParkedRecords {
		names = append(names, p.RecordType+" "+p.RecordKey)
		if p.Since != nil || p.Position != 0 {
			t.Errorf("%s stands at position %d, want none", p.RecordKey, p.Position)
		}
	}
	slices.Sort(names)
	if diff := cmp.Diff(names, []string{"shop.order never written", "shop.order published"}); diff != "" {
		t.Errorf("parked (-got +want):\n%s", diff)
	}
}

func TestStatusListsOnlySomeParkedRecords(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for i := range 30 {
		d.addTo(fmt.Sprint(i), 1)
	}
	d.exec("update baton.record set ready_at = 'infinity'")
	if s := d.status(d.operator()); s.Parked != 30 || len(s.ParkedRecords) != 20 {
		t.Errorf("parked = %d, listed = %d, want 30 and 20", s.Parked, len(s.ParkedRecords))
	}
}

func TestStatusWithoutTheOutboxSaysWhatToDo(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	o, err := outbox.NewOperator(d.admin, "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Status(t.Context()); !errors.Is(err, outbox.ErrNotMigrated) {
		t.Errorf("error = %v, want %v", err, outbox.ErrNotMigrated)
	}
}

// TestOperatorFencesWhoeverHoldsTheRecord: each verb takes the lease away, and the holder's write is refused.
func TestOperatorFencesWhoeverHoldsTheRecord(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	o := d.operator()
	repo := d.repo(outbox.PostgresConfig{})
	for name, act := range map[string]func() error{
		"park":   func() error { return o.Park(t.Context(), order("park"), "test") },
		"unpark": func() error { return o.Unpark(t.Context(), order("unpark"), "test") },
		"skip":   func() error { _, err := o.Skip(t.Context(), order("skip"), "test"); return err },
	} {
		d.addTo(name, 2)
		claim, err := repo.Lock(t.Context(), lease.Limits{Records: 1, Events: 10, Bytes: 1 << 20})
		if err != nil || len(claim.Records) != 1 {
			t.Fatalf("%s: claim of %d records: %v", name, len(claim.Records), err)
		}
		r := claim.Records[0]
		if err := act(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		held := lease.Held{ID: r.ID, Token: claim.Token}
		if err := repo.Remove(t.Context(), []lease.Ack{{Held: held, Last: r.Last}}); !errors.Is(err, lease.ErrLost) {
			t.Errorf("%s: acknowledgement under the old lease: %v, want %v", name, err, lease.ErrLost)
		}
		d.exec("delete from baton.record")
	}
}

func TestOperatorsActsAreAuditedOnceEach(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	o := d.operator()
	positions := d.addTo("42", 2)
	ctx := t.Context()

	if err := o.Park(ctx, order("42"), "broken consumer"); err != nil {
		t.Fatal(err)
	}
	if s := d.status(o); s.Parked != 1 || s.ParkedRecords[0].Position != positions[0] {
		t.Errorf("parked = %+v, want it at position %d", s.ParkedRecords, positions[0])
	}
	skipped, err := o.Skip(ctx, order("42"), "poison")
	if err != nil || skipped != positions[0] {
		t.Errorf("skipped %d, %v, want %d", skipped, err, positions[0])
	}
	if err := o.Unpark(ctx, order("42"), "mended"); err != nil {
		t.Error(err)
	}
	want := []string{"park 42 0: broken consumer", fmt.Sprintf("skip 42 %d: poison", positions[0]), "unpark 42 0: mended"}
	if diff := cmp.Diff(d.audited(), want); diff != "" {
		t.Errorf("audit (-got +want):\n%s", diff)
	}
	if s := d.status(o); s.Parked != 0 || s.Deferred != 1 || s.Events != 1 {
		t.Errorf("after unpark: %+v, want one deferred record with one event", s)
	}
}

func TestActOnARecordWithoutWorkIsRefusedAndNotAudited(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	o := d.operator()
	if err := o.Unpark(t.Context(), order("42"), "test"); !errors.Is(err, outbox.ErrNoWork) {
		t.Errorf("unpark: %v, want %v", err, outbox.ErrNoWork)
	}
	if _, err := o.Skip(t.Context(), order("42"), "test"); !errors.Is(err, outbox.ErrNoWork) {
		t.Errorf("skip: %v, want %v", err, outbox.ErrNoWork)
	}
	err := o.Park(t.Context(), outbox.Record{Type: "shop order", Key: "42"}, "test")
	if !errors.Is(err, outbox.ErrNoRecord) {
		t.Errorf("park of a type that cannot be: %v, want %v", err, outbox.ErrNoRecord)
	}
	if err := o.Park(t.Context(), order(""), "test"); !errors.Is(err, outbox.ErrNoRecord) {
		t.Errorf("park of a key that cannot be: %v, want %v", err, outbox.ErrNoRecord)
	}
	if err := o.Park(t.Context(), order("42"), ""); err == nil {
		t.Error("park without a reason was accepted")
	}
	if got := d.audited(); len(got) > 0 {
		t.Errorf("audit = %q, want nothing", got)
	}
}
