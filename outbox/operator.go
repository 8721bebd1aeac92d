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

var (
	// ErrNoWork: the record has no event waiting.
	ErrNoWork = errors.New("outbox: the record has no event waiting")
	// ErrNoRecord: no record can have such a type or key.
	ErrNoRecord = errors.New("outbox: not a record")
)

// countsSQL counts records by state, in one walk over those that have work.
const countsSQL = `
select count(*) filter (where ready_at <= clock and locked_until <= clock),
       count(*) filter (where locked_until > clock),
       count(*) filter (where ready_at > clock and ready_at < 'infinity' and locked_until <= clock),
       count(*) filter (where ready_at = 'infinity'),
       count(*) filter (where token is not null and locked_until <= clock)
  from baton.record, (select clock_timestamp() as clock) c`

// eventsSampleSQL counts the events that wait for some records. Ids are hashes, so that the first of them
// are a fair sample of all. Primary key range for each. $1 records.
const eventsSampleSQL = `
select count(*), coalesce(sum(waits), 0)::bigint
  from (select id, next_position from baton.record order by id limit $1) r
  cross join lateral (select count(*) as waits from baton.event e
                       where e.record = r.id and e.position >= r.next_position) e`

// oldestSQL finds the age of the oldest event that waits for a relay: positions grow with time, so it is among
// the heads of the records that have got least far. Parked records wait for an operator, and are left out.
const oldestSQL = `
select coalesce(extract(epoch from clock_timestamp() - min(e.created_at)), 0)::float8
  from (select id, next_position from baton.record where ready_at < 'infinity' order by next_position limit 100) r
  cross join lateral (select created_at from baton.event e where e.record = r.id and e.position >= r.next_position
                       order by e.position limit 1) e`

// parkedSQL lists parked records with the event at which each stands. Without one the record is named by its
// last event, or by who parked it. $1 limit.
const parkedSQL = `
select r.id, coalesce(head.record_type, past.record_type, act.record_type, ''),
       coalesce(head.record_key, past.record_key, act.record_key, ''),
       coalesce(head.position, 0), coalesce(head.type, ''), head.created_at, r.attempts, coalesce(r.last_error, '')
  from (select * from baton.record where ready_at = 'infinity' order by next_position limit $1) r
  left join lateral (select e.record_type, e.record_key, e.position, e.type, e.created_at from baton.event e
                      where e.record = r.id and e.position >= r.next_position order by e.position limit 1) head on true
  left join lateral (select e.record_type, e.record_key from baton.event e
                      where head.position is null and e.record = r.id order by e.position desc limit 1) past on true
  left join lateral (select a.record_type, a.record_key from baton.audit a
                      where head.position is null and past.record_key is null and a.action = 'park'
                        and baton.record_id(a.record_type, a.record_key) = r.id order by a.id desc limit 1) act on true
 order by r.next_position`

// instancesSQL lists relays seen of late, with the leases that they hold.
const instancesSQL = `
select i.name, i.version, i.pooler, i.started_at, i.seen_at, count(r.id)
  from baton.instance i
  left join baton.record r on r.locked_by = i.id and r.locked_until > clock_timestamp()
 where i.seen_at > clock_timestamp() - interval '10 seconds'
 group by i.id
 order by i.name, i.id`

// Status is what an outbox looks like now.
type Status struct {
	Deferred        int64            `json:"deferred"`         // records due, held by nobody
	Leased          int64            `json:"leased"`           // records held by an instance
	BackingOff      int64            `json:"backing_off"`      // records that wait after a failure
	Parked          int64            `json:"parked"`           // records that wait for an operator
	Stale           int64            `json:"stale"`            // of the deferred, those whose lease ran out
	Events          int64            `json:"events"`           // that wait, those of parked records too
	EventsEstimated bool             `json:"events_estimated"` // from a sample of the records
	OldestSeconds   float64          `json:"oldest_seconds"`   // age of the oldest event that waits for a relay
	Instances       []InstanceStatus `json:"instances"`
	ParkedRecords   []ParkedRecord   `json:"parked_records"` // the first of them
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
	ID         int64      `json:"id,string"`
	RecordType string     `json:"record_type"`
	RecordKey  string     `json:"record_key"`
	Position   int64      `json:"position"`        // of that event, or 0
	Type       string     `json:"type"`            // of that event
	Since      *time.Time `json:"since,omitempty"` // when that event was written
	Attempts   int        `json:"attempts"`
	LastError  string     `json:"last_error"`
}

// eventsSample is how many records' events a Status counts.
const eventsSample = 5000

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

// Status counts records by state and lists instances and parked records, as of one moment. It reads every
// record that has work, and no payload.
func (o *Operator) Status(ctx context.Context) (s Status, err error) {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, o.pool, options, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, o.in(countsSQL)).Scan(&s.Deferred, &s.Leased, &s.BackingOff, &s.Parked, &s.Stale)
		if err != nil {
			return err
		}
		// whatever the statistics say, events are found by their record
		if _, err := tx.Exec(ctx, `set local enable_seqscan = off`); err != nil {
			return err
		}
		if err := o.countEvents(ctx, tx, &s); err != nil {
			return err
		}
		return o.list(ctx, tx, &s)
	})
	if err != nil {
		return Status{}, statusError(err)
	}
	return s, nil
}

