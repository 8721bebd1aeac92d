package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"go.opentelemetry.io/otel/propagation"

	"github.com/batonrelay/baton/internal/schema"
)

// addSQL takes the gates of all records, sorted, then numbers and inserts: one round trip for any
// number of events. text[] is cast in the statement, so that every way of executing it (a pooler may
// rule out prepared statements) agrees on the types.
const addSQL = `
select baton.add($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[]::jsonb[], $6::text[]::uuid[])`

// Writer writes events into the outbox of one schema. The zero value writes into the default one.
type Writer struct{ schema string }

// NewWriter checks the schema's name and touches nothing.
func NewWriter(name string) (*Writer, error) {
	if err := schema.Check(name); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return &Writer{schema: name}, nil
}

// Add writes events into the outbox of the default schema, in the caller's transaction, and returns
// their positions. They become visible with its commit and vanish with its rollback. It is right under
// every isolation level and with savepoints.
//
// Until the transaction ends, other writers of the same records wait. Call it once, last, if others
// write several of the same records: gates of several calls are taken in the callers' order, and
// PostgreSQL may answer 40P01 (deadlock_detected), which is retryable.
//
// A bad event is refused with a *FieldError before anything is sent, too many records with
// ErrTooManyGates. The transaction is the caller's to roll back.
func Add(ctx context.Context, tx pgx.Tx, events ...Event) (positions []int64, err error) {
	return (&Writer{}).Add(ctx, tx, events...)
}

// AddSQL is Add for transactions of database/sql on pgx's stdlib driver.
func AddSQL(ctx context.Context, tx *sql.Tx, events ...Event) (positions []int64, err error) {
	return (&Writer{}).AddSQL(ctx, tx, events...)
}

// Add is the function of the same name, for w's schema.
func (w *Writer) Add(ctx context.Context, tx pgx.Tx, events ...Event) (positions []int64, err error) {
	return w.add(ctx, events, func(sql string, args []any) (positions []int64, err error) {
		err = tx.QueryRow(ctx, sql, args...).Scan(&positions)
		return positions, err
	})
}

// AddSQL is the function of the same name, for w's schema.
func (w *Writer) AddSQL(ctx context.Context, tx *sql.Tx, events ...Event) (positions []int64, err error) {
	return w.add(ctx, events, func(sql string, args []any) (positions []int64, err error) {
		err = tx.QueryRowContext(ctx, sql, args...).Scan(pgtype.NewMap().SQLScanner(&positions))
		return positions, err
	})
}

// add sends the events through query, which is all that the drivers differ in.
func (w *Writer) add(ctx context.Context, events []Event, query func(string, []any) ([]int64, error)) ([]int64, error) {
	if len(events) == 0 {
		return nil, nil
	}
	args, err := addArgs(ctx, events)
	if err != nil {
		return nil, err
	}
	name := w.schema
	if name == "" {
		name = schema.Default
	}
	positions, err := query(schema.In(addSQL, name), args)
	if err != nil {
		return nil, addError(len(events), err)
	}
	return positions, nil
}

// addArgs checks the events and turns them into columns.
func addArgs(ctx context.Context, events []Event) ([]any, error) {
	n := len(events)
	recordTypes, recordKeys, types := make([]string, n), make([]string, n), make([]string, n)
	payloads, headers, ids := make([][]byte, n), make([]*string, n), make([]string, n)
	trace := traceHeaders(ctx)
	for i, e := range events {
		e.Headers = withTrace(e.Headers, trace)
		if field, reason := e.problem(); field != "" {
			return nil, &FieldError{Index: i, Field: field, Reason: reason}
		}
		recordTypes[i], recordKeys[i], types[i], payloads[i] = e.Record.Type, e.Record.Key, e.Type, e.Payload
		if len(e.Headers) > 0 {
			b, err := json.Marshal(e.Headers)
			if err != nil {
				return nil, &FieldError{Index: i, Field: "headers", Reason: err.Error()}
			}
			text := string(b)
			headers[i] = &text
		}
		if err := e.identify(); err != nil {
			return nil, err
		}
		ids[i] = e.ID.String()
	}
	return []any{recordTypes, recordKeys, types, payloads, headers, ids}, nil
}

// traceHeaders returns the trace context of ctx in W3C's form; empty where there is none.
func traceHeaders(ctx context.Context) propagation.MapCarrier {
	carrier := propagation.MapCarrier{}
	propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}).Inject(ctx, carrier)
	return carrier
}

// withTrace adds the trace context to an event's headers, unless they have one.
func withTrace(headers map[string]string, trace propagation.MapCarrier) map[string]string {
	if len(trace) == 0 || headers["traceparent"] != "" {
		return headers
	}
	merged := make(map[string]string, len(headers)+len(trace))
	maps.Copy(merged, trace)
	maps.Copy(merged, headers)
	return merged
}

// addError makes what the database refused as typed as what Add refuses itself.
func addError(n int, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return fmt.Errorf("outbox: add %d events: %w", n, err)
	}
	switch {
	case pg.Code == "54000" && pg.ConstraintName == "gates":
		return fmt.Errorf("%w: %s. %s", ErrTooManyGates, pg.Message, pg.Hint)
	case pg.Code == "22023" && pg.ColumnName != "":
		if index, err := strconv.Atoi(pg.Detail); err == nil {
			return &FieldError{Index: index, Field: pg.ColumnName, Reason: pg.Message}
		}
	case pg.Code == "3F000", pg.Code == "42883", pg.Code == "42P01":
		return fmt.Errorf("%w: %w", ErrNotMigrated, err)
	case pg.Code == "42501":
		return fmt.Errorf("outbox: add %d events: this role may not write the outbox, see baton migrate grants --writer: %w",
			n, err)
	}
	return fmt.Errorf("outbox: add %d events: %w", n, err)
}
