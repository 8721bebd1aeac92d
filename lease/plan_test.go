package lease_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
)

// explained is a database whose server tells the plan of every statement that a pool's only session executes, those
// inside functions too, as it is executed: with the statements, arguments and settings of the product.
type explained struct {
	t      testing.TB
	admin  *pgx.Conn
	pool   *pgxpool.Pool
	keeper *lease.Keeper
	mu     sync.Mutex
	told   []string
}

// explainSQL makes the session tell its plans as notices. Plans are generic, as they are after some executions.
const explainSQL = `
load 'auto_explain';
set auto_explain.log_min_duration = 0;
set auto_explain.log_nested_statements = on;
set auto_explain.log_level = notice;
set plan_cache_mode = force_generic_plan;`

func newExplained(t testing.TB, more string) *explained {
	t.Helper()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	e := &explained{t: t}
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	pc.MaxConns = 1
	pc.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.told = append(e.told, n.Message)
	}
	pc.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, explainSQL+more)
		return err
	}
	if e.pool, err = pgxpool.NewWithConfig(t.Context(), pc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.pool.Close)
	if e.keeper, err = lease.New(e.pool, lease.Config{Lease: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if e.admin, err = pgx.Connect(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.admin.Close(context.Background()) }) // t.Context() has ended
	return e
}

func (e *explained) exec(sql string, args ...any) {
	e.t.Helper()
	if _, err := e.admin.Exec(e.t.Context(), sql, args...); err != nil {
		e.t.Fatalf("%s: %v", sql, err)
	}
}

// plans runs f and returns the plans of the statements in it that hold the text.
func (e *explained) plans(text string, f func()) (plans []string) {
	e.t.Helper()
	e.mu.Lock()
	e.told = nil
	e.mu.Unlock()
	f()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, message := range e.told {
		if _, plan, ok := strings.Cut(message, "plan:\n"); ok && strings.Contains(plan, text) {
			plans = append(plans, plan)
		}
	}
	if len(plans) == 0 {
		e.t.Fatalf("no plan of a statement with %q among %d", text, len(e.told))
	}
	return plans
}

// fill writes a backlog of n records with one event each, behind the back of add: statistics are what this is about.
func (e *explained) fill(n int) {
	e.t.Helper()
	e.exec(`
insert into baton.event (record, position, bytes, event_id, record_type, record_key, type, payload)
select i, i, 200, gen_random_uuid(), 'plan', i::text, 'Updated', convert_to(repeat('x', 200), 'UTF8')
  from generate_series(1, $1::int) i`, n)
	e.exec(`
insert into baton.record (id, next_position, ready_at)
select i, i, clock_timestamp() from generate_series(1, $1::int) i`, n)
}

func (e *explained) claim(limits lease.Limits) lease.Claim {
	e.t.Helper()
	c, err := e.keeper.Claim(e.t.Context(), limits)
	if err != nil {
		e.t.Fatal(err)
	}
	if len(c.Records) == 0 {
		e.t.Fatal("nothing was claimed")
	}
	return c
}

// shape is what a plan must and must not hold.
type shape struct {
	name      string
	statement string // a text that only its statement holds
	run       func()
	must      []string
}

// whole is what would read all the backlog, or all records: a table without its index, or an index without a key.
var whole = []*regexp.Regexp{
	regexp.MustCompile(`Seq Scan on (baton\.)?(event|record)\b[^\n]*`),
	regexp.MustCompile(`(event|record)_pkey[^\n]*\n(\s+Filter[^\n]*\n)*\s+(Index Cond: \(+"?position|->|[A-HJ-Z])[^\n]*`),
}

const (
	recordByID   = `Index (Only )?Scan using record_pkey on (baton\.)?record`
	eventByKey   = `Index (Only )?Scan using event_pkey on (baton\.)?event`
	recordsByDue = `LockRows[^\n]*\n\s+->  Index Scan using record_ready on (baton\.)?record`
)

