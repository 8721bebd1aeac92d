package outbox

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
)

// Feared: a claim is given up, its token is released and finds nothing, and then its server process
// commits: the record is leased by nobody until the lease ends.
func TestAbandonedClaimThatCommitsLateIsReleasedToo(t *testing.T) {
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
	p, err := NewPostgres(pool, PostgresConfig{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Add(t.Context(), Event{Record: Record{Type: "shop.order", Key: "1"}, Type: Created}); err != nil {
		t.Fatal(err)
	}
	p.abandon(t.Context(), 4711) // the claim has not committed: nothing to release
	_, err = pool.Exec(t.Context(), `update baton.record
	   set token = 4711, claims = 1, locked_until = clock_timestamp() + interval '1 minute'`) // now it does
	if err != nil {
		t.Fatal(err)
	}
	if err := p.releaseAbandoned(t.Context()); err != nil { // as Maintain does every second
		t.Fatal(err)
	}
	var held int
	if err := pool.QueryRow(t.Context(), `select count(*) from baton.record where token is not null`).Scan(&held); err != nil {
		t.Fatal(err)
	}
	if held != 0 {
		t.Errorf("leases held = %d, want 0", held)
	}
}
