package lease_test

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
)

// referenceSQL is the shape that was stormed before there was a product: what the product may cost is counted in it.
//
//go:embed testdata/reference.sql
var referenceSQL string

// The claim and the read of events that belong to it. $1 records, $2 token, $3 lease, $4 events of each.
const (
	referenceClaimSQL = `
with due as materialized (
       select id from baton.record
        where ready_at <= (select clock_timestamp()) and locked_until <= (select clock_timestamp())
        order by ready_at limit $1 for update skip locked),
     taken as (update baton.record r
                  set locked_until = clock_timestamp() + $3::interval, token = $2, claims = claims + 1
                 from due where r.id = due.id returning r.id, r.next_position)
select taken.id, e.first, e.last, e.bytes from taken left join lateral (
       select min(position) as first, max(position) as last, sum(bytes) as bytes from
         (select position, bytes from baton.event where record = taken.id and position >= taken.next_position
           order by position limit $4) f) e on true`
	referenceEventsSQL = `
select e.record, e.position, e.created_at, e.record_type, e.record_key, e.type, e.payload
  from unnest($1::bigint[], $2::bigint[], $3::bigint[]) c(id, first, last)
  join baton.event e on e.record = c.id and e.position between c.first and c.last`
)

const (
	claimRecords = 500
	claimEvents  = 10_000
	claimBytes   = 8 << 20
	ackRecords   = 125
	payloadBytes = 200
)

// engine is the product or the reference, on a session of its own.
type engine interface {
	add(ctx context.Context, types, keys, kinds []string, payloads [][]byte, ids []string) error
	claim(ctx context.Context) (events int, err error) // 0 when nothing is due
	ack(ctx context.Context) error                     // everything claimed
	session() *pgxpool.Pool
}

type product struct {
	pool   *pgxpool.Pool
	repo   *outbox.Postgres
	claims []outbox.Claim
}

func (p *product) session() *pgxpool.Pool { return p.pool }

func (p *product) add(ctx context.Context, types, keys, kinds []string, payloads [][]byte, ids []string) error {
	_, err := p.pool.Exec(ctx, `
select baton.add($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[]::jsonb[], $6::text[]::uuid[])`,
		types, keys, kinds, payloads, make([]*string, len(keys)), ids)
	return err
}

func (p *product) claim(ctx context.Context) (events int, err error) {
	c, err := p.repo.Lock(ctx, lease.Limits{Records: claimRecords, Events: claimEvents, Bytes: claimBytes})
	if err != nil || len(c.Runs) == 0 {
		return 0, err
	}
	p.claims = append(p.claims, c)
	for _, r := range c.Runs {
		events += len(r.Events)
	}
	return events, nil
}

func (p *product) ack(ctx context.Context) error {
	for _, c := range p.claims {
		for records := range slices.Chunk(c.Records, ackRecords) {
			var acks []lease.Ack
			for _, r := range records {
				acks = append(acks, lease.Ack{Held: lease.Held{ID: r.ID, Token: c.Token}, Last: r.Last})
			}
			if err := p.repo.Remove(ctx, acks); err != nil {
				return err
			}
		}
	}
	p.claims = nil
	return nil
}

type reference struct {
	pool   *pgxpool.Pool
	claims []referenceClaim
	token  int64
	each   int // events of each record in a claim
}

type referenceClaim struct {
	token              int64
	ids, firsts, lasts []int64
}

func (r *reference) session() *pgxpool.Pool { return r.pool }

func (r *reference) add(ctx context.Context, types, keys, kinds []string, payloads [][]byte, _ []string) error {
	_, err := r.pool.Exec(ctx, `select baton.add($1, $2, $3, $4)`, types, keys, kinds, payloads)
	return err
}

// transact sends one statement with its BEGIN and COMMIT in one flush, as the product does.
func (r *reference) transact(ctx context.Context, scan func(pgx.Rows) error, sql string, args ...any) error {
	b := &pgx.Batch{}
	b.Queue(`begin isolation level read committed read write`)
	b.Queue(sql, args...).Query(scan)
	b.Queue(`commit`)
	return r.pool.SendBatch(ctx, b).Close()
}

func (r *reference) claim(ctx context.Context) (events int, err error) {
	r.token++
	c := referenceClaim{token: r.token}
	err = r.transact(ctx, func(rows pgx.Rows) error {
		var id, first, last, size int64
		_, err := pgx.ForEachRow(rows, []any{&id, &first, &last, &size}, func() error {
			c.ids, c.firsts, c.lasts = append(c.ids, id), append(c.firsts, first), append(c.lasts, last)
			return nil
		})
		return err
	}, referenceClaimSQL, claimRecords, c.token, time.Minute, r.each)
	if err != nil || len(c.ids) == 0 {
		return 0, err
	}
	r.claims = append(r.claims, c)
	rows, err := r.pool.Query(ctx, referenceEventsSQL, c.ids, c.firsts, c.lasts)
	if err != nil {
		return 0, err
	}
	for rows.Next() {
		events++
	}
	return events, rows.Err()
}

func (r *reference) ack(ctx context.Context) error {
	for _, c := range r.claims {
		for from := 0; from < len(c.ids); from += ackRecords {
			to := min(from+ackRecords, len(c.ids))
			scan := func(rows pgx.Rows) error { rows.Close(); return rows.Err() }
			err := r.transact(ctx, scan, `select baton.ack($1, $2, $3)`, c.ids[from:to], c.lasts[from:to], c.token)
			if err != nil {
				return err
			}
		}
	}
	r.claims = nil
	return nil
}

