package storm

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/lease"
)

// Each known-wrong form again, in two sessions, with a pause where it hurts; and the right form at the same pause.

// pauseSQL makes functions that wait at a barrier: the lock that the test holds. The two-key space is apart from gates.
const pauseSQL = `
create function public.paused_clock() returns timestamptz language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(1, 1);
  return clock_timestamp();
end $$;
create function public.paused_gate(gate bigint) returns boolean language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(1, 1);
  return pg_try_advisory_xact_lock(gate);
end $$`

// pausedClaim waits between its snapshot and the first row.
var pausedClaim = []string{
	"where ready_at <= (select clock_timestamp())", "where ready_at <= (select public.paused_clock())",
}

// patient lets a paused statement wait as long as a slow machine needs.
var patient = []string{
	"'statement_timeout', '2s'", "'statement_timeout', '1min'",
	"'lock_timeout', '500ms'", "'lock_timeout', '1min'",
}

// scene is a database with one record, and what two sessions do with it.
type scene struct {
	t    *testing.T
	url  string
	conn *pgx.Conn // holds the barrier
}

func newScene(t *testing.T) *scene {
	t.Helper()
	url := newDB(t)
	s := &scene{t: t, url: url, conn: connectTo(t, url)}
	exec(t, s.conn, pauseSQL)
	return s
}

// keeper returns one whose statements are changed so.
func (s *scene) keeper(changes ...[]string) *lease.Keeper {
	s.t.Helper()
	pc, err := pgxpool.ParseConfig(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	plant := NewPlant(append(changes, patient)...)
	pc.ConnConfig.Tracer = plant
	pool, err := pgxpool.NewWithConfig(s.t.Context(), pc)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		pool.Close()
		if !plant.Planted() {
			s.t.Error("a change of a statement was never made")
		}
	})
	k, err := lease.New(pool, lease.Config{Lease: time.Minute})
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// add writes an event of the record.
func (s *scene) add(conn interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}) (position int64) {
	s.t.Helper()
	err := conn.QueryRow(s.t.Context(), `select baton.add('storm', 'one', 'Updated', '{}'::text)`).Scan(&position)
	if err != nil {
		s.t.Fatal(err)
	}
	return position
}

