package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/schema"
	"github.com/batonrelay/baton/lease"
)

// eventsSQL reads the claimed events, after the claim's commit and outside any lock. Primary key range
// for each record. The gap before a record's first event is read here too: in the claim's own statement
// it would be answered on a snapshot older than the row's lock, and a skip between would go untold.
// $1 ids, $2 firsts, $3 lasts.
const eventsSQL = `
select e.record, e.position, e.created_at, e.event_id, e.record_type, e.record_key, e.type, e.headers::text, e.payload,
       case when e.position = c.first
            then (select max(g.position) from baton.gap g where g.record = c.id and g.position < c.first) end
  from unnest($1::bigint[], $2::bigint[], $3::bigint[]) c(id, first, last)
 cross join lateral (
       select record, position, created_at, event_id, record_type, record_key, type, headers, payload
         from baton.event
        where record = c.id and position between c.first and c.last
       offset 0) e
 order by e.record, e.position`

// eventsPlanSQL goes before it in one flush, which is one transaction: a session that planned the read
// when the outbox was empty would scan all of it for each record until statistics tell it better. For the
// same reason the read of one record is a subquery that is not flattened (offset 0).
const eventsPlanSQL = `select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)`

// piecesBytes bounds one read of payloads.
const piecesBytes = 2 << 20

// PostgresConfig of a Postgres.
type PostgresConfig struct {
	Schema    string        // of the outbox; "" is the default
	Lease     time.Duration // how long a claim holds its records; 0 is 30 s
	Name      string        // of this instance, for people
	Version   string        // of this build, for people
	Pooler    string        // what is known of a pooler before the server, for people: none or transaction
	Retention time.Duration // how long published events stay; 0 is 24 h
	// RetentionEventsPerSecond bounds the deletes; 0 is 20,000.
	RetentionEventsPerSecond int
	// Log; nil is slog.Default().
	Log *slog.Logger
}

// Postgres is the EventRepo in PostgreSQL.
type Postgres struct {
	pool   *pgxpool.Pool
	cfg    PostgresConfig
	keeper *lease.Keeper
	writer *Writer
	id     int64
	events string
	epoch  epoch
	upkeep upkeep
}

