package lease_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/migrations"
)

// all is a claim without bounds that matter here.
var all = lease.Limits{Records: 100, Events: 1000, Bytes: 1 << 20}

// database is an outbox of a test's own, a keeper on it, and a superuser's eyes.
type database struct {
	t      *testing.T
	url    string
	admin  *pgxpool.Pool
	keeper *lease.Keeper
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	keeper, err := lease.New(pool, lease.Config{Lease: time.Minute, Instance: 7})
	if err != nil {
		t.Fatal(err)
	}
	return &database{t: t, url: url, admin: pool, keeper: keeper}
}

func (d *database) connect() *pgx.Conn {
	d.t.Helper()
	conn, err := pgx.Connect(d.t.Context(), d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close(context.Background()) }) // the test's context has ended
	return conn
}

func (d *database) begin() pgx.Tx {
	d.t.Helper()
	tx, err := d.connect().Begin(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return tx
}

func (d *database) exec(sql string, args ...any) {
	d.t.Helper()
	execIn(d.t, d.admin, sql, args...)
}

type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func execIn(t *testing.T, in executor, sql string, args ...any) {
	t.Helper()
	if _, err := in.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one reads one value.
func one[T any](d *database, sql string, args ...any) (value T) {
	d.t.Helper()
	if err := d.admin.QueryRow(d.t.Context(), sql, args...).Scan(&value); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func commit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

const addSQL = "select baton.add('t', $1, 'Updated', 'x')"

// add writes an event about each key.
func (d *database) add(keys ...string) (positions []int64) {
	d.t.Helper()
	for _, key := range keys {
		positions = append(positions, one[int64](d, addSQL, key))
	}
	return positions
}

func (d *database) claim() lease.Claim {
	d.t.Helper()
	c, err := d.keeper.Claim(d.t.Context(), all)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// claimOne wants a claim of one record.
func (d *database) claimOne() (lease.Record, lease.Held) {
	d.t.Helper()
	c := d.claim()
	if len(c.Records) != 1 {
		d.t.Fatalf("claimed records = %+v, want one", c.Records)
	}
	return c.Records[0], lease.Held{ID: c.Records[0].ID, Token: c.Token}
}

func acks(c lease.Claim) (list []lease.Ack) {
	for _, r := range c.Records {
		list = append(list, lease.Ack{Held: lease.Held{ID: r.ID, Token: c.Token}, Last: r.Last})
	}
	return list
}

func (d *database) ack(c lease.Claim) {
	d.t.Helper()
	if err := d.keeper.Ack(d.t.Context(), acks(c)); err != nil {
		d.t.Fatal(err)
	}
}

// rows counts the records that have work.
func (d *database) rows() int { return one[int](d, "select count(*) from baton.record") }

func (d *database) id(key string) int64 { return one[int64](d, "select baton.record_id('t', $1)", key) }

// wantLost wants exactly this lease lost.
func wantLost(t *testing.T, err error, want lease.Held) {
	t.Helper()
	var lost *lease.LostError
	if !errors.As(err, &lost) || len(lost.Held) != 1 || lost.Held[0] != want {
		t.Errorf("error = %v, want a LostError of %v", err, want)
	}
}
