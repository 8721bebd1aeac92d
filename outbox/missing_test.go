package outbox_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
)

// Feared: an event that was claimed is gone when it is read, and the ack that follows says that all is stored.
func TestRecordWhoseClaimedEventsAreGoneIsParkedAndNeverAcknowledged(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	repo, err := outbox.NewPostgres(pool, outbox.PostgresConfig{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"whole", "broken"} {
		for range 3 {
			e := outbox.Event{Record: outbox.Record{Type: "shop.order", Key: key}, Type: outbox.Updated}
			if _, err := repo.Add(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	// between the claim's commit and the read of the events, as a deferred delete would come: on the claim itself
	_, err = pool.Exec(t.Context(), `
		create function lose() returns trigger language plpgsql as $$
		begin
		  delete from baton.event
		   where record = new.id and record_key = 'broken'
		     and position = (select max(position) from baton.event where record = new.id);
		  return null;
		end $$;
		create constraint trigger lose after update on baton.record deferrable initially deferred for each row
		  when (new.token is not null) execute function lose()`)
	if err != nil {
		t.Fatal(err)
	}
	claim, err := repo.Lock(t.Context(), lease.Limits{Records: 10, Events: 100, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if len(claim.Runs) != 1 || claim.Runs[0].Events[0].Record.Key != "whole" {
		t.Errorf("runs = %+v, want the whole record's alone", claim.Runs)
	}
	var parked int
	err = pool.QueryRow(t.Context(), `
		select count(*) from baton.record
		 where ready_at = 'infinity' and last_error like '%not all there%'`).Scan(&parked)
	if err != nil {
		t.Fatal(err)
	}
	if parked != 1 {
		t.Errorf("parked = %d, want 1", parked)
	}
}
