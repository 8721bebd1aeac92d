package database_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/internal/database"
	"github.com/batonrelay/baton/migrations"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

func open(t *testing.T, url, pooler string) (*pgxpool.Pool, string) {
	t.Helper()
	pool, found, err := database.Open(t.Context(), database.Options{
		URL: url, Pooler: pooler, Application: database.ApplicationName("test"), Connections: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, found
}

func one[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (value T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func TestPoolerIsToldFromTheServer(t *testing.T) {
	t.Parallel()
	direct := clustertest.Database(t)
	bouncer, err := cluster.StartPgBouncer(t.Context(), clustertest.Postgres(t).URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bouncer.Stop)
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	pooled := bouncer.URL(strings.TrimPrefix(u.Path, "/"))
	for _, tc := range []struct{ url, pooler, want string }{
		{direct, "auto", "none"}, {direct, "none", "none"}, {direct, "transaction", "transaction"},
		{pooled, "auto", "transaction"}, {pooled, "transaction", "transaction"},
	} {
		pool, found := open(t, tc.url, tc.pooler)
		if found != tc.want {
			t.Errorf("BATON_POOLER=%s: found %s, want %s", tc.pooler, found, tc.want)
		}
		for range 20 { // prepared statements would fail by the second server session
			if got := one[int](t, pool, "select $1::int", 7); got != 7 {
				t.Errorf("select = %d", got)
			}
		}
	}
	_, _, err = database.Open(t.Context(), database.Options{URL: pooled, Pooler: "none", Connections: 1})
	if err == nil || !strings.Contains(err.Error(), "BATON_POOLER") {
		t.Errorf("a pooler that must not be there: %v, want an error that names BATON_POOLER", err)
	}
}

func TestSessionsCarryTheRelaysNameAndAreReadCommitted(t *testing.T) {
	t.Parallel()
	direct := clustertest.Database(t)
	admin, _ := open(t, direct, "none")
	role := "db_" + strings.ToLower(rand.Text()[:12])
	serializable := "create role " + role + " login; " +
		"alter role " + role + " set default_transaction_isolation = 'serializable'"
	if _, err := admin.Exec(t.Context(), serializable, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "drop role "+role); err != nil { // the test's context has ended
			t.Error(err)
		}
	})
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	pool, _ := open(t, u.String(), "auto")
	if got := one[string](t, pool, "show default_transaction_isolation"); got != "read committed" {
		t.Errorf("isolation = %s, want read committed", got)
	}
	if got := one[string](t, pool, "show application_name"); got != "baton relay test" {
		t.Errorf("application name = %q, want %q", got, "baton relay test")
	}
}

func TestSequenceBehindItsEventsIsFound(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	pool, _ := open(t, url, "none")
	if err := database.Check(t.Context(), pool, "baton"); err != nil {
		t.Errorf("a new outbox: %v", err)
	}
	const ten = `select baton.add('t', i::text, 'Created', '{}'::text) from generate_series(1, 10) i`
	if _, err := pool.Exec(t.Context(), ten); err != nil {
		t.Fatal(err)
	}
	for last, fit := range map[int]bool{10: true, 9: false, 1: false, 100: true} {
		if _, err := pool.Exec(t.Context(), `select setval('baton.position', $1)`, last); err != nil {
			t.Fatal(err)
		}
		err := database.Check(t.Context(), pool, "baton")
		told := errors.Is(err, database.ErrUnfit) && strings.Contains(err.Error(), "behind the events")
		if fit && err != nil || !fit && !told {
			t.Errorf("sequence at %d of 10: %v, want fit = %v", last, err, fit)
		}
	}
}

func TestErrorsThatMayMendThemselvesAreToldApart(t *testing.T) {
	t.Parallel()
	code := func(code string) error { return &pgconn.PgError{Code: code, Message: "message"} }
	for _, tc := range []struct {
		err  error
		away bool
		says string
	}{
		{code("57P01"), true, "stopping or starting"},
		{code("57P03"), true, "stopping or starting"},
		{code("08006"), true, "stopping or starting"},
		{code("53300"), true, "no connection left"},
		{code("28P01"), false, "refuses the password"},
		{code("3D000"), false, "there is no database"},
		{code("42501"), false, "baton migrate grants"},
		{code("25006"), false, "connect to the primary"},
		{code("42703"), false, "message, SQLSTATE 42703"},
		{&net.DNSError{IsNotFound: true, Name: "db.example", Err: "no such host"}, false, "nobody knows the host db.example"},
		{&net.DNSError{IsTimeout: true, Name: "db.example", Err: "time-out"}, true, "does not answer"},
		{io.ErrUnexpectedEOF, true, "does not answer"},
		{context.DeadlineExceeded, true, "does not answer"},
		{context.Canceled, false, "context canceled"},
		{errors.New("something else"), false, "something else"},
	} {
		err := database.Explain(fmt.Errorf("wrapped: %w", tc.err))
		if got := database.Away(err); got != tc.away || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%v: away = %v, %q; want %v and %q", tc.err, got, err, tc.away, tc.says)
		}
		if !errors.Is(err, tc.err) {
			t.Errorf("%v: the cause is lost in %v", tc.err, err)
		}
	}
}

func TestAServerThatAcceptsAndSaysNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	frozen, err := cluster.StartFrozen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(frozen.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, _, err = database.Open(ctx, database.Options{
		URL: "postgres://relay@" + frozen.Addr() + "/shop?sslmode=disable", Pooler: "auto", Connections: 1,
	})
	if !database.Away(err) {
		t.Errorf("Open = %v, want an error that says it is away", err)
	}
}
