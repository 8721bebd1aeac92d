package outbox_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/outbox"
)

// publish claims and acknowledges all that is due.
func publish(t *testing.T, p *outbox.Postgres) {
	t.Helper()
	for {
		c, err := p.Lock(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Records) == 0 {
			return
		}
		var acks []lease.Ack
		for _, r := range c.Records {
			acks = append(acks, lease.Ack{Held: lease.Held{ID: r.ID, Token: c.Token}, Last: r.Last})
		}
		if err := p.Remove(t.Context(), acks); err != nil {
			t.Fatal(err)
		}
	}
}

func (d *database) add(keys ...string) {
	d.t.Helper()
	for _, key := range keys {
		d.exec("select baton.add('shop.order', $1, 'Updated', 'x')", key)
	}
}

func TestRetentionDeletesOnlyWhatIsPublished(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	p := d.repo(outbox.PostgresConfig{})
	d.add("idle", "parked", "backing off", "leased", "deferred", "skipped", "skipped")
	publish(t, p)
	d.exec("select baton.park('shop.order', 'parked', 'a test')")
	d.add("parked", "backing off", "leased", "leased")
	c, err := p.Lock(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i, run := range c.Runs {
		if run.Events[0].Record.Key == "backing off" {
			held := lease.Held{ID: c.Records[i].ID, Token: c.Token}
			if err := p.Unlock(t.Context(), []lease.Release{{Held: held, Delay: time.Hour}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	d.add("deferred", "skipped", "skipped")
	d.exec("select baton.skip('shop.order', 'skipped', 'a test')")
	open := begin(t, connect(t, d.url), pgx.ReadCommitted)
	addTx(t, open, "open")

	var deleted int
	for range 2 {
		deleted += one[int](d, "select deleted from baton.retain('0', 0, 1000)")
	}
	want := []string{"parked", "backing off", "leased", "leased", "deferred", "skipped"}
	if diff := cmp.Diff(d.keys(), want); diff != "" {
		t.Errorf("events left (-got +want):\n%s", diff)
	}
	if deleted != 8 { // seven published, one skipped
		t.Errorf("deleted = %d, want 8", deleted)
	}
	commit(t, open)
	d.exec("select baton.retain('0', 0, 1000)")
	if got := d.keys(); len(got) != len(want)+1 {
		t.Errorf("events left = %q, want that of the writer which was open too", got)
	}
}

func TestRetentionKeepsWhatIsYoung(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("old", "young")
	publish(t, d.repo(outbox.PostgresConfig{}))
	d.exec("update baton.event set created_at = created_at - interval '2 hours' where record_key = 'old'")
	d.exec("select baton.retain('1 hour', 0, 1000)")
	if diff := cmp.Diff(d.keys(), []string{"young"}); diff != "" {
		t.Errorf("events left (-got +want):\n%s", diff)
	}
}

func TestRetentionIsOneInstancesAtATime(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("a")
	publish(t, d.repo(outbox.PostgresConfig{}))
	other := begin(t, connect(t, d.url), pgx.ReadCommitted)
	execTx(t, other, "select baton.retain('1 hour', 0, 1)")
	if got := one[int](d, "select deleted from baton.retain('0', 0, 1000)"); got != -1 {
		t.Errorf("deleted beside another instance = %d, want -1", got)
	}
	if got := d.events(); got != 1 {
		t.Errorf("events = %d, want 1", got)
	}
	rollback(t, other)
	if got := one[int](d, "select deleted from baton.retain('0', 0, 1000)"); got != 1 {
		t.Errorf("deleted after the other instance = %d, want 1", got)
	}
}

func TestRetentionRefusesOtherIsolationLevels(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, level := range isolationLevels[1:] {
		tx := begin(t, connect(t, d.url), level)
		_, err := tx.Exec(t.Context(), "select baton.retain('0', 0, 1)")
		if got, want := clustertest.SQLState(err), "25000"; got != want {
			t.Errorf("retain under %s: error = %v, want code %s", level, err, want)
		}
	}
}

// TestRetentionWalksTheWholeTable: pages come one step after the other, and the end of the table is told.
func TestRetentionWalksTheWholeTable(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec("select baton.add('shop.order', (i % 100)::text, 'Updated', repeat('x', 500)) from generate_series(1, 2000) i")
	publish(t, d.repo(outbox.PostgresConfig{}))
	var deleted, steps int
	for wrapped := false; !wrapped; steps++ {
		var n int
		err := d.admin.QueryRow(t.Context(), "select * from baton.retain('0', $1, 8)", steps*8).Scan(&n, &wrapped)
		if err != nil {
			t.Fatal(err)
		}
		deleted += n
	}
	if deleted != 2000 || steps < 10 {
		t.Errorf("deleted = %d in %d steps, want 2000 in 10 at least", deleted, steps)
	}
}

// TestRetentionKeepsTheTableFlat writes, publishes and deletes many times what is kept.
func TestRetentionKeepsTheTableFlat(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	p := d.repo(outbox.PostgresConfig{})
	pages := func() int { return one[int](d, "select (pg_relation_size('baton.event') / 8192)::int") }
	var high int
	const rounds = 12
	for round := range rounds {
		d.exec("select baton.add('shop.order', (i % 50)::text, 'Updated', repeat('x', 500)) from generate_series(1, 400) i")
		publish(t, p)
		d.exec("select baton.retain('0', 0, 1000)")
		d.exec("vacuum baton.event") // autovacuum's work, which a short test cannot wait for
		if round == 1 {
			high = pages()
		}
	}
	if got := pages(); got > 2*high+8 {
		t.Errorf("pages after %d rounds = %d, want about the %d after 2", rounds, got, high)
	}
}

func TestMaintainRetains(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	p := newPostgres(t, newPool(t, d.role("relay")), outbox.PostgresConfig{Retention: time.Millisecond})
	d.add("a", "b")
	publish(t, p)
	d.add("c")
	maintain(t, p)
	clustertest.Eventually(t, "published events deleted", func() bool { return d.events() == 1 })
	if diff := cmp.Diff(d.keys(), []string{"c"}); diff != "" {
		t.Errorf("events left (-got +want):\n%s", diff)
	}
}