func (s *scene) claim(k *lease.Keeper) lease.Claim {
	s.t.Helper()
	c, err := k.Claim(s.t.Context(), lease.Limits{Records: 10, Events: 10, Bytes: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// during runs between while f waits at the barrier, and returns when f has ended.
func (s *scene) during(f func(), between func()) {
	s.t.Helper()
	exec(s.t, s.conn, `select pg_advisory_lock(1, 1)`)
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	for waits := false; !waits; {
		err := s.conn.QueryRow(s.t.Context(), `
select exists (select from pg_locks where locktype = 'advisory' and classid = 1 and objid = 1 and not granted
                  and database = (select oid from pg_database where datname = current_database()))`).Scan(&waits)
		if err != nil {
			s.t.Fatal(err)
		}
		select {
		case <-done:
			s.t.Fatal("the statement did not come to the barrier")
		default:
		}
	}
	between()
	exec(s.t, s.conn, `select pg_advisory_unlock(1, 1)`)
	<-done
}

// held lists the records of a claim whose rows hold its token.
func (s *scene) held(c lease.Claim) (ids []int64) {
	s.t.Helper()
	rows, err := s.conn.Query(s.t.Context(), `select id from baton.record where token = $1 order by id`, c.Token)
	if err == nil {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return ids
}

func ids(c lease.Claim) (list []int64) {
	for _, r := range c.Records {
		list = append(list, r.ID)
	}
	return list
}

// claimOverAnother lets a claim wait between its snapshot and its use, while another session claims and releases.
func claimOverAnother(t *testing.T, changes ...[]string) (handedOut, leased []int64) {
	s := newScene(t)
	s.add(s.conn)
	paused, other := s.keeper(append(changes, pausedClaim)...), s.keeper()
	var c lease.Claim
	s.during(func() { c = s.claim(paused) }, func() {
		o := s.claim(other)
		if len(o.Records) != 1 {
			t.Fatalf("the other session claimed %d records, want 1", len(o.Records))
		}
		release := lease.Release{Held: lease.Held{ID: o.Records[0].ID, Token: o.Token}}
		if err := other.Release(t.Context(), []lease.Release{release}); err != nil {
			t.Fatal(err)
		}
	})
	return ids(c), s.held(c)
}

func TestPausedClaimHandsOutWhatItLeased(t *testing.T) {
	handedOut, leased := claimOverAnother(t)
	if len(handedOut) != 1 {
		t.Errorf("records handed out = %v, want the one", handedOut)
	}
	if diff := cmp.Diff(handedOut, leased); diff != "" {
		t.Errorf("handed out (-), leased (+):\n%s", diff)
	}
}

func TestPausedClaimByCtidHandsOutWithoutALease(t *testing.T) {
	handedOut, leased := claimOverAnother(t, byCtid)
	if len(handedOut) != 1 || len(leased) != 0 {
		t.Errorf("handed out %v, leased %v: want one record without a lease, or this form is not wrong", handedOut, leased)
	}
}

// stranded tells whether the event that write added during an ack of the one before can be claimed after it.
func (s *scene) stranded(k *lease.Keeper, ack func(func()), write func() int64) bool {
	s.t.Helper()
	first := s.add(s.conn)
	c := s.claim(k)
	if len(c.Records) != 1 || c.Records[0].Last != first {
		s.t.Fatalf("claimed %+v, want the event %d", c.Records, first)
	}
	a := lease.Ack{Held: lease.Held{ID: c.Records[0].ID, Token: c.Token}, Last: first}
	ack(func() {
		if err := k.Ack(s.t.Context(), []lease.Ack{a}); err != nil {
			s.t.Error(err)
		}
	})
	second := write()
	c = s.claim(k)
	return len(c.Records) != 1 || c.Records[0].First != second
}

// ackAcrossACommit lets an ack wait before its gate while a writer adds an event and commits.
func ackAcrossACommit(t *testing.T, oldNew ...string) (stranded bool) {
	s := newScene(t)
	replaceFunction(t, s.url, ackFunction, oldNew...)
	replaceFunction(t, s.url, ackFunction, "pg_try_advisory_xact_lock(", "public.paused_gate(")
	writer := connectTo(t, s.url)
	var second int64
	return s.stranded(s.keeper(),
		func(ack func()) { s.during(ack, func() { second = s.add(writer) }) },
		func() int64 { return second })
}

func TestPausedAckStrandsNothing(t *testing.T) {
	if ackAcrossACommit(t) {
		t.Error("the event that was committed during the ack is stranded")
	}
}

func TestPausedAckWithGateAndLookInOneStatementStrandsAnEvent(t *testing.T) {
	if !ackAcrossACommit(t, gateWithLook...) {
		t.Error("nothing is stranded: this form is not wrong, or the pause is in the wrong place")
	}
}

// ackUnderAnOpenWriter acks while a writer that has added an event has not committed.
func ackUnderAnOpenWriter(t *testing.T, oldNew ...string) (stranded bool) {
	s := newScene(t)
	replaceFunction(t, s.url, ackFunction, oldNew...)
	var tx pgx.Tx
	var second int64
	return s.stranded(s.keeper(),
		func(ack func()) {
			var err error
			if tx, err = connectTo(t, s.url).Begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			second = s.add(tx)
			ack()
		},
		func() int64 {
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			return second
		})
}

func TestAckUnderAnOpenWriterStrandsNothing(t *testing.T) {
	if ackUnderAnOpenWriter(t) {
		t.Error("the event of the writer that was open during the ack is stranded")
	}
}

func TestAckWithoutGateUnderAnOpenWriterStrandsAnEvent(t *testing.T) {
	if !ackUnderAnOpenWriter(t, noGate...) {
		t.Error("nothing is stranded: this form is not wrong, or the writer was not open")
	}
}