// shapes are the statements of a lease's life.
func (e *explained) shapes() []shape {
	t := e.t
	limits := lease.Limits{Records: 10, Events: 100, Bytes: 1 << 20}
	postgres, err := outbox.NewPostgres(e.pool, outbox.PostgresConfig{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	held := func(c lease.Claim) (list []lease.Held) {
		for _, r := range c.Records {
			list = append(list, lease.Held{ID: r.ID, Token: c.Token})
		}
		return list
	}
	ack := func() {
		c := e.claim(limits)
		// one keeps an event that is newer, so that all statements of the function have work
		e.exec(`
insert into baton.event (record, position, bytes, event_id, record_type, record_key, type)
select $1, nextval('baton.position') + 1000000, 0, gen_random_uuid(), 'plan', 'more', 'Updated'`, c.Records[0].ID)
		var acks []lease.Ack
		for i, h := range held(c) {
			acks = append(acks, lease.Ack{Held: h, Last: c.Records[i].Last})
		}
		if err := e.keeper.Ack(t.Context(), acks); err != nil {
			t.Fatal(err)
		}
	}
	return []shape{
		{"claim", "due as materialized", func() { e.claim(limits) }, []string{recordsByDue, recordByID, eventByKey}},
		{"claim alone", "due as materialized", func() {
			e.exec(`
update baton.record set claims = 2, token = 1 where id = (select min(id) from baton.record where token is null)`)
			alone := limits
			alone.Alone = true
			e.claim(alone)
		}, []string{recordsByDue, recordByID, eventByKey}},
		{"read of events", "e.record_key", func() {
			if _, err := postgres.Lock(t.Context(), limits); err != nil {
				t.Fatal(err)
			}
		}, []string{eventByKey}},
		{"extend", "locked_until > clock_timestamp()", func() {
			if _, err := e.keeper.Extend(t.Context(), held(e.claim(limits))); err != nil {
				t.Fatal(err)
			}
		}, []string{recordByID}},
		{"release", "released as", func() {
			var releases []lease.Release
			for _, h := range held(e.claim(limits)) {
				releases = append(releases, lease.Release{Held: h})
			}
			if err := e.keeper.Release(t.Context(), releases); err != nil {
				t.Fatal(err)
			}
		}, []string{recordByID}},
		{"ack, gates", "pg_try_advisory_xact_lock", ack, []string{eventByKey}},
		{"ack, look again", "unnest(free_ids", ack, []string{eventByKey}},
		{"ack, delete", "with deleted as", ack, []string{recordByID}},
		{"ack, move", "greatest(r.next_position", ack, []string{recordByID}},
	}
}

// checkShapes compares every statement's plan with its shape.
func (e *explained) checkShapes(when string) {
	e.t.Helper()
	for _, s := range e.shapes() {
		for _, plan := range e.plans(s.statement, s.run) {
			for _, w := range whole {
				if bad := w.FindString(plan); bad != "" {
					e.t.Errorf("%s, %s: the plan holds %s:\n%s", when, s.name, bad, plan)
				}
			}
			for _, must := range s.must {
				if !regexp.MustCompile(must).MatchString(plan) {
					e.t.Errorf("%s, %s: the plan does not hold %s:\n%s", when, s.name, must, plan)
				}
			}
		}
	}
}

// backlogRecords are enough that a plan for an empty table would hurt.
const backlogRecords = 100_000

func TestPlansDoNotHangOnStatistics(t *testing.T) {
	quiet := `
alter table baton.event set (autovacuum_enabled = off);
alter table baton.record set (autovacuum_enabled = off)`
	empty := []string{
		`delete from baton.event`, `delete from baton.record`,
		`vacuum (truncate off) baton.event`, `vacuum (truncate off) baton.record`, // each in no transaction
	}
	for _, c := range []struct {
		name    string
		prepare func(*explained)
	}{
		{"never analyzed", func(e *explained) { e.fill(backlogRecords) }},
		{"analyzed when new", func(e *explained) {
			e.exec(`analyze baton.event, baton.record`)
			e.fill(backlogRecords)
		}},
		{"analyzed when emptied", func(e *explained) {
			e.fill(backlogRecords)
			for _, sql := range empty {
				e.exec(sql)
			}
			e.exec(`analyze baton.event, baton.record`)
			e.fill(backlogRecords)
		}},
		{"planned when empty", func(e *explained) {
			e.exec(`analyze baton.event, baton.record`)
			e.fill(100)
			e.checkShapes("when empty")
			e.exec(`truncate baton.event, baton.record`)
			e.fill(backlogRecords)
		}},
		{"fresh", func(e *explained) {
			e.fill(backlogRecords)
			e.exec(`analyze baton.event, baton.record`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newExplained(t, "")
			e.exec(quiet)
			c.prepare(e)
			e.checkShapes(c.name)
		})
	}
}

var buffers = regexp.MustCompile(`Buffers: shared((?: \w+=\d+)*)`)

// buffersPerClaim is the median of several claims: how many pages the statement touched.
func (e *explained) buffersPerClaim() int {
	e.t.Helper()
	limits := lease.Limits{Records: 100, Events: 1000, Bytes: 1 << 20}
	var counts []int
	for range 5 {
		for _, plan := range e.plans("due as materialized", func() { e.claim(limits) }) {
			m := buffers.FindStringSubmatch(plan)
			if m == nil {
				e.t.Fatalf("no buffers in the plan:\n%s", plan)
			}
			n := 0
			for _, kind := range strings.Fields(m[1]) {
				if name, count, _ := strings.Cut(kind, "="); name == "hit" || name == "read" {
					c, err := strconv.Atoi(count)
					if err != nil {
						e.t.Fatal(err)
					}
					n += c
				}
			}
			counts = append(counts, n)
		}
	}
	return median(counts)
}

func TestBuffersOfAClaimDoNotGrowWithTheBacklog(t *testing.T) {
	large, parked, backingOff := 100_000, 10_000, 20_000
	if long() {
		large, parked, backingOff = 1_000_000, 100_000, 200_000
	}
	const analyze = `
set auto_explain.log_analyze = on;
set auto_explain.log_buffers = on;
set auto_explain.log_timing = off;`
	measure := func(n int, more func(*explained)) int {
		e := newExplained(t, analyze)
		e.fill(n)
		more(e)
		return e.buffersPerClaim()
	}
	small := measure(1000, func(*explained) {})
	for _, c := range []struct {
		name string
		got  int
	}{
		{fmt.Sprintf("%d events", large), measure(large, func(*explained) {})},
		{fmt.Sprintf("%d parked and %d backing off", parked, backingOff), measure(1000, func(e *explained) {
			e.exec(`
insert into baton.record (id, next_position, ready_at)
select -i, 1, 'infinity' from generate_series(1, $1::int) i`, parked)
			e.exec(`
insert into baton.record (id, next_position, ready_at)
select -i, 1, clock_timestamp() + interval '1 hour'
  from generate_series($1::int + 1, $1::int + $2::int) i`, parked, backingOff)
		})},
	} {
		ratio := float64(c.got) / float64(small)
		t.Logf("buffers of a claim of 100 records: %d at 1000 events, %d with %s: ratio %.2f", small, c.got, c.name, ratio)
		if ratio > 1.5 {
			t.Errorf("buffers of a claim with %s = %d, want at most 1.5 times the %d of 1000 events", c.name, c.got, small)
		}
	}
}