// NewPostgres checks cfg and touches nothing. The pool should hold a connection for every consumer and
// worker of the relay, and two more; its connections' application name should begin with
// lease.ApplicationName, so that other relays can end them when they hang.
func NewPostgres(pool *pgxpool.Pool, cfg PostgresConfig) (*Postgres, error) {
	if cfg.Schema == "" {
		cfg.Schema = schema.Default
	}
	if cfg.Lease == 0 {
		cfg.Lease = 30 * time.Second
	}
	if cfg.Retention == 0 {
		cfg.Retention = 24 * time.Hour
	}
	if cfg.RetentionEventsPerSecond == 0 {
		cfg.RetentionEventsPerSecond = 20_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	id := rand.Int64()
	keeper, err := lease.New(pool, lease.Config{Schema: cfg.Schema, Lease: cfg.Lease, Instance: id})
	if err != nil {
		return nil, err
	}
	writer, err := NewWriter(cfg.Schema)
	if err != nil {
		return nil, err
	}
	return &Postgres{
		pool: pool, cfg: cfg, keeper: keeper, writer: writer, id: id,
		events: schema.In(eventsSQL, cfg.Schema),
	}, nil
}

// Lock claims records and reads their events. If the read fails, the leases are given back.
func (p *Postgres) Lock(ctx context.Context, limits lease.Limits) (Claim, error) {
	epoch, err := p.epoch.read(ctx, p.pool)
	if err != nil {
		return Claim{}, err
	}
	claimed, err := p.keeper.Claim(ctx, limits)
	if err != nil {
		p.epoch.forget()              // the connection may be to another server by now
		if !pgconn.SafeToRetry(err) { // it was sent, and may have taken leases
			p.abandon(ctx, claimed.Token)
		}
		return Claim{}, err
	}
	if err := p.trim(ctx, &claimed, limits.Bytes); err != nil {
		p.abandon(ctx, claimed.Token)
		return Claim{}, err
	}
	c := Claim{Claim: claimed, Runs: make([]Run, len(claimed.Records))}
	for i, r := range claimed.Records {
		c.Runs[i] = Run{ID: r.ID, Token: claimed.Token, Epoch: epoch, Deadline: claimed.Until}
	}
	err = p.readEvents(ctx, &c)
	if err == nil {
		err = p.setAside(ctx, &c)
	}
	if err != nil {
		p.abandon(ctx, claimed.Token)
		return Claim{}, err
	}
	return c, nil
}

// trim gives back, before any payload is read, the records whose events would not fit: at least one
// event of each record was claimed, however large. The first record always stays.
func (p *Postgres) trim(ctx context.Context, c *lease.Claim, bytesMax int64) error {
	kept, size := 0, int64(0)
	for kept < len(c.Records) && (kept == 0 || size+c.Records[kept].Bytes <= bytesMax) {
		size += c.Records[kept].Bytes
		kept++
	}
	var back []lease.Release
	for _, r := range c.Records[kept:] {
		back = append(back, lease.Release{Held: lease.Held{ID: r.ID, Token: c.Token}, Attempts: r.Attempts})
	}
	c.Records = c.Records[:kept]
	if len(back) == 0 {
		return nil
	}
	if err := p.keeper.Release(ctx, back); err != nil && !errors.Is(err, lease.ErrLost) {
		return err
	}
	return nil
}

// readEvents reads payloads in pieces bounded by bytes.
func (p *Postgres) readEvents(ctx context.Context, c *Claim) error {
	for from := 0; from < len(c.Records); {
		to, size := from, int64(0)
		for to < len(c.Records) && (to == from || size+c.Records[to].Bytes <= piecesBytes) {
			size += c.Records[to].Bytes
			to++
		}
		if err := p.readPiece(ctx, c, from, to); err != nil {
			return fmt.Errorf("outbox: read events of %d records: %w", to-from, err)
		}
		from = to
	}
	return nil
}

func (p *Postgres) readPiece(ctx context.Context, c *Claim, from, to int) error {
	var ids, firsts, lasts []int64
	index := make(map[int64]int, to-from)
	for i := from; i < to; i++ {
		if r := c.Records[i]; !r.Empty() {
			ids, firsts, lasts = append(ids, r.ID), append(firsts, r.First), append(lasts, r.Last)
			index[r.ID] = i
		}
	}
	if len(ids) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	b.Queue(eventsPlanSQL)
	b.Queue(p.events, ids, firsts, lasts).Query(func(rows pgx.Rows) error { return scanEvents(rows, c.Runs, index) })
	return p.pool.SendBatch(ctx, b).Close()
}

// setAside parks records whose claimed events are not all there: an acknowledgement would lose them.
// Nothing of Baton deletes them; somebody with the owner's rights has.
func (p *Postgres) setAside(ctx context.Context, c *Claim) error {
	var broken []lease.Release
	records, runs := c.Records[:0], c.Runs[:0]
	for i, r := range c.Records {
		events := c.Runs[i].Events
		whole := r.Empty() || len(events) > 0 && events[0].Position == r.First && events[len(events)-1].Position == r.Last
		if whole {
			records, runs = append(records, r), append(runs, c.Runs[i])
			continue
		}
		broken = append(broken, lease.Release{
			Held: lease.Held{ID: r.ID, Token: c.Token}, Attempts: r.Attempts, Park: true,
			Err: fmt.Sprintf("events %d to %d were claimed and are not all there: who deletes from the event table?",
				r.First, r.Last),
		})
	}
	if len(broken) == 0 {
		return nil
	}
	c.Records, c.Runs = records, runs
	p.cfg.Log.ErrorContext(ctx, "records parked: their events are missing",
		"records", len(broken), "reason", broken[0].Err)
	return p.keeper.Release(ctx, broken)
}

// scanEvents adds events to the runs of their records, by index.
func scanEvents(rows pgx.Rows, runs []Run, index map[int64]int) error {
	for rows.Next() {
		var (
			e       Event
			id      int64
			headers *string
			gap     *int64
		)
		err := rows.Scan(&id, &e.Position, &e.CreatedAt, (*[16]byte)(&e.ID), &e.Record.Type, &e.Record.Key, &e.Type,
			&headers, &e.Payload, &gap)
		if err != nil {
			return err
		}
		if e.Headers, err = parseHeaders(headers); err != nil {
			return fmt.Errorf("headers of position %d: %w", e.Position, err)
		}
		run := &runs[index[id]]
		if gap != nil {
			run.Gap = *gap
		}
		run.Events = append(run.Events, e)
	}
	return rows.Err()
}

func parseHeaders(text *string) (map[string]string, error) {
	if text == nil {
		return nil, nil
	}
	var h map[string]string
	err := json.Unmarshal([]byte(*text), &h)
	return h, err
}

// Extend prolongs leases.
func (p *Postgres) Extend(ctx context.Context, held []lease.Held) (time.Time, error) {
	return p.keeper.Extend(ctx, held)
}

// Unlock ends leases with work left.
func (p *Postgres) Unlock(ctx context.Context, releases []lease.Release) error {
	return p.keeper.Release(ctx, releases)
}

// Remove acknowledges.
func (p *Postgres) Remove(ctx context.Context, acks []lease.Ack) error {
	return p.keeper.Ack(ctx, acks)
}

// Add writes events in a transaction of its own.
func (p *Postgres) Add(ctx context.Context, events ...Event) (positions []int64, err error) {
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		positions, err = p.writer.Add(ctx, tx, events...)
		return err
	})
	return positions, err
}
