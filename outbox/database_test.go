package outbox_test

import (
	"context"
	"crypto/rand"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
)

const waitMax = 10 * time.Second

// database is a migrated one of a test's own, and a superuser's eyes on it.
type database struct {
	t     *testing.T
	url   string
	admin *pgxpool.Pool
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	return &database{t: t, url: url, admin: newPool(t, url)}
}

func newPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// role creates a role with exactly what Grant gives, and returns the URL with which it connects.
func (d *database) role(kind string) string {
	d.t.Helper()
	name := kind + "_" + strings.ToLower(rand.Text()[:12])
	d.exec("create role " + name + " login")
	d.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitMax) // the test's context has ended
		defer cancel()
		sql := "drop owned by " + name + "; drop role " + name
		if _, err := d.admin.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			d.t.Errorf("drop role %s: %v", name, err)
		}
	})
	writer, relay := name, ""
	if kind == "relay" {
		writer, relay = "", name
	}
	if err := migrations.Grant(d.t.Context(), d.url, "", writer, relay); err != nil {
		d.t.Fatal(err)
	}
	u, err := url.Parse(d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	u.User = url.User(name)
	return u.String()
}

func (d *database) exec(sql string, args ...any) {
	d.t.Helper()
	if _, err := d.admin.Exec(d.t.Context(), sql, args...); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// clear empties the outbox for the next case.
func (d *database) clear() {
	d.t.Helper()
	d.exec("truncate baton.event, baton.record, baton.gap, baton.audit")
}

// one reads one value.
func one[T any](d *database, sql string, args ...any) (value T) {
	d.t.Helper()
	if err := d.admin.QueryRow(d.t.Context(), sql, args...).Scan(&value); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func (d *database) events() int { return one[int](d, "select count(*) from baton.event") }

// keys are those of all events, in the order of their positions.
func (d *database) keys() []string {
	return one[[]string](d, "select coalesce(array_agg(record_key order by position), '{}') from baton.event")
}

// repo is a Postgres whose leases last long, as the superuser.
func (d *database) repo(cfg outbox.PostgresConfig) *outbox.Postgres {
	d.t.Helper()
	return newPostgres(d.t, d.admin, cfg)
}

func newPostgres(t *testing.T, pool *pgxpool.Pool, cfg outbox.PostgresConfig) *outbox.Postgres {
	t.Helper()
	p, err := outbox.NewPostgres(pool, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// connect opens a session of its own.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) // the test's context has ended
	return conn
}

func begin(t *testing.T, conn *pgx.Conn, level pgx.TxIsoLevel) pgx.Tx {
	t.Helper()
	tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func savepoint(t *testing.T, tx pgx.Tx) pgx.Tx {
	t.Helper()
	inner, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return inner
}

func commit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func rollback(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func execTx(t *testing.T, tx pgx.Tx, sql string, args ...any) {
	t.Helper()
	if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// waiting waits until a session waits for a lock of that type.
func (d *database) waiting(conn *pgx.Conn, lockType string) {
	d.t.Helper()
	clustertest.Eventually(d.t, "a session that waits for a lock of type "+lockType, func() bool {
		return one[bool](d, "select exists (select from pg_locks where pid = $1 and not granted and locktype = $2)",
			conn.PgConn().PID(), lockType)
	})
}

func event(key string) outbox.Event {
	record := outbox.Record{Type: "shop.order", Key: key}
	return outbox.Event{Record: record, Type: outbox.Updated, Payload: []byte(`{"a":1}`)}
}

func events(keys ...string) (list []outbox.Event) {
	for _, key := range keys {
		list = append(list, event(key))
	}
	return list
}
