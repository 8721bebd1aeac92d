// Package shoptest gives tests of this service a database of their own that has everything, and looks into its
// outbox as nobody but a test may.
package shoptest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/store"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
)

// Database returns the URL of a fresh database with the outbox and shop.orders.
func Database(t testing.TB) string {
	t.Helper()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := store.New(Pool(t, url)).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return url
}

// Pool connects to the URL, and is closed with the test.
func Pool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Draft is a valid one.
func Draft() model.Draft {
	return model.Draft{
		Customer: "Ada Lovelace",
		Currency: "EUR",
		Items:    []model.Item{{SKU: "ENGINE-1", Quantity: 2, PriceMinor: 199_900}},
	}
}

// Written is an event as the outbox has it.
type Written struct {
	Position    int64
	Type        string
	ContentType string
	Event       model.OrderEvent
}

// Events returns what the outbox has about one order, in the order of the positions.
func Events(t testing.TB, pool *pgxpool.Pool, key string) []Written {
	t.Helper()
	const sql = `
SELECT position, type, headers ->> 'content-type', payload
  FROM baton.event
 WHERE record_type = 'shop.order' AND record_key = $1
 ORDER BY position`
	rows, err := pool.Query(t.Context(), sql, key)
	if err != nil {
		t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w Written, err error) {
		var payload []byte
		if err := row.Scan(&w.Position, &w.Type, &w.ContentType, &payload); err != nil {
			return w, err
		}
		return w, json.Unmarshal(payload, &w.Event)
	})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// Int returns the one number that the query answers with.
func Int(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int64) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Exec runs one statement.
func Exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// HoldRow locks the order's row until the returned function is called, or the test ends.
func HoldRow(t testing.TB, pool *pgxpool.Pool, id int64) (letGo func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	letGo = func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) } // the second call finds nothing to do
	t.Cleanup(letGo)
	if _, err := tx.Exec(t.Context(), `SELECT FROM shop.orders WHERE id = $1 FOR UPDATE`, id); err != nil {
		t.Fatal(err)
	}
	return letGo
}

// WaitForWaiters returns once n sessions of this database wait for a lock.
func WaitForWaiters(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	const sql = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
	for Int(t, pool, sql) < int64(n) {
		if t.Context().Err() != nil {
			t.Fatal("too few sessions wait for a lock")
		}
	}
}

// Role makes a role with no rights, and drops it with the test.
func Role(t testing.TB, owner *pgxpool.Pool) string {
	t.Helper()
	role := "shop_" + strings.ToLower(rand.Text()[:12])
	Exec(t, owner, `CREATE ROLE `+role)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if _, err := owner.Exec(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role); err != nil {
			t.Errorf("drop role: %v", err)
		}
	})
	return role
}