// onePool has one session: its CPU is the engine's.
func onePool(b *testing.B, url string) *pgxpool.Pool {
	b.Helper()
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		b.Fatal(err)
	}
	pc.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(b.Context(), pc)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	return pool
}

func newProduct(b *testing.B) *product {
	b.Helper()
	url := clustertest.Database(b)
	if err := migrations.Up(b.Context(), url, migrations.Options{}); err != nil {
		b.Fatal(err)
	}
	pool := onePool(b, url)
	repo, err := outbox.NewPostgres(pool, outbox.PostgresConfig{Lease: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	return &product{pool: pool, repo: repo}
}

func newReference(b *testing.B, each int) *reference {
	b.Helper()
	pool := onePool(b, clustertest.Database(b))
	if _, err := pool.Exec(b.Context(), referenceSQL); err != nil {
		b.Fatal(err)
	}
	return &reference{pool: pool, each: each}
}

// cpu is the time that the engine's session has been on a CPU, by the kernel's count of nanoseconds.
func cpu(b *testing.B, e engine) time.Duration {
	b.Helper()
	var pid int
	if err := e.session().QueryRow(b.Context(), `select pg_backend_pid()`).Scan(&pid); err != nil {
		b.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		b.Fatalf("the server's CPU time can be read on Linux only, where the server runs: %v", err)
	}
	ns, _, _ := bytes.Cut(stat, []byte(" "))
	n, err := strconv.ParseInt(string(ns), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(n)
}

// load is what a round writes.
type load struct {
	records, each int // each record gets so many events
	call          int // records in one call of add
	eachCall      int // events of each in one call
}

func (l load) events() int { return l.records * l.each }

// add writes the load in transactions of one call.
func (l load) add(ctx context.Context, e engine, round int) error {
	n := l.call * l.eachCall
	types, keys, kinds, ids := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	payloads := make([][]byte, n)
	for i := range n {
		types[i], kinds[i], payloads[i] = "shop.order", "Updated", bytes.Repeat([]byte{'x'}, payloadBytes)
	}
	for from := 0; from < l.records; from += l.call {
		for done := 0; done < l.each; done += l.eachCall {
			for i := range n {
				keys[i], ids[i] = fmt.Sprintf("%d-%d", round, from+i%l.call), uuid.Must(uuid.NewV7()).String()
			}
			if err := e.add(ctx, types, keys, kinds, payloads, ids); err != nil {
				return err
			}
		}
	}
	return nil
}

func claimAll(ctx context.Context, e engine, events int) error {
	for events > 0 {
		n, err := e.claim(ctx)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%d events were not claimed", events)
		}
		events -= n
	}
	return nil
}

// drain claims and acks in turn, where one claim does not bring everything of a record.
func drain(ctx context.Context, e engine) error {
	for {
		n, err := e.claim(ctx)
		if n == 0 || err != nil {
			return errors.Join(err, e.ack(ctx))
		}
		if err := e.ack(ctx); err != nil {
			return err
		}
	}
}

// BenchmarkServerCPU tells PostgreSQL's CPU time per event, of the session that does the work, for the product and for
// the reference in the same run, in turns; and their ratio.
func BenchmarkServerCPU(b *testing.B) {
	for _, c := range []struct {
		name string
		load load
	}{
		{"3_a_record", load{records: 6000, each: 3, call: 50, eachCall: 3}},
		{"one_each", load{records: 10_000, each: 1, call: 100, eachCall: 1}},
		{"100_hot", load{records: 100, each: 100, call: 100, eachCall: 2}},
	} {
		b.Run(c.name, func(b *testing.B) { compare(b, c.load) })
	}
}

func compare(b *testing.B, l load) {
	engines := []engine{newProduct(b), newReference(b, max(20, l.each))}
	phases := []string{"add", "claim", "ack"}
	spent := make([][3]time.Duration, len(engines))
	ctx, rounds := b.Context(), 0
	for b.Loop() {
		for _, e := range engines { // warm, and with what autovacuum leaves of the rounds before
			if _, err := e.session().Exec(ctx, `vacuum analyze baton.event, baton.record`); err != nil {
				b.Fatal(err)
			}
		}
		for phase, run := range []func(engine) error{
			func(e engine) error { return l.add(ctx, e, rounds) },
			func(e engine) error { return claimAll(ctx, e, l.events()) },
			func(e engine) error { return e.ack(ctx) },
		} {
			for i := range engines {
				i = (i + rounds) % len(engines)
				before := cpu(b, engines[i])
				if err := run(engines[i]); err != nil {
					b.Fatalf("%s: %v", phases[phase], err)
				}
				spent[i][phase] += cpu(b, engines[i]) - before
			}
		}
		for _, e := range engines {
			if err := drain(ctx, e); err != nil {
				b.Fatal(err)
			}
		}
		rounds++
	}
	perEvent := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(rounds*l.events()) }
	var whole [2]time.Duration
	for phase, name := range phases {
		b.ReportMetric(perEvent(spent[0][phase]), name+"-pg-µs/event")
		b.ReportMetric(float64(spent[0][phase])/float64(spent[1][phase]), name+"-ratio")
		whole[0], whole[1] = whole[0]+spent[0][phase], whole[1]+spent[1][phase]
	}
	b.ReportMetric(perEvent(whole[0]), "pg-µs/event")
	b.ReportMetric(perEvent(whole[1]), "reference-pg-µs/event")
	b.ReportMetric(float64(whole[0])/float64(whole[1]), "ratio")
	b.ReportMetric(0, "ns/op")
}

func long() bool { return os.Getenv("BATON_LONG") == "1" }

func median[T int | float64](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}