func (o *Operator) countEvents(ctx context.Context, tx pgx.Tx, s *Status) error {
	var sampled int64
	if err := tx.QueryRow(ctx, o.in(eventsSampleSQL), eventsSample).Scan(&sampled, &s.Events); err != nil {
		return err
	}
	if records := s.Deferred + s.Leased + s.BackingOff + s.Parked; records > sampled && sampled > 0 {
		s.Events = int64(float64(s.Events) * float64(records) / float64(sampled))
		s.EventsEstimated = true
	}
	return tx.QueryRow(ctx, o.in(oldestSQL)).Scan(&s.OldestSeconds)
}

func (o *Operator) list(ctx context.Context, tx pgx.Tx, s *Status) error {
	rows, err := tx.Query(ctx, o.in(instancesSQL))
	if err != nil {
		return err
	}
	if s.Instances, err = pgx.CollectRows(rows, pgx.RowToStructByPos[InstanceStatus]); err != nil {
		return err
	}
	if rows, err = tx.Query(ctx, o.in(parkedSQL), parkedShown); err != nil {
		return err
	}
	s.ParkedRecords, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ParkedRecord])
	return err
}

func (o *Operator) in(sql string) string { return schema.In(sql, o.schema) }

func statusError(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000") {
		return ErrNotMigrated
	}
	return fmt.Errorf("outbox: status: %w", err)
}

// Park stops a record where it is. Events written from now on wait behind; whoever holds it is fenced.
func (o *Operator) Park(ctx context.Context, r Record, reason string) error {
	return o.act(ctx, "park", r, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, o.in(`select baton.park($1, $2, $3)`), r.Type, r.Key, reason)
		return err
	})
}

// Unpark lets a parked or backing-off record go on at once. The error is ErrNoWork if it had none; then no
// audit row is left.
func (o *Operator) Unpark(ctx context.Context, r Record, reason string) error {
	return o.act(ctx, "unpark", r, func(tx pgx.Tx) error {
		var found bool
		err := tx.QueryRow(ctx, o.in(`select baton.unpark($1, $2, $3)`), r.Type, r.Key, reason).Scan(&found)
		if err == nil && !found {
			return ErrNoWork
		}
		return err
	})
}

// UnparkAll lets every parked record go on whose next event is of a record type, and counts them: a topic
// was mended. The error is ErrNoWork if there was none.
func (o *Operator) UnparkAll(ctx context.Context, recordType, reason string) (n int64, err error) {
	err = o.readCommitted(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, o.in(`select baton.unpark_all($1, $2)`), recordType, reason).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("outbox: unpark all of %s: %w", recordType, err)
	}
	if n == 0 {
		return 0, fmt.Errorf("outbox: unpark all of %s: %w", recordType, ErrNoWork)
	}
	return n, nil
}

// Skip gives up the record's head event: it is never published, and the next one says so in the header
// baton_gap. The record goes on, if it was parked too. It returns the event's position, or ErrNoWork.
func (o *Operator) Skip(ctx context.Context, r Record, reason string) (position int64, err error) {
	err = o.act(ctx, "skip", r, func(tx pgx.Tx) error {
		var skipped *int64
		if err := tx.QueryRow(ctx, o.in(`select baton.skip($1, $2, $3)`), r.Type, r.Key, reason).Scan(&skipped); err != nil {
			return err
		}
		if skipped == nil {
			return ErrNoWork
		}
		position = *skipped
		return nil
	})
	return position, err
}

// AcceptTopic lets relays write a topic with another partition count. Records move to other partitions
// with it: everything must have been consumed before. It returns the count before, or 0.
func (o *Operator) AcceptTopic(ctx context.Context, topic string, partitions int32, reason string) (int32, error) {
	var old *int32
	err := o.readCommitted(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, o.in(`select baton.accept_topic($1, $2, $3)`), topic, partitions, reason).Scan(&old)
	})
	if err != nil {
		return 0, fmt.Errorf("outbox: accept topic %s: %w", topic, err)
	}
	if old == nil {
		return 0, nil
	}
	return *old, nil
}

// act does something to one record.
func (o *Operator) act(ctx context.Context, verb string, r Record, do func(pgx.Tx) error) error {
	if field, reason := r.problem(); field != "" {
		return fmt.Errorf("%w: the %s %s", ErrNoRecord, field, reason)
	}
	if err := o.readCommitted(ctx, do); err != nil {
		return fmt.Errorf("outbox: %s %s %s: %w", verb, r.Type, r.Key, err)
	}
	return nil
}

// readCommitted, whatever the role's default is: the functions look again after they have the gate.
func (o *Operator) readCommitted(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, o.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, do)
}
