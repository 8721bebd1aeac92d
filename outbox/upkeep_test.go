package outbox_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/outbox"
)

var all = lease.Limits{Records: 100, Events: 1000, Bytes: 10 << 20}

// maintain runs a repository's upkeep until the test ends, or the returned function is called.
func maintain(t *testing.T, p *outbox.Postgres) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Maintain(ctx) }()
	var ended atomic.Bool
	stop = func() {
		cancel()
		if ended.CompareAndSwap(false, true) {
			if err := <-done; err != nil {
				t.Errorf("Maintain: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestInstanceIsListedWhileItRuns(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec(`
insert into baton.instance (id, name, version, pooler, seen_at)
values (1, 'gone', 'v0', 'none', now() - interval '2 hours')`)
	names := func() []string {
		return one[[]string](d, `
select coalesce(array_agg(concat_ws(' ', name, version, pooler) order by name), '{}') from baton.instance`)
	}
	p := newPostgres(t, newPool(t, d.role("relay")), outbox.PostgresConfig{Name: "one", Version: "v1", Pooler: "none"})
	stop := maintain(t, p)
	clustertest.Eventually(t, "the instance listed", func() bool { return len(names()) == 2 })
	if diff := cmp.Diff(names(), []string{"gone v0 none", "one v1 none"}); diff != "" {
		t.Errorf("instances (-got +want):\n%s", diff)
	}
	first := one[time.Time](d, "select seen_at from baton.instance where name = 'one'")
	clustertest.Eventually(t, "a second heartbeat", func() bool {
		return one[time.Time](d, "select seen_at from baton.instance where name = 'one'").After(first)
	})
	stop()
	if diff := cmp.Diff(names(), []string{}); diff != "" {
		t.Errorf("instances after it ended, and took a dead one along (-got +want):\n%s", diff)
	}
}

// TestStuckSessionsOfRelaysAreEnded: only sessions of the same role, named as relays', and in a transaction for long.
func TestStuckSessionsOfRelaysAreEnded(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec("select baton.add('shop.order', 'a', 'Updated', 'x')")
	relay := d.role("relay")
	named := func(url, name string) *pgx.Conn {
		conn := connect(t, url)
		if _, err := conn.Exec(t.Context(), "select set_config('application_name', $1, false)", name); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	session := func(url, name string) (pid uint32) {
		conn := named(url, name)
		if _, err := conn.Exec(t.Context(), "begin; select 1 from baton.event"); err != nil {
			t.Fatal(err)
		}
		return conn.PgConn().PID()
	}
	stuck := session(relay, lease.ApplicationName+" frozen")
	others := []uint32{session(relay, "psql"), session(d.url, lease.ApplicationName+" of another role")}
	others = append(others, named(relay, lease.ApplicationName+" in no transaction").PgConn().PID())
	alive := func(pid uint32) bool {
		return one[bool](d, "select exists (select from pg_stat_activity where pid = $1)", pid)
	}

	pool := newPool(t, relay)
	keeper, err := lease.New(pool, lease.Config{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if ended, err := keeper.EndStuck(t.Context(), time.Hour); ended != 0 || err != nil {
		t.Errorf("EndStuck of transactions older than an hour = %d, %v, want none", ended, err)
	}
	maintain(t, newPostgres(t, pool, outbox.PostgresConfig{Name: "one"}))
	clustertest.Eventually(t, "the stuck session ended", func() bool { return !alive(stuck) })
	const ageSQL = `
select extract(epoch from clock_timestamp() - min(xact_start))::float8 from pg_stat_activity where pid = $1`
	if age := one[float64](d, ageSQL, others[0]); age < 2 {
		t.Errorf("the stuck session was ended after %.3f s, want 2 at least", age)
	}
	for _, pid := range others {
		if !alive(pid) {
			t.Errorf("session %d was ended too", pid)
		}
	}
}

// deafConn is a real connection that goes dead when it is told to: what it sends still arrives, and the
// answer does not.
type deafConn struct {
	net.Conn
	deaf *atomic.Bool
}

func (c deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.deaf.Load() {
		c.Conn.Close()
		return 0, errors.New("connection reset by the test")
	}
	return n, err
}

// TestClaimWhoseAnswerWasLostIsReleased: the server took the leases, and nobody knows of them.
func TestClaimWhoseAnswerWasLostIsReleased(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	var deaf atomic.Bool
	config, err := pgxpool.ParseConfig(d.url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if deaf.Load() {
			return nil, errors.New("no route, says the test")
		}
		conn, err := dial(ctx, network, addr)
		return deafConn{conn, &deaf}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	p := newPostgres(t, pool, outbox.PostgresConfig{Lease: time.Hour})

	if _, err := p.Lock(t.Context(), all); err != nil { // connected, and the statements are known
		t.Fatal(err)
	}
	d.exec("select baton.add('shop.order', 'a', 'Updated', 'x')")
	deaf.Store(true)
	if _, err := p.Lock(t.Context(), all); err == nil {
		t.Fatal("Lock without an answer returned no error")
	}
	leased := func() bool { return one[bool](d, "select locked_until > clock_timestamp() from baton.record") }
	clustertest.Eventually(t, "the server took the lease", leased)

	deaf.Store(false)
	maintain(t, p)
	clustertest.Eventually(t, "the lease released, long before its end", func() bool { return !leased() })
	c, err := d.repo(outbox.PostgresConfig{}).Lock(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Records) != 1 || c.Records[0].Claims != 0 || c.Records[0].Stale {
		t.Errorf("claimed = %+v, want one record that no claim is held against", c.Records)
	}
}

// TestLockWhoseReadFailsGivesItsLeasesBack: the claim is committed, and the payloads cannot be read.
func TestLockWhoseReadFailsGivesItsLeasesBack(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec("select baton.add('shop.order', 'a', 'Updated', 'x')")
	relay := d.role("relay")
	pool := newPool(t, relay)
	d.exec("revoke select on baton.gap from " + pool.Config().ConnConfig.User) // of which only the read knows
	p := newPostgres(t, pool, outbox.PostgresConfig{Lease: time.Hour})
	if _, err := p.Lock(t.Context(), all); clustertest.SQLState(err) != denied {
		t.Errorf("Lock error = %v, want code %s", err, denied)
	}
	const backSQL = `
select count(*) from baton.record where token is null and locked_until < clock_timestamp() and claims = 0`
	if got := one[int](d, backSQL); got != 1 {
		t.Errorf("records given back = %d, want 1", got)
	}
}
