package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/schema"
)

// ErrNoWork: the record has no event waiting.
var ErrNoWork = errors.New("outbox: the record has no event waiting")

// countsSQL counts records by state, in one walk over those that have work.
const countsSQL = `
select count(*) filter (where ready_at <= clock and locked_until <= clock),
       count(*) filter (where locked_until > clock),
       count(*) filter (where ready_at > clock and ready_at < 'infinity' and locked_until <= clock),
       count(*) filter (where ready_at = 'infinity'),
       count(*) filter (where token is not null and locked_until <= clock)
  from baton.record, (select clock_timestamp() as clock) c`

// oldestSQL finds the oldest event waiting: positions grow with time, so it is among the heads of the
// records that have got least far.
const oldestSQL = `
select coalesce(extract(epoch from clock_timestamp() - min(e.created_at)), 0)::float8
  from (select id, next_position from baton.record order by next_position limit 100) r
  cross join lateral (select created_at from baton.event e where e.record = r.id and e.position >= r.next_position
                       order by e.position limit 1) e`

// parkedSQL lists parked records with the event at which each stands. $1 limit.
const parkedSQL = `
select coalesce(e.record_type, ''), coalesce(e.record_key, ''), coalesce(e.position, 0), coalesce(e.type, ''), r.attempts, coalesce(r.last_error, '')
  from baton.record r
  left join lateral (select record_type, record_key, position, type from baton.event e
                      where e.record = r.id and e.position >= r.next_position order by e.position limit 1) e on true
 where r.ready_at = 'infinity'
 order by r.next_position limit $1`

// instancesSQL lists relays seen of late, with the leases that they hold.
const instancesSQL = `
select i.name, i.version, i.pooler, i.started_at, i.seen_at,
       (select count(*) from baton.record r where r.locked_by = i.id and r.locked_until > clock_timestamp())
  from baton.instance i
 where i.seen_at > clock_timestamp() - interval '10 seconds'
 order by i.name`

// Status is what an outbox looks like now.
type Status struct {
	Deferred      int64            `json:"deferred"`       // records due, held by nobody
	Leased        int64            `json:"leased"`         // records held by an instance
	BackingOff    int64            `json:"backing_off"`    // records that wait after a failure
	Parked        int64            `json:"parked"`         // records that wait for an operator
	Stale         int64            `json:"stale"`          // of the deferred, those whose lease ran out
	OldestSeconds float64          `json:"oldest_seconds"` // age of the oldest event waiting
	Instances     []InstanceStatus `json:"instances"`
	ParkedRecords []ParkedRecord   `json:"parked_records"` // the first of them
}

// InstanceStatus is one running relay.
type InstanceStatus struct {
	Name      string    `json:"name"`
	Version   string    `json:"version"`
	Pooler    string    `json:"pooler"`
	StartedAt time.Time `json:"started_at"`
	SeenAt    time.Time `json:"seen_at"`
	Leases    int64     `json:"leases"`
}

// ParkedRecord is a parked record and the event at which it stands; without one it is only held back.
type ParkedRecord struct {
	RecordType string `json:"record_type"`
	RecordKey  string `json:"record_key"`
	Position   int64  `json:"position"`
	Type       string `json:"type"`
	Attempts   int    `json:"attempts"`
	LastError  string `json:"last_error"`
}

// parkedShown is how many parked records a Status lists.
const parkedShown = 20

// Operator looks at an outbox and acts on single records. Each act leaves an audit row.
type Operator struct {
	pool   *pgxpool.Pool
	schema string
}

// NewOperator checks the schema's name and touches nothing. "" is the default schema.
func NewOperator(pool *pgxpool.Pool, name string) (*Operator, error) {
	if name == "" {
		name = schema.Default
	}
	if err := schema.Check(name); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return &Operator{pool: pool, schema: name}, nil
}

// Status counts records by state and lists instances and parked records. It reads every record that has work.
func (o *Operator) Status(ctx context.Context) (s Status, err error) {
	err = o.pool.QueryRow(ctx, schema.In(countsSQL, o.schema)).Scan(&s.Deferred, &s.Leased, &s.BackingOff, &s.Parked, &s.Stale)
	if err != nil {
		return s, statusError(err)
	}
	if err := o.pool.QueryRow(ctx, schema.In(oldestSQL, o.schema)).Scan(&s.OldestSeconds); err != nil {
		return s, statusError(err)
	}
	rows, err := o.pool.Query(ctx, schema.In(instancesSQL, o.schema))
	if err != nil {
		return s, statusError(err)
	}
	if s.Instances, err = pgx.CollectRows(rows, pgx.RowToStructByPos[InstanceStatus]); err != nil {
		return s, statusError(err)
	}
	if rows, err = o.pool.Query(ctx, schema.In(parkedSQL, o.schema), parkedShown); err != nil {
		return s, statusError(err)
	}
	if s.ParkedRecords, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ParkedRecord]); err != nil {
		return s, statusError(err)
	}
	return s, nil
}

func statusError(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000") {
		return ErrNotMigrated
	}
	return fmt.Errorf("outbox: status: %w", err)
}

// Park stops a record where it is. Events written from now on wait behind; whoever holds it is fenced.
func (o *Operator) Park(ctx context.Context, r Record, reason string) error {
	return o.act(ctx, "park", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, schema.In(`select baton.park($1, $2, $3)`, o.schema), r.Type, r.Key, reason)
		return err
	})
}

// Unpark lets a parked or backing-off record go on at once. The error is ErrNoWork if it had none.
func (o *Operator) Unpark(ctx context.Context, r Record, reason string) error {
	var found bool
	err := o.act(ctx, "unpark", func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, schema.In(`select baton.unpark($1, $2, $3)`, o.schema), r.Type, r.Key, reason).Scan(&found)
	})
	if err == nil && !found {
		return ErrNoWork
	}
	return err
}

// Skip gives up the record's head event: it is never published, and the next one says so in the header
// baton_gap. It returns the event's position, or ErrNoWork.
func (o *Operator) Skip(ctx context.Context, r Record, reason string) (position int64, err error) {
	var skipped *int64
	err = o.act(ctx, "skip", func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, schema.In(`select baton.skip($1, $2, $3)`, o.schema), r.Type, r.Key, reason).Scan(&skipped)
	})
	if err != nil {
		return 0, err
	}
	if skipped == nil {
		return 0, ErrNoWork
	}
	return *skipped, nil
}

// act runs READ COMMITTED, whatever the role's default is: the functions look again after they have the gate.
func (o *Operator) act(ctx context.Context, verb string, do func(pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, o.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, do)
	if err != nil {
		return fmt.Errorf("outbox: %s: %w", verb, err)
	}
	return nil
}
