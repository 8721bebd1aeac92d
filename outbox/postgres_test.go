package outbox_test

import (
	"os"
	"testing"
	"time"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/outbox/outboxtest"
)

// TestPostgresConformsAsTheRelayRole runs the suite with the least rights that a relay needs.
func TestPostgresConformsAsTheRelayRole(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	conformance(t, d, d.role("relay"))
}

func TestPostgresConformsOnEveryVersion(t *testing.T) {
	if os.Getenv("BATON_LONG") != "1" {
		t.Skip("NOT RUN: starts five servers; set BATON_LONG=1")
	}
	for _, version := range []string{"14", "15", "16", "17", "18"} {
		t.Run(version, func(t *testing.T) {
			p, err := cluster.StartPostgres(t.Context(), cluster.PostgresOptions{Version: version, Log: t.Logf})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Stop) // after the pools are closed
			if err := migrations.Up(t.Context(), p.URL(), migrations.Options{}); err != nil {
				t.Fatal(err)
			}
			d := &database{t: t, url: p.URL(), admin: newPool(t, p.URL())}
			conformance(t, d, d.role("relay"))
		})
	}
}

func conformance(t *testing.T, d *database, url string) {
	pool := newPool(t, url)
	verb := func(sql string) func(*testing.T, outbox.Record) {
		return func(t *testing.T, r outbox.Record) {
			t.Helper()
			if _, err := pool.Exec(t.Context(), sql, r.Type, r.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	outboxtest.Conformance(t, func(t *testing.T) outboxtest.Harness {
		d.clear()
		return outboxtest.Harness{
			Repo:   newPostgres(t, pool, outbox.PostgresConfig{Lease: time.Minute}),
			Brief:  newPostgres(t, pool, outbox.PostgresConfig{Lease: outboxtest.BriefLease}),
			Park:   verb("select baton.park($1, $2, 'a test')"),
			Unpark: verb("select baton.unpark($1, $2, 'a test')"),
			Skip: func(t *testing.T, r outbox.Record) (position int64) {
				t.Helper()
				err := pool.QueryRow(t.Context(), "select coalesce(baton.skip($1, $2, 'a test'), 0)", r.Type, r.Key).Scan(&position)
				if err != nil {
					t.Fatal(err)
				}
				return position
			},
			LastError: func(t *testing.T, r outbox.Record) (text string) {
				t.Helper()
				const sql = "select coalesce(max(last_error), '') from baton.record where id = baton.record_id($1, $2)"
				if err := pool.QueryRow(t.Context(), sql, r.Type, r.Key).Scan(&text); err != nil {
					t.Fatal(err)
				}
				return text
			},
		}
	})
}
