package storm

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// newDB returns the URL of a migrated database.
func newDB(t testing.TB) string {
	t.Helper()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	return url
}

func connectTo(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) // t.Context() has ended
	return conn
}

func exec(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// replaceFunction changes the text of a function of the outbox in this test's database.
func replaceFunction(t testing.TB, url, signature string, oldNew ...string) {
	t.Helper()
	conn := connectTo(t, url)
	var sql string
	if err := conn.QueryRow(t.Context(), `select pg_get_functiondef($1::regprocedure)`, signature).Scan(&sql); err != nil {
		t.Fatal(err)
	}
	sql, err := Replaced(sql, oldNew...)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, conn, sql)
}

// seed is BATON_SEED, or a new one; it is printed before anything else.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := rand.Uint64()
	if env := os.Getenv("BATON_SEED"); env != "" {
		var err error
		if s, err = strconv.ParseUint(env, 10, 64); err != nil {
			t.Fatalf("BATON_SEED: %v", err)
		}
	}
	t.Logf("seed: BATON_SEED=%d", s)
	return s
}

// long says whether the storms shall blow longer.
func long() bool { return os.Getenv("BATON_LONG") == "1" }

func config(t testing.TB, url string) Config {
	return Config{
		URL: url, Seed: seed(t), Writers: 16, Claimers: 16, Deep: 4, Shallow: 2000, Width: 12,
		Claims: 50_000, Lease: 100 * time.Millisecond, Backlog: 6000,
	}
}

func blow(t *testing.T, cfg Config) Report {
	t.Helper()
	if long() {
		cfg.Claims *= 6
	}
	start := time.Now()
	r, err := Run(t.Context(), cfg)
	t.Logf("%v: %v", time.Since(start).Round(time.Millisecond), r)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// judged fails unless the storm was one, and broke nothing.
func judged(t *testing.T, cfg Config, r Report) {
	t.Helper()
	if got, want := r.Claimed, cfg.Claims; got < want {
		t.Errorf("records claimed = %d, want %d", got, want)
	}
	if got, want := r.Reclaimed, r.Claimed/5; got < want {
		t.Errorf("records claimed again = %d of %d, want %d", got, r.Claimed, want)
	}
	if r.Stale == 0 || r.Empty == 0 || r.RolledBack == 0 || r.Copies == 0 || r.Lost == 0 {
		t.Errorf("a calm day: stale, empty, rolled back, copies and lost are all to be seen in %v", r)
	}
	if r.Bad() != 0 {
		t.Errorf("%v: want none of the last eight", r)
	}
}

func TestStormBreaksNothing(t *testing.T) {
	cfg := config(t, newDB(t))
	judged(t, cfg, blow(t, cfg))
}

func TestStormOverCollidingRecordsBreaksNothing(t *testing.T) {
	url := newDB(t)
	exec(t, connectTo(t, url), `
create or replace function baton.record_id(record_type text, record_key text) returns bigint
  language sql immutable strict parallel safe
return hashtextextended(record_key, hashtextextended(record_type, 8316293)) % 8`)
	cfg := config(t, url)
	cfg.Claims, cfg.Deep, cfg.Shallow, cfg.Width = 6_000, 2, 40, 2
	judged(t, cfg, blow(t, cfg))
}
